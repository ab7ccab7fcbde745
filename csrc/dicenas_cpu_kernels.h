// The CPU kernels, compiled once for each instruction set: dicenas_cpu.cpp includes this file several times, inside
// a namespace of its own, with LANES set. No include guard for that reason.
//
// Every branch of the dimension-wise convolution, its gradients and the depth-wise convolution are one routine,
// `march`: a k x k filter slides over a plane whose two axes are any two of (C, H, W). It walks along one axis with
// the filter and k partial results in registers, so that an input value is loaded k times for its k * k products.
//   branch          walks over   taps along   filter
//   channel-wise    h            w            one a channel
//   height-wise     c            w            one a row
//   width-wise      c            h            one a column: a vector of filters
// Planes are copied into zero-padded scratch memory first, as float32; a row's right padding is the left padding of
// the row after it.

typedef float Vector __attribute__((vector_size(LANES * 4)));

static inline Vector broadcast(float value) { return value - Vector{}; }

static inline Vector load(const float* p) {
  Vector v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

static inline void store(float* p, Vector v) { __builtin_memcpy(p, &v, sizeof v); }

static inline Vector load(const BFloat16* p) {
  typedef uint16_t Half __attribute__((vector_size(LANES * 2)));
  typedef uint32_t Word __attribute__((vector_size(LANES * 4)));
  Half bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return (Vector)(__builtin_convertvector(bits, Word) << 16);
}

static inline void store(BFloat16* p, Vector v) {
  typedef uint16_t Half __attribute__((vector_size(LANES * 2)));
  typedef uint32_t Word __attribute__((vector_size(LANES * 4)));
  Word bits = (Word)v;
  const Word rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  bits = v == v ? rounded : (bits >> 16) | 0x40;
  const Half half = __builtin_convertvector(bits, Half);
  __builtin_memcpy(p, &half, sizeof half);
}

static inline Vector load(const Float16* p) {
  Vector v;
#ifdef __F16C__
  for (int i = 0; i < LANES; i += 8) {
    const __m256 eight = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + i)));
    __builtin_memcpy((float*)&v + i, &eight, sizeof eight);
  }
#else
  for (int i = 0; i < LANES; ++i) v[i] = to_float(p[i]);
#endif
  return v;
}

static inline void store(Float16* p, Vector v) {
#ifdef __F16C__
  for (int i = 0; i < LANES; i += 8) {
    __m256 eight;
    __builtin_memcpy(&eight, (const float*)&v + i, sizeof eight);
    _mm_storeu_si128((__m128i*)(p + i), _mm256_cvtps_ph(eight, _MM_FROUND_TO_NEAREST_INT));
  }
#else
  for (int i = 0; i < LANES; ++i) p[i] = from_float<Float16>(v[i]);
#endif
}

template <class T>
static inline void store_first(T* p, Vector v, int64_t count) {
  constexpr int HALF = LANES / 2;
  T all[LANES];
  store(all, v);
  if (count < HALF) {
    for (int64_t i = 0; i < count; ++i) p[i] = all[i];
    return;
  }
  // Two halves that overlap.
  __builtin_memcpy(p, all, sizeof all / 2);
  __builtin_memcpy(p + count - HALF, all + count - HALF, sizeof all / 2);
}

// weight * prelu(v, slope), with `negative` = weight * slope. By the sign bit, which costs one instruction where there
// is one for it; zeros of either sign and NaN give the same product.
static inline Vector weighted_prelu(Vector v, Vector weight, Vector negative) {
#if defined(__AVX__) && LANES == 8
  return v * (Vector)_mm256_blendv_ps((__m256)weight, (__m256)negative, (__m256)v);
#else
  return v * (v > 0 ? weight : negative);
#endif
}

