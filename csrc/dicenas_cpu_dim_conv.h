// Dimension-wise convolution, its gradients, and the DiCE unit in inference. Included by dicenas_cpu_kernels.h.

// Planes at the native size of one axis.
template <Axis AXIS>
static Planes native_planes(const Problem& a, int64_t reach) {
  return AXIS == ROWS ? Planes(a.native_h, a.w, reach) : Planes(a.h, a.native_w, reach);
}

// Floats that resizing takes for a chunk: planes in front of the filters and behind them.
static int64_t resizing_size(const Problem& a, int64_t reach) {
  if (a.h == a.native_h && a.w == a.native_w) return 0;
  const int64_t rows = native_planes<ROWS>(a, reach).plane, columns = native_planes<COLUMNS>(a, reach).plane;
  return 2 * (a.chunk + 2 * reach) * max_of(rows, columns);
}

// Row h of the height-wise branch (ROWS) or of the width-wise one (COLUMNS). `place(h, start)` gives the function that
// takes results (c, v) of that row from column start on; `start_of` says where the vectors of a row start.
template <int K, Axis AXIS, class Start, class Place>
static inline __attribute__((always_inline)) void branch_row(const Problem& a, const Planes& g, const float* planes,
                                                             int64_t h, int64_t count, Start start_of, Place place) {
  Vector filter[K * K];
  if (AXIS == ROWS) broadcast_filter<K>(filter, a.weight_height + h * K * K, 1);
  for (int64_t i = 0; i < g.aligned_vectors(); ++i) {
    const int64_t start = start_of(i);
    if (AXIS == COLUMNS) column_filters<K>(filter, a.column_filters, a.columns, start);
    march<K>(planes + h * g.row + start, g.plane, AXIS == ROWS ? 1 : g.row, filter, Vector{}, count, place(h, start));
  }
}

// A branch whose axis is resized to the native size, at that size: returns element (0, 0) of the first result.
template <int K, Axis AXIS>
static const float* native_branch(const Problem& a, const Planes& g, const float* planes, float* memory,
                                  int64_t count) {
  constexpr int R = K / 2;
  const Planes native = native_planes<AXIS>(a, R);
  const int64_t halo = count + 2 * R, size = native.plane;
  padded_planes(memory, native, halo);
  const Resize& in = AXIS == ROWS ? a.rows_in : a.columns_in;
  resize_planes<AXIS>(planes - R * g.plane - g.origin, g, memory, native, in, halo);
  const float* const x = memory + R * size + native.origin;
  float* const y = memory + halo * size + native.origin;
  for (int64_t h = 0; h < native.h; ++h)
    branch_row<K, AXIS>(a, native, x, h, count, [](int64_t i) { return Planes::aligned_start(i); },
                        [=, &native](int64_t h, int64_t start) {
                          float* const at = y + h * native.row + start;
                          return [=](int64_t c, Vector v) { store(at + c * size, v); };
                        });
  return y;
}

// All rows of such a branch, resized back.
template <int K, Axis AXIS, class Start, class Place>
static inline __attribute__((always_inline)) void resized_branch(const Problem& a, const Planes& g, const float* planes,
                                                                 float* memory, int64_t count, Start start_of,
                                                                 Place place) {
  const Planes native = native_planes<AXIS>(a, K / 2);
  const float* const y = native_branch<K, AXIS>(a, g, planes, memory, count);
  const Resize& out = AXIS == ROWS ? a.rows_out : a.columns_out;
  for (int64_t h = 0; h < g.h; ++h)
    for (int64_t i = 0; i < g.aligned_vectors(); ++i) {
      const int64_t start = start_of(i);
      const auto put = place(h, start);
      for (int64_t c = 0; c < count; ++c) put(c, resized<AXIS>(y + c * native.plane, native.row, out, h, start));
    }
}

// The height-wise branch of a chunk, and at each position behind it the width-wise one, of planes that may be the same.
template <int K, class StartH, class PlaceH, class StartW, class PlaceW>
static inline __attribute__((always_inline)) void both_branches(const Problem& a, const Planes& g,
                                                                const float* planes_h, const float* planes_w,
                                                                float* memory, int64_t count, StartH start_h,
                                                                PlaceH place_h, StartW start_w, PlaceW place_w) {
  const bool resize_h = a.rows_in.taps, resize_w = a.columns_in.taps;
  if (resize_h) resized_branch<K, ROWS>(a, g, planes_h, memory, count, start_h, place_h);
  for (int64_t h = 0; h < g.h; ++h) {
    if (!resize_h) branch_row<K, ROWS>(a, g, planes_h, h, count, start_h, place_h);
    if (!resize_w) branch_row<K, COLUMNS>(a, g, planes_w, h, count, start_w, place_w);
  }
  if (resize_w) resized_branch<K, COLUMNS>(a, g, planes_w, memory, count, start_w, place_w);
}

