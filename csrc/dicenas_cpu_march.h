// Padded planes, and the walk of a filter over them. Included by dicenas_cpu_kernels.h.

// Where the padded planes of an image lie: `row` elements from row to row, `plane` from channel to channel, `origin`
// from the start of a plane to its element (0, 0).
struct Planes {
  int64_t h, w, row, plane, origin;

  Planes(int64_t height, int64_t width, int64_t reach) : h(height), w(width) {
    row = round_up(width + reach, LANES);
    origin = reach * row + LANES;
    plane = round_up(origin + (height + reach) * row + LANES, LANES);
    if (plane % 256 == 0) plane += 16;  // walking over channels would meet one set of the cache only
  }

  // Vectors of a row for results in padded memory, which may cross into the padding, ...
  int64_t aligned_vectors() const { return (w + LANES - 1) / LANES; }
  static int64_t aligned_start(int64_t index) { return index * LANES; }
  // ... and for results in a tensor: the last one is moved left and computes some elements again.
  int64_t tensor_start(int64_t index) const {
    const int64_t start = index * LANES;
    return start + LANES <= w || w < LANES ? start : w - LANES;
  }
};

// Stores vectors in planes of a tensor, rows in ascending order: a row narrower than a vector spills into the rows
// after it, which are stored later, and only near the end of the plane has to stop at its last element.
template <class T>
struct PlaneStore {
  T* plane;
  int64_t w, size;

  template <class V>
  void operator()(int64_t offset, V v) const {
    if (offset + LANES <= size) store(plane + offset, v);
    else store_first(plane + offset, v, w < LANES ? w : LANES);
  }
};

// The same position of one plane after another.
template <class T>
struct ColumnStore {
  T* at;
  int64_t size, count;

  ColumnStore(T* plane, int64_t offset, int64_t w, int64_t plane_size)
      : at(plane + offset), size(plane_size), count(offset + LANES <= plane_size ? LANES : w) {}

  void operator()(int64_t plane, Vector v) const {
    if (count >= LANES) store(at + plane * size, v);
    else store_first(at + plane * size, v, count);
  }
};

template <class S>
static void zero_padding(S* plane, const Planes& g) {
  const int64_t end = g.origin + g.h * g.row;
  memset(plane, 0, g.origin * sizeof(S));
  memset(plane + end, 0, (g.plane - end) * sizeof(S));
  S* out = plane + g.origin + g.w;
  for (int64_t y = 0; y < g.h; ++y, out += g.row)
    for (int64_t i = 0; i < g.row - g.w; ++i) out[i] = 0;
}

// A tensor to read planes from: one image.
template <class T>
struct Image {
  const T* data;
  const T* end;  // behind the last element of the whole tensor
  int64_t channels, stride_c, stride_h, stride_w;
};

template <class T>
static Image<T> image_of(const Problem& a, int64_t n) {
  const T* data = (const T*)a.x;
  const T* end = data + (a.n - 1) * a.stride_n + (a.c - 1) * a.stride_c + (a.h - 1) * a.stride_h +
                 (a.w - 1) * a.stride_w + 1;
  return {data + n * a.stride_n, end, a.c, a.stride_c, a.stride_h, a.stride_w};
}

// Fills the inside of a plane whose padding is zero.
template <class S, class T>
static void load_plane(S* out, const Planes& g, const Image<T>& image, int64_t c) {
  const T* in = image.data + c * image.stride_c;
  const int64_t w = g.w;
  Pack<S> inside;
  for (int i = 0; i < LANES; ++i) inside[i] = i < w ? 1 : 0;
  out += g.origin;
  for (int64_t y = 0; y < g.h; ++y, out += g.row, in += image.stride_h) {
    if (image.stride_w != 1) {
      for (int64_t i = 0; i < w; ++i) out[i] = to_float(in[i * image.stride_w]);
    } else if (w >= LANES) {
      for (int64_t i = 0; i + LANES <= w; i += LANES) store(out + i, load(in + i));
      store(out + w - LANES, load(in + w - LANES));
    } else if (in + LANES <= image.end) {
      store(out, inside > 0 ? load(in) : Pack<S>{});  // what follows the row is there to be read, but not wanted
    } else {
      for (int64_t i = 0; i < w; ++i) out[i] = to_float(in[i]);
    }
  }
}

// Fills planes first .. last - 1 of an image; those outside its channels are zero.
template <class T>
static void load_planes(float* out, const Planes& g, const Image<T>& image, int64_t first, int64_t last) {
  for (int64_t c = first; c < last; ++c, out += g.plane) {
    if (c < 0 || c >= image.channels) memset(out, 0, g.plane * sizeof(float));
    else load_plane(out, g, image, c);
  }
}

static float* padded_planes(float* memory, const Planes& g, int64_t count) {
  for (int64_t i = 0; i < count; ++i) zero_padding(memory + i * g.plane, g);
  return memory;
}