static inline float sum_lanes(Vector v) {
  float total = 0;
  for (int i = 0; i < LANES; ++i) total += v[i];
  return total;
}

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

  void operator()(int64_t offset, Vector v) const {
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

static void zero_padding(float* plane, const Planes& g) {
  const int64_t end = g.origin + g.h * g.row;
  memset(plane, 0, g.origin * sizeof(float));
  memset(plane + end, 0, (g.plane - end) * sizeof(float));
  float* out = plane + g.origin + g.w;
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
template <class T>
static void load_plane(float* out, const Planes& g, const Image<T>& image, int64_t c) {
  const T* in = image.data + c * image.stride_c;
  const int64_t w = g.w;
  Vector inside;
  for (int i = 0; i < LANES; ++i) inside[i] = i < w ? 1.0f : 0.0f;
  out += g.origin;
  for (int64_t y = 0; y < g.h; ++y, out += g.row, in += image.stride_h) {
    if (image.stride_w != 1) {
      for (int64_t i = 0; i < w; ++i) out[i] = to_float(in[i * image.stride_w]);
    } else if (w >= LANES) {
      for (int64_t i = 0; i + LANES <= w; i += LANES) store(out + i, load(in + i));
      store(out + w - LANES, load(in + w - LANES));
    } else if (in + LANES <= image.end) {
      store(out, inside > 0 ? load(in) : Vector{});  // what follows the row is there to be read, but not wanted
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
template <int K, class Emit>
static inline __attribute__((always_inline)) void march(const float* x, int64_t step, int64_t tap,
                                                        const Vector* weights, Vector bias, int64_t count, Emit emit) {
  constexpr int R = K / 2;
  Vector weight[K * K];
  for (int i = 0; i < K * K; ++i) weight[i] = weights[i];
  Vector partial[K];  // partial[i]: the result that the current position meets with row i of the filter
  x -= R * step;
#pragma GCC unroll 8
  for (int t = 0; t < K - 1; ++t, x += step) {
#pragma GCC unroll 8
    for (int i = t; i > 0; --i) partial[i] = partial[i - 1];
    partial[0] = bias;
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) {
      const Vector v = load(x + (j - R) * tap);
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
      const Vector v = load(x + (j - R) * tap);
#pragma GCC unroll 8
      for (int i = 0; i < K; ++i) partial[i] += weight[i * K + j] * v;
    }
    emit(p, partial[K - 1]);
  }
}

// The gradient of march's filter: sums[i * K + j] += grad[p * step] * x[(p + i - R) * step + (j - R) * tap].
template <int K>
static inline __attribute__((always_inline)) void correlate(const float* x, const float* grad, int64_t step,
                                                            int64_t tap, int64_t count, Vector* sums) {
  constexpr int R = K / 2;
  Vector sum[K * K];
  for (int i = 0; i < K * K; ++i) sum[i] = sums[i];
  Vector g[K];  // g[i]: the gradient that meets the current position with row i of the filter
#pragma GCC unroll 8
  for (int i = 0; i < K; ++i) g[i] = Vector{};
  x -= R * step;
  for (int64_t p = 0; p < count + K - 1; ++p, x += step) {
#pragma GCC unroll 8
    for (int i = K - 1; i > 0; --i) g[i] = g[i - 1];
    g[0] = p < count ? load(grad + p * step) : Vector{};
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) {
      const Vector v = load(x + (j - R) * tap);
#pragma GCC unroll 8
      for (int i = 0; i < K; ++i) sum[i * K + j] += g[i] * v;
    }
  }
  for (int i = 0; i < K * K; ++i) sums[i] = sum[i];
}

template <int K>
static inline void broadcast_filter(Vector* out, const float* filter, float scale) {
  for (int i = 0; i < K * K; ++i) out[i] = broadcast(filter[i] * scale);
}

// The width-wise filters of LANES columns from `start` on. They are stored as (k, k, w), padded by LANES columns.
template <int K>
static inline void column_filters(Vector* out, const float* filters, int64_t columns, int64_t start) {
  for (int i = 0; i < K * K; ++i) out[i] = load(filters + i * columns + start);
}

template <class T, int K>
static void dim_conv_chunk(const Problem& a, const Planes& g, const float* planes, T* y, int64_t first, int64_t count) {
  const int64_t size = a.h * a.w, branch = a.c * size, row = a.w, vectors = g.aligned_vectors();
  Vector filter[K * K];
  y += first * size;
  for (int64_t c = 0; c < count; ++c) {
    broadcast_filter<K>(filter, a.weight_channel + (first + c) * K * K, 1);
    for (int64_t i = 0; i < vectors; ++i) {
      const int64_t start = g.tensor_start(i);
      const PlaneStore<T> put{y + c * size, row, size};
      march<K>(planes + c * g.plane + start, g.row, 1, filter, Vector{}, g.h,
               [=](int64_t h, Vector v) { put(h * row + start, v); });
    }
  }
  for (int64_t h = 0; h < g.h; ++h) {
    for (int64_t i = 0; i < vectors; ++i) {
      const int64_t start = g.tensor_start(i);
      const float* at = planes + h * g.row + start;
      const ColumnStore<T> put_h(y + branch, h * row + start, row, size);
      broadcast_filter<K>(filter, a.weight_height + h * K * K, 1);
      march<K>(at, g.plane, 1, filter, Vector{}, count, [=](int64_t c, Vector v) { put_h(c, v); });
      const ColumnStore<T> put_w(y + 2 * branch, h * row + start, row, size);
      column_filters<K>(filter, a.column_filters, a.columns, start);
      march<K>(at, g.plane, g.row, filter, Vector{}, count, [=](int64_t c, Vector v) { put_w(c, v); });
    }
  }
}

// Convolution and local fusion of a chunk of channels. `place(h, start)` gives the function that takes results (c, v)
// of that row and column, rows in ascending order; `fused` holds a padded plane for each channel of the chunk.
template <int K, class Place>
static inline __attribute__((always_inline)) void local_chunk(const Problem& a, const Planes& g, const float* planes,
                                                              float* fused, int64_t first, int64_t count, Place place) {
  Vector filter[K * K];
  const Local* local = a.local + first;
  const int64_t vectors = g.aligned_vectors(), plane = g.plane, row = g.row;
  for (int64_t c = 0; c < count; ++c) {
    const Local& k = local[c];
    broadcast_filter<K>(filter, a.weight_channel + (first + c) * K * K, k.scale[0]);
    const Vector weight = broadcast(k.weight[0]), negative = broadcast(k.negative[0]), shift = broadcast(k.shift_out);
    for (int64_t i = 0; i < vectors; ++i) {
      const int64_t at = c * plane + g.aligned_start(i);
      march<K>(planes + at, row, 1, filter, broadcast(k.shift[0]), g.h,
               [=](int64_t h, Vector v) { store(fused + at + h * row, weighted_prelu(v, weight, negative) + shift); });
    }
  }
  for (int64_t h = 0; h < g.h; ++h) {
    broadcast_filter<K>(filter, a.weight_height + h * K * K, 1);
    for (int64_t i = 0; i < vectors; ++i) {
      const int64_t at = h * row + g.aligned_start(i);
      march<K>(planes + at, plane, 1, filter, Vector{}, count, [=](int64_t c, Vector v) {
        const Local& k = local[c];
        float* out = fused + at + c * plane;
        v = v * broadcast(k.scale[1]) + broadcast(k.shift[1]);
        store(out, load(out) + weighted_prelu(v, broadcast(k.weight[1]), broadcast(k.negative[1])));
      });
    }
    for (int64_t i = 0; i < vectors; ++i) {
      const int64_t start = g.tensor_start(i), at = h * row + start;
      const auto put = place(h, start);
      column_filters<K>(filter, a.column_filters, a.columns, start);
      march<K>(planes + at, plane, row, filter, Vector{}, count, [=](int64_t c, Vector v) {
        const Local& k = local[c];
        v = v * broadcast(k.scale[2]) + broadcast(k.shift[2]);
        v = load(fused + at + c * plane) + weighted_prelu(v, broadcast(k.weight[2]), broadcast(k.negative[2]));
        put(c, weighted_prelu(v, broadcast(1), broadcast(k.slope_out)));
      });
    }
  }
}

// Chunks begin .. end - 1 of the images' channels.
template <class T, int K>
static void dim_conv_items(const Problem& a, int64_t begin, int64_t end) {
  constexpr int R = K / 2;
  const Planes g(a.h, a.w, R);
  float* planes = padded_planes(scratch((a.chunk + 2 * R) * g.plane), g, a.chunk + 2 * R);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / a.chunks, first = item % a.chunks * a.chunk, count = min_of(a.chunk, a.c - first);
    load_planes(planes, g, image_of<T>(a, n), first - R, first + count + R);
    dim_conv_chunk<T, K>(a, g, planes + R * g.plane + g.origin, (T*)a.y + n * 3 * a.c * a.h * a.w, first, count);
  }
}

template <class T, int K>
static void local_items(const Problem& a, int64_t begin, int64_t end) {
  constexpr int R = K / 2;
  const Planes g(a.h, a.w, R);
  const int64_t size = a.h * a.w, row = a.w;
  float* planes = padded_planes(scratch((2 * a.chunk + 2 * R) * g.plane), g, a.chunk + 2 * R);
  float* fused = planes + (a.chunk + 2 * R) * g.plane;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / a.chunks, first = item % a.chunks * a.chunk, count = min_of(a.chunk, a.c - first);
    load_planes(planes, g, image_of<T>(a, n), first - R, first + count + R);
    T* y = (T*)a.y + (n * a.c + first) * size;
    local_chunk<K>(a, g, planes + R * g.plane + g.origin, fused + g.origin, first, count,
                   [=](int64_t h, int64_t start) { return ColumnStore<T>(y, h * row + start, row, size); });
  }
}

// The first half of the unit for some chunks of image n: `maps` holds a padded plane (reach 1) a channel.
template <class T, int K>
static void unit_local(const Problem& a, int64_t n, int64_t begin, int64_t end, float* maps, float* means) {
  constexpr int R = K / 2;
  const Planes g(a.h, a.w, R), out(a.h, a.w, 1);
  float* planes = padded_planes(scratch((2 * a.chunk + 2 * R) * g.plane), g, a.chunk + 2 * R);
  float* fused = planes + (a.chunk + 2 * R) * g.plane;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t first = item * a.chunk, count = min_of(a.chunk, a.c - first);
    load_planes(planes, g, image_of<T>(a, n), first - R, first + count + R);
    float* map = maps + first * out.plane + out.origin;
    local_chunk<K>(a, g, planes + R * g.plane + g.origin, fused + g.origin, first, count,
                   [=](int64_t h, int64_t start) {
                     float* at = map + h * out.row + start;
                     return [=](int64_t c, Vector v) { store(at + c * out.plane, v); };
                   });
    for (int64_t c = 0; c < count; ++c) {
      zero_padding(maps + (first + c) * out.plane, out);
      Vector sum{};
      const float* row = map + c * out.plane;
      for (int64_t i = 0; i < a.h * out.row; i += LANES) sum += load(row + i);
      means[first + c] = sum_lanes(sum) / (float)(a.h * a.w);
    }
  }
}