// Where the input of an item begins: of a chunk of channels of an image. Null behind the last item.
template <class T>
static const T* input_of(const Problem& a, int64_t item, int64_t end) {
  if (item >= end) return nullptr;
  return (const T*)a.x + item / a.chunks * a.stride_n + item % a.chunks * a.chunk * a.stride_c;
}

// Fetches a channel of what is read or written later than its chunk's first branch, here and there or in bursts that
// nothing else sees coming. There is time for it while the first branch of that channel is computed.
template <class T>
static inline void prefetch_channel(const T* chunk, int64_t stride_c, int64_t c, int64_t size) {
  if (chunk) prefetch(chunk + c * stride_c, size);
}

// The three branches of a chunk of channels, `branch` elements from one to the next. `next` is the next item's input.
template <class T, int K>
static void dim_conv_chunk(const Problem& a, const Planes& g, const float* planes, float* memory, T* y, int64_t branch,
                           int64_t first, int64_t count, const T* next) {
  const int64_t size = a.h * a.w, row = a.w;
  Vector filter[K * K];
  for (int64_t c = 0; c < count; ++c) {
    for (int b = 1; b < 3; ++b) prefetch_channel(y + b * branch, size, c, size);
    prefetch_channel(next, a.stride_c, c, size);
    broadcast_filter<K>(filter, a.weight_channel + (first + c) * K * K, 1);
    for (int64_t i = 0; i < g.aligned_vectors(); ++i) {
      const int64_t start = g.tensor_start(i);
      const PlaneStore<T> put{y + c * size, row, size};
      march<K>(planes + c * g.plane + start, g.row, 1, filter, Vector{}, g.h,
               [=](int64_t h, Vector v) { put(h * row + start, v); });
    }
  }
  const auto start = [&g](int64_t i) { return g.tensor_start(i); };
  const auto place_in = [=](T* out) {
    return [=](int64_t h, int64_t start) { return ColumnStore<T>(out, h * row + start, row, size); };
  };
  both_branches<K>(a, g, planes, planes, memory, count, start, place_in(y + branch), start, place_in(y + 2 * branch));
}

// Convolution and local fusion of a chunk of channels. `place(h, start)` gives the function that takes results (c, v)
// of that row and column, rows in ascending order; `fused` holds a padded plane for each channel of the chunk. begin(c)
// comes before a channel of the first branch.
template <int K, class Begin, class Place>
static inline __attribute__((always_inline)) void local_chunk(const Problem& a, const Planes& g, const float* planes,
                                                              float* fused, float* memory, int64_t first,
                                                              int64_t count, Begin begin, Place place) {
  Vector filter[K * K];
  const Local* local = a.local + first;
  const int64_t plane = g.plane, row = g.row;
  for (int64_t c = 0; c < count; ++c) {
    begin(c);
    const Local& k = local[c];
    broadcast_filter<K>(filter, a.weight_channel + (first + c) * K * K, k.scale[0]);
    const Vector weight = broadcast(k.weight[0]), negative = broadcast(k.negative[0]), shift = broadcast(k.shift_out);
    for (int64_t i = 0; i < g.aligned_vectors(); ++i) {
      const int64_t at = c * plane + g.aligned_start(i);
      march<K>(planes + at, row, 1, filter, broadcast(k.shift[0]), g.h,
               [=](int64_t h, Vector v) { store(fused + at + h * row, weighted_prelu(v, weight, negative) + shift); });
    }
  }
  const auto add = [=](int64_t h, int64_t start) {
    float* const at = fused + h * row + start;
    return [=](int64_t c, Vector v) {
      const Local& k = local[c];
      v = v * broadcast(k.scale[1]) + broadcast(k.shift[1]);
      store(at + c * plane,
            load(at + c * plane) + weighted_prelu(v, broadcast(k.weight[1]), broadcast(k.negative[1])));
    };
  };
  const auto finish = [=](int64_t h, int64_t start) {
    const float* const at = fused + h * row + start;
    const auto put = place(h, start);
    return [=](int64_t c, Vector v) {
      const Local& k = local[c];
      v = v * broadcast(k.scale[2]) + broadcast(k.shift[2]);
      v = load(at + c * plane) + weighted_prelu(v, broadcast(k.weight[2]), broadcast(k.negative[2]));
      put(c, weighted_prelu(v, broadcast(1.0f), broadcast(k.slope_out)));
    };
  };
  both_branches<K>(a, g, planes, planes, memory, count, [](int64_t i) { return Planes::aligned_start(i); }, add,
                   [&g](int64_t i) { return g.tensor_start(i); }, finish);
}

