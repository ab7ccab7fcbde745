// Dimension-wise convolution, its gradients, and the DiCE unit in inference. Included by dicenas_cpu_kernels.h.

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
        put(c, weighted_prelu(v, broadcast(1.0f), broadcast(k.slope_out)));
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