static float dot(const float* a, const float* b, int64_t count) {
  Vector sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * LANES <= count; i += 4 * LANES)
    for (int k = 0; k < 4; ++k) sums[k] += load(a + i + k * LANES) * load(b + i + k * LANES);
  float total = sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < count; ++i) total += a[i] * b[i];
  return total;
}

// out[r] = weights (rows, columns) times in.
static void multiply(const float* weights, const float* in, int64_t rows, int64_t columns, float* out) {
  for (int64_t r = 0; r < rows; ++r) out[r] = dot(weights + r * columns, in, columns);
}

// The second half for channels begin .. end - 1.
template <class T>
static void unit_spatial(const Problem& a, int64_t n, int64_t begin, int64_t end, const float* maps,
                         const float* gates) {
  const Planes g(a.h, a.w, 1);
  const int64_t size = a.h * a.w, row = a.w;
  Vector filter[9];
  for (int64_t c = begin; c < end; ++c) {
    const float* constants = a.spatial + 11 * c;
    broadcast_filter<3>(filter, constants, 1);
    const Vector weight = broadcast(gates[c]), negative = broadcast(gates[c] * constants[10]);
    const PlaneStore<T> put{(T*)a.y + (n * a.c + c) * size, row, size};
    for (int64_t i = 0; i < g.aligned_vectors(); ++i) {
      const int64_t start = g.tensor_start(i);
      march<3>(maps + c * g.plane + g.origin + start, g.row, 1, filter, broadcast(constants[9]), a.h,
               [=](int64_t h, Vector v) { put(h * row + start, weighted_prelu(v, weight, negative)); });
    }
  }
}