// Chunks begin .. end - 1 of the images' channels.
template <class T, int K>
static void dim_conv_items(const Problem& a, int64_t begin, int64_t end) {
  constexpr int R = K / 2;
  const Planes g(a.h, a.w, R);
  const int64_t map = a.h * a.w, size = (a.chunk + 2 * R) * g.plane;
  float* planes = padded_planes(scratch(size + resizing_size(a, R)), g, a.chunk + 2 * R);
  float* memory = planes + size;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / a.chunks, first = item % a.chunks * a.chunk, count = min_of(a.chunk, a.c - first);
    load_planes(planes, g, image_of<T>(a, n), first - R, first + count + R);
    T* const y = (T*)a.y + (n * 3 * a.c + first) * map;
    dim_conv_chunk<T, K>(a, g, planes + R * g.plane + g.origin, memory, y, a.c * map, first, count,
                         input_of<T>(a, item + 1, end));
  }
}

template <class T, int K>
static void local_items(const Problem& a, int64_t begin, int64_t end) {
  constexpr int R = K / 2;
  const Planes g(a.h, a.w, R);
  const int64_t size = a.h * a.w, row = a.w;
  float* planes = padded_planes(scratch((2 * a.chunk + 2 * R) * g.plane + resizing_size(a, R)), g, a.chunk + 2 * R);
  float *fused = planes + (a.chunk + 2 * R) * g.plane, *memory = fused + a.chunk * g.plane;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / a.chunks, first = item % a.chunks * a.chunk, count = min_of(a.chunk, a.c - first);
    load_planes(planes, g, image_of<T>(a, n), first - R, first + count + R);
    T* y = (T*)a.y + (n * a.c + first) * size;
    const T* const next = input_of<T>(a, item + 1, end);
    local_chunk<K>(a, g, planes + R * g.plane + g.origin, fused + g.origin, memory, first, count,
                   [=, &a](int64_t c) {
                     prefetch_channel(y, size, c, size);
                     prefetch_channel(next, a.stride_c, c, size);
                   },
                   [=](int64_t h, int64_t start) { return ColumnStore<T>(y, h * row + start, row, size); });
  }
}