// Calls emit(p, result) for p = 0 .. count - 1 with
//   result = bias + sum over i, j in 0 .. K - 1 of weight[i * K + j] * x[(p + i - R) * step + (j - R) * tap].
template <int K, class S, class V, class Emit>
static inline __attribute__((always_inline)) void march(const S* x, int64_t step, int64_t tap, const V* weights, V bias,
                                                        int64_t count, Emit emit) {
  constexpr int R = K / 2;
  V weight[K * K];
  for (int i = 0; i < K * K; ++i) weight[i] = weights[i];
  V partial[K];  // partial[i]: the result that the current position meets with row i of the filter
  x -= R * step;
#pragma GCC unroll 8
  for (int t = 0; t < K - 1; ++t, x += step) {
#pragma GCC unroll 8
    for (int i = t; i > 0; --i) partial[i] = partial[i - 1];
    partial[0] = bias;
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) {
      const V v = load(x + (j - R) * tap);
#pragma GCC unroll 8
      for (int i = 0; i <= t; ++i) partial[i] += weight[i * K + j] * v;
    }
  }
  for (int64_t p = 0; p < count; ++p, x += step) {
#pragma GCC unroll 8
    for (int i = K - 1; i > 0; --i) partial[i] = partial[i - 1];
    partial[0] = bias;
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) {
      const V v = load(x + (j - R) * tap);
#pragma GCC unroll 8
      for (int i = 0; i < K; ++i) partial[i] += weight[i * K + j] * v;
    }
    emit(p, partial[K - 1]);
  }
}

// The gradient of march's filter: sums[i * K + j] += grad[p * step] * x[(p + i - R) * step + (j - R) * tap].
template <int K, class S, class V>
static inline __attribute__((always_inline)) void correlate(const S* x, const S* grad, int64_t step, int64_t tap,
                                                            int64_t count, V* sums) {
  constexpr int R = K / 2;
  V sum[K * K];
  for (int i = 0; i < K * K; ++i) sum[i] = sums[i];
  V g[K];  // g[i]: the gradient that meets the current position with row i of the filter
#pragma GCC unroll 8
  for (int i = 0; i < K; ++i) g[i] = V{};
  x -= R * step;
  for (int64_t p = 0; p < count + K - 1; ++p, x += step) {
#pragma GCC unroll 8
    for (int i = K - 1; i > 0; --i) g[i] = g[i - 1];
    g[0] = p < count ? load(grad + p * step) : V{};
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) {
      const V v = load(x + (j - R) * tap);
#pragma GCC unroll 8
      for (int i = 0; i < K; ++i) sum[i * K + j] += g[i] * v;
    }
  }
  for (int i = 0; i < K * K; ++i) sums[i] = sum[i];
}

template <int K, class S, class V>
static inline void broadcast_filter(V* out, const S* filter, float scale) {
  for (int i = 0; i < K * K; ++i) out[i] = broadcast(filter[i] * scale);
}

// The width-wise filters of LANES columns from `start` on. They are stored as (k, k, w), padded by LANES columns.
template <int K>
static inline void column_filters(Vector* out, const float* filters, int64_t columns, int64_t start) {
  for (int i = 0; i < K * K; ++i) out[i] = load(filters + i * columns + start);
}

enum Axis { ROWS, COLUMNS };

// LANES elements, from column `start` on, of row h of a plane whose rows or columns are resized.
template <Axis AXIS>
static inline Vector resized(const float* plane, int64_t row, const Resize& r, int64_t h, int64_t start) {
  Vector sum{};
  if (AXIS == ROWS) {
    plane += r.first[h] * row + start;
    for (int64_t t = 0; t < r.taps; ++t, plane += row) sum += broadcast(r.weights[t * r.stride + h]) * load(plane);
    return sum;
  }
  const int32_t* const first = r.first + start;
  plane += h * row;
  for (int64_t t = 0; t < r.taps; ++t, ++plane) {
    Vector v;
    for (int i = 0; i < LANES; ++i) v[i] = plane[first[i]];
    sum += load(r.weights + t * r.stride + start) * v;
  }
  return sum;
}

// Resizes the insides of `count` planes. Padding stays zero where it was: weights behind the last column are.
template <Axis AXIS>
static void resize_planes(const float* in, const Planes& from, float* out, const Planes& to, const Resize& r,
                          int64_t count) {
  in += from.origin;
  out += to.origin;
  for (int64_t c = 0; c < count; ++c, in += from.plane, out += to.plane)
    for (int64_t h = 0; h < to.h; ++h)
      for (int64_t i = 0; i < to.aligned_vectors(); ++i) {
        const int64_t start = to.aligned_start(i);
        store(out + h * to.row + start, resized<AXIS>(in, from.row, r, h, start));
      }
}