static int64_t unit_map_size(const Problem& a) { return a.c * Planes(a.h, a.w, 1).plane; }

// Point-wise convolution: a tile of ROWS output channels and WIDTH vectors of pixels stays in registers while the input
// channels pass. `panel` holds the pixels of every input channel one after another.
template <class T, int ROWS, int WIDTH>
static void pointwise_tile(const Pointwise& a, const float* panel, int64_t row, T* out, int64_t pixels) {
  Vector sums[ROWS][WIDTH];
  for (int r = 0; r < ROWS; ++r)
    for (int i = 0; i < WIDTH; ++i) sums[r][i] = broadcast(a.bias[row + r]);
  const float* weight = a.weight + row * a.c;
  for (int64_t c = 0; c < a.c; ++c, panel += WIDTH * LANES) {
    Vector x[WIDTH];
    for (int i = 0; i < WIDTH; ++i) x[i] = load(panel + i * LANES);
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
      const Vector w = broadcast(weight[r * a.c + c]);
#pragma GCC unroll 4
      for (int i = 0; i < WIDTH; ++i) sums[r][i] += w * x[i];
    }
  }
  for (int r = 0; r < ROWS; ++r)
    for (int i = 0; i < WIDTH; ++i) {
      const Vector v = weighted_prelu(sums[r][i], broadcast(1), broadcast(a.slope[row + r]));
      T* at = out + (row + r) * a.size + i * LANES;
      if ((i + 1) * LANES <= pixels) store(at, v);
      else store_first(at, v, pixels - i * LANES);
    }
}