// The first half of the unit for some chunks of image n: `maps` holds a padded plane (reach 1) a channel.
template <class T, int K>
static void unit_local(const Problem& a, int64_t n, int64_t begin, int64_t end, float* maps, float* means) {
  constexpr int R = K / 2;
  const Planes g(a.h, a.w, R), out(a.h, a.w, 1);
  float* planes = padded_planes(scratch((2 * a.chunk + 2 * R) * g.plane + resizing_size(a, R)), g, a.chunk + 2 * R);
  float *fused = planes + (a.chunk + 2 * R) * g.plane, *memory = fused + a.chunk * g.plane;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t first = item * a.chunk, count = min_of(a.chunk, a.c - first);
    load_planes(planes, g, image_of<T>(a, n), first - R, first + count + R);
    float* map = maps + first * out.plane + out.origin;
    const T* const next = item + 1 < end ? (const T*)a.x + n * a.stride_n + (first + a.chunk) * a.stride_c : nullptr;
    local_chunk<K>(a, g, planes + R * g.plane + g.origin, fused + g.origin, memory, first, count,
                   [=, &a](int64_t c) { prefetch_channel(next, a.stride_c, c, a.h * a.w); },
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
static void grad_input_chunk(const Problem& a, const Planes& g, const float* const* planes, float* sum, float* memory,
                             T* out, int64_t first, int64_t count, const T* next) {
  const int64_t size = a.h * a.w, plane = g.plane, row = g.row, w = a.w;
  Vector filter[K * K];
  for (int64_t c = 0; c < count; ++c) {
    prefetch_channel(out, size, c, size);
    for (int b = 0; b < 3; ++b) prefetch_channel(next ? next + b * a.c * size : next, size, c, size);
    broadcast_filter<K>(filter, a.weight_channel + (first + c) * K * K, 1);
    for (int64_t i = 0; i < g.aligned_vectors(); ++i) {
      const int64_t at = c * plane + g.aligned_start(i);
      march<K>(planes[0] + at, row, 1, filter, Vector{}, g.h,
               [=](int64_t h, Vector v) { store(sum + at + h * row, v); });
    }
  }
  const auto add = [=](int64_t h, int64_t start) {
    float* const at = sum + h * row + start;
    return [=](int64_t c, Vector v) { store(at + c * plane, load(at + c * plane) + v); };
  };
  const auto finish = [=](int64_t h, int64_t start) {
    const float* const at = sum + h * row + start;
    const ColumnStore<T> put(out, h * w + start, w, size);
    return [=](int64_t c, Vector v) { put(c, load(at + c * plane) + v); };
  };
  both_branches<K>(a, g, planes[1], planes[2], memory, count, [](int64_t i) { return Planes::aligned_start(i); }, add,
                   [&g](int64_t i) { return g.tensor_start(i); }, finish);
}

// Adds to the gradients of the filters of the height- or width-wise branch, whose axis may be resized.
template <int K, Axis AXIS>
static void grad_weight_branch(const Problem& a, const Planes& g, const float* x, const float* grad, float* memory,
                               Vector* sums, int64_t count) {
  constexpr int R = K / 2;
  const Planes native = native_planes<AXIS>(a, R);
  const Resize &of_x = AXIS == ROWS ? a.rows_of_x : a.columns_of_x, &of_grad = AXIS == ROWS ? a.rows_in : a.columns_in;
  if (of_x.taps) {
    float* const resized_grad = padded_planes(memory, native, 2 * count + 2 * R) + (count + 2 * R) * native.plane;
    resize_planes<AXIS>(x - R * g.plane - g.origin, g, memory, native, of_x, count + 2 * R);
    resize_planes<AXIS>(grad - g.origin, g, resized_grad, native, of_grad, count);
    x = memory + R * native.plane + native.origin;
    grad = resized_grad + native.origin;
  }
  for (int64_t i = 0; i < native.aligned_vectors(); ++i)
    for (int64_t h = 0; h < native.h; ++h) {
      const int64_t at = h * native.row + native.aligned_start(i);
      correlate<K>(x + at, grad + at, native.plane, AXIS == ROWS ? 1 : native.row, count,
                   sums + (AXIS == ROWS ? h : i) * K * K);
    }
}

// Adds to the gradients of the filters, as vectors: (chunk | native h | vectors of a row) filters of K * K.
template <int K>
static void grad_weight_chunk(const Problem& a, const Planes& g, const float* x, const float* const* planes,
                              float* memory, Vector* sums, int64_t count) {
  for (int64_t i = 0; i < g.aligned_vectors(); ++i)
    for (int64_t c = 0; c < count; ++c) {
      const int64_t at = c * g.plane + g.aligned_start(i);
      correlate<K>(x + at, planes[0] + at, g.row, 1, g.h, sums + c * K * K);
    }
  sums += a.chunk * K * K;
  grad_weight_branch<K, ROWS>(a, g, x, planes[1], memory, sums, count);
  grad_weight_branch<K, COLUMNS>(a, g, x, planes[2], memory, sums + a.native_h * K * K, count);
}

// Gradients. An item is a chunk of channels of a group of images; what it adds to the gradients of the filters goes
// to its own part of the workspace, and the parts are summed in their order.
template <class T, int K>
static void backward_items(const Problem& a, int64_t begin, int64_t end) {
  constexpr int R = K / 2, TAPS = K * K;
  const Planes g(a.h, a.w, R);
  const int64_t size = a.h * a.w, halo = a.chunk + 2 * R;
  const int64_t sums_size = (a.chunk + a.native_h + native_planes<COLUMNS>(a, R).aligned_vectors()) * TAPS;
  float* x = padded_planes(scratch(5 * halo * g.plane + sums_size * LANES + resizing_size(a, R)), g, 4 * halo);
  float* grads[3] = {x + halo * g.plane, x + 2 * halo * g.plane, x + 3 * halo * g.plane};
  float* sum = x + 4 * halo * g.plane;
  Vector* sums = (Vector*)(sum + halo * g.plane);
  float* memory = (float*)(sums + sums_size);
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
        grad_weight_chunk<K>(a, g, x + at, grads_at, memory, sums, count);
      }
      // The gradients that come next: of the same channels in the next image or, behind the group, of the next item.
      const bool last = n + 1 == min_of((group + 1) * a.group, a.n);
      const int64_t next_n = last ? (item + 1) / a.chunks * a.group : n + 1;
      const int64_t next_first = last ? (item + 1) % a.chunks * a.chunk : first;
      const T* const next = (const T*)a.grad + (3 * next_n * a.c + next_first) * size;
      if (a.grad_x)
        grad_input_chunk<T, K>(a, g, grads_at, sum, memory, (T*)a.grad_x + (n * a.c + first) * size, first, count,
                               last && item + 1 >= end ? nullptr : next);
    }
    if (!a.weight_sums) continue;
    float* out = a.weight_sums + item * (a.chunk + a.native_h + a.native_w) * TAPS;
    for (int64_t i = 0; i < (a.chunk + a.native_h) * TAPS; ++i) *out++ = sum_lanes(sums[i]);
    const Vector* sums_w = sums + (a.chunk + a.native_h) * TAPS;
    for (int64_t w = 0; w < a.native_w; ++w)
      for (int t = 0; t < TAPS; ++t) {
        // The width-wise filter has its column index, the walk over channels, second.
        const int transposed = t % K * K + t / K;
        *out++ = sums_w[w / LANES * TAPS + transposed][w % LANES];
      }
  }
}