template <class T, int WIDTH>
static void pointwise_block(const Pointwise& a, const T* in, T* out, int64_t pixels, int64_t first, int64_t last) {
  float* panel = scratch(a.c * WIDTH * LANES);
  for (int64_t c = 0; c < a.c; ++c, in += a.stride_c)
    for (int i = 0; i < WIDTH; ++i) {
      float* to = panel + (c * WIDTH + i) * LANES;
      if ((i + 1) * LANES <= pixels) store(to, load(in + i * LANES));
      else for (int64_t k = 0; k < LANES; ++k) to[k] = i * LANES + k < pixels ? to_float(in[i * LANES + k]) : 0;
    }
  for (; first + 4 <= last; first += 4) pointwise_tile<T, 4, WIDTH>(a, panel, first, out, pixels);
  for (; first < last; ++first) pointwise_tile<T, 1, WIDTH>(a, panel, first, out, pixels);
}

// Items are blocks of three vectors of pixels, for each part of the output channels.
template <class T>
static void pointwise_items(const Pointwise& a, int64_t begin, int64_t end) {
  const int64_t blocks = divide_up(a.size, 3 * LANES);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t part = item % a.parts, block = item / a.parts % blocks, n = item / a.parts / blocks;
    const int64_t first = part * a.part, last = min_of(a.out_channels, first + a.part), start = block * 3 * LANES;
    const int64_t pixels = min_of(3 * LANES, a.size - start);
    const T* in = (const T*)a.x + n * a.stride_n + start;
    T* out = (T*)a.y + n * a.out_channels * a.size + start;
    if (pixels > 2 * LANES) pointwise_block<T, 3>(a, in, out, pixels, first, last);
    else if (pixels > LANES) pointwise_block<T, 2>(a, in, out, pixels, first, last);
    else pointwise_block<T, 1>(a, in, out, pixels, first, last);
  }
}

// The gradient of the input for a chunk of channels; `planes` are the gradients of the three branches, `sum` holds a
// padded plane for each channel.
template <class T, int K>
static void grad_input_chunk(const Problem& a, const Planes& g, const float* const* planes, float* sum, T* out,
                             int64_t first, int64_t count) {
  const int64_t size = a.h * a.w, vectors = g.aligned_vectors(), plane = g.plane, row = g.row;
  Vector filter[K * K];
  for (int64_t c = 0; c < count; ++c) {
    broadcast_filter<K>(filter, a.weight_channel + (first + c) * K * K, 1);
    for (int64_t i = 0; i < vectors; ++i) {
      const int64_t at = c * plane + g.aligned_start(i);
      march<K>(planes[0] + at, row, 1, filter, Vector{}, g.h,
               [=](int64_t h, Vector v) { store(sum + at + h * row, v); });
    }
  }
  for (int64_t h = 0; h < g.h; ++h) {
    broadcast_filter<K>(filter, a.weight_height + h * K * K, 1);
    for (int64_t i = 0; i < vectors; ++i) {
      const int64_t at = h * row + g.aligned_start(i);
      march<K>(planes[1] + at, plane, 1, filter, Vector{}, count, [=](int64_t c, Vector v) {
        store(sum + at + c * plane, load(sum + at + c * plane) + v);
      });
    }
    for (int64_t i = 0; i < vectors; ++i) {
      const int64_t start = g.tensor_start(i), at = h * row + start;
      const ColumnStore<T> put(out, h * a.w + start, a.w, size);
      column_filters<K>(filter, a.column_filters, a.columns, start);
      march<K>(planes[2] + at, plane, row, filter, Vector{}, count,
               [=](int64_t c, Vector v) { put(c, load(sum + at + c * plane) + v); });
    }
  }
}

// Adds to the gradients of the filters, as vectors: (chunk | h | vectors of a row) filters of K * K.
template <int K>
static void grad_weight_chunk(const Planes& g, const float* x, const float* const* planes, Vector* sums, int64_t chunk,
                              int64_t count) {
  Vector *sums_h = sums + chunk * K * K, *sums_w = sums_h + g.h * K * K;
  for (int64_t i = 0; i < g.aligned_vectors(); ++i) {
    for (int64_t c = 0; c < count; ++c) {
      const int64_t at = c * g.plane + g.aligned_start(i);
      correlate<K>(x + at, planes[0] + at, g.row, 1, g.h, sums + c * K * K);
    }
    for (int64_t h = 0; h < g.h; ++h) {
      const int64_t at = h * g.row + g.aligned_start(i);
      correlate<K>(x + at, planes[1] + at, g.plane, 1, count, sums_h + h * K * K);
      correlate<K>(x + at, planes[2] + at, g.plane, g.row, count, sums_w + i * K * K);
    }
  }
}

// Gradients. An item is a chunk of channels of a group of images; what it adds to the gradients of the filters goes
// to its own part of the workspace, and the parts are summed in their order.
template <class T, int K>
static void backward_items(const Problem& a, int64_t begin, int64_t end) {
  constexpr int R = K / 2, TAPS = K * K;
  const Planes g(a.h, a.w, R);
  const int64_t size = a.h * a.w, halo = a.chunk + 2 * R;
  const int64_t sums_size = (a.chunk + a.h + g.aligned_vectors()) * TAPS;
  float* x = padded_planes(scratch(5 * halo * g.plane + sums_size * LANES), g, 4 * halo);
  float* grads[3] = {x + halo * g.plane, x + 2 * halo * g.plane, x + 3 * halo * g.plane};
  float* sum = x + 4 * halo * g.plane;
  Vector* sums = (Vector*)(sum + halo * g.plane);
  const int64_t at = R * g.plane + g.origin;
  const float* const grads_at[3] = {grads[0] + at, grads[1] + at, grads[2] + at};
  for (int64_t item = begin; item < end; ++item) {
    const int64_t group = item / a.chunks, first = item % a.chunks * a.chunk, count = min_of(a.chunk, a.c - first);
    memset((void*)sums, 0, sums_size * sizeof(Vector));
    for (int64_t n = group * a.group; n < min_of((group + 1) * a.group, a.n); ++n) {
      for (int b = 0; b < 3; ++b) {
        const T* grad = (const T*)a.grad;
        const Image<T> image = {grad + (3 * n + b) * a.c * size, grad + 3 * a.n * a.c * size, a.c, size, a.w, 1};
        load_planes(grads[b], g, image, first - R, first + count + R);
      }
      if (a.weight_sums) {
        load_planes(x, g, image_of<T>(a, n), first - R, first + count + R);
        grad_weight_chunk<K>(g, x + at, grads_at, sums, a.chunk, count);
      }
      if (a.grad_x)
        grad_input_chunk<T, K>(a, g, grads_at, sum, (T*)a.grad_x + (n * a.c + first) * size, first, count);
    }
    if (!a.weight_sums) continue;
    float* out = a.weight_sums + item * (a.chunk + a.h + a.w) * TAPS;
    for (int64_t i = 0; i < (a.chunk + a.h) * TAPS; ++i) *out++ = sum_lanes(sums[i]);
    const Vector* sums_w = sums + (a.chunk + a.h) * TAPS;
    for (int64_t w = 0; w < a.w; ++w)
      for (int t = 0; t < TAPS; ++t) {
        // The width-wise filter has its column index, the walk over channels, second.
        const int transposed = t % K * K + t / K;
        *out++ = sums_w[w / LANES * TAPS + transposed][w % LANES];
      }
  }
}

template <class T, int K>
static constexpr Kernels kernels() {
  return {LANES, dim_conv_items<T, K>, local_items<T, K>, backward_items<T, K>,
          unit_local<T, K>, unit_spatial<T>, unit_map_size, multiply, pointwise_items<T>};
}

static Kernels select(int dtype, int kernel_size) {
  switch (dtype * 8 + kernel_size) {
    case DICENAS_FLOAT32 * 8 + 3: return kernels<float, 3>();
    case DICENAS_FLOAT32 * 8 + 5: return kernels<float, 5>();
    case DICENAS_FLOAT16 * 8 + 3: return kernels<Float16, 3>();
    case DICENAS_FLOAT16 * 8 + 5: return kernels<Float16, 5>();
    case DICENAS_BFLOAT16 * 8 + 3: return kernels<BFloat16, 3>();
    default: return kernels<BFloat16, 5>();
  }
}
