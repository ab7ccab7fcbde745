// Training of the layers around dimension-wise convolution: normalisation by the batch's own statistics, PReLU, local
// fusion and depth-wise convolution, forward and backward. Included by dicenas_cpu_kernels.h.
//
// Everything here belongs to one channel of the result, so one thread does a channel from beginning to end while its
// values, of all images, stay in the cache; what the forward pass kept are its inputs and the statistics. Sums are
// taken in an order that depends on the sizes alone, in float over at most SUM_BLOCK elements and in double beyond.

constexpr int64_t SUM_BLOCK = 64 * LANES;

// What a sum takes of a vector: everything, or the elements before the end.
struct All {
  template <class V>
  V operator()(V v) const {
    return v;
  }
};

template <class S>
struct Before {
  Pack<S> inside;

  explicit Before(int64_t count) {
    for (int i = 0; i < LANES; ++i) inside[i] = i < count ? 1 : 0;
  }
  Pack<S> operator()(Pack<S> v) const { return inside > 0 ? v : Pack<S>{}; }
};

template <int COUNT>
struct Totals {
  double at[COUNT] = {};

  template <class S>
  void add(const Pack<S>* sums) {
    for (int k = 0; k < COUNT; ++k)
      for (int i = 0; i < LANES; ++i) at[k] += sums[k][i];
  }
};

// Calls body(i, take, sums) at each vector of `count` elements, which adds take(v) to the COUNT sums. What lies behind
// the end, up to a whole vector, may be read and written.
template <int COUNT, class S, class Body>
static inline __attribute__((always_inline)) void sum_over(int64_t count, Totals<COUNT>& totals, Body body) {
  for (int64_t begin = 0; begin < count; begin += SUM_BLOCK) {
    const int64_t end = min_of(count, begin + SUM_BLOCK);
    Pack<S> even[COUNT] = {}, odd[COUNT] = {};  // two chains of additions where registers allow
    int64_t i = begin;
    if (COUNT <= 3) {
      for (; i + 2 * LANES <= end; i += 2 * LANES) {
        body(i, All(), even);
        body(i + LANES, All(), odd);
      }
      for (int k = 0; k < COUNT; ++k) even[k] += odd[k];
    }
    for (; i + LANES <= end; i += LANES) body(i, All(), even);
    if (i < end) body(i, Before<S>(end - i), even);
    totals.template add<S>(even);
  }
}

template <class S>
static inline Pack<S> prelu(Pack<S> v, Pack<S> slope) {
  return v > 0 ? v : slope * v;
}

// The values of a channel, images one after another with nothing between them.
template <class S>
static void gather(S* out, const S* in, int64_t images, int64_t stride, int64_t size) {
  for (int64_t n = 0; n < images; ++n, in += stride, out += size) {
    prefetch(in + size, size);  // of the next channel, which is soon wanted
    if (size < LANES) {
      for (int64_t i = 0; i < size; ++i) out[i] = in[i];
      continue;
    }
    for (int64_t i = 0; i + LANES <= size; i += LANES) store(out + i, load(in + i));
    store(out + size - LANES, load(in + size - LANES));
  }
}

// For a channel that is scattered when it is computed.
template <class S>
static void prefetch_images(const S* at, int64_t images, int64_t stride, int64_t size) {
  for (int64_t n = 0; n < images; ++n) prefetch(at + n * stride, size);
}

template <class S>
static void scatter(S* out, const S* in, int64_t images, int64_t stride, int64_t size) {
  for (int64_t n = 0; n < images; ++n, in += size, out += stride) {
    if (size < LANES) {
      for (int64_t i = 0; i < size; ++i) out[i] = in[i];
      continue;
    }
    for (int64_t i = 0; i + LANES <= size; i += LANES) store(out + i, load(in + i));
    store(out + size - LANES, load(in + size - LANES));
  }
}

// Normalisation of a channel and the activation behind it.
template <class S>
struct Channel {
  int64_t index, count;
  double inverse;  // 1 / standard deviation
  Pack<S> mean, scale, shift, slope;

  // From its statistics; the variance is the unbiased one.
  Channel(const dicenas_norm& norm, int64_t c, int64_t values) : index(c), count(values) {
    const double mean_of = ((const S*)norm.mean)[c];
    const double biased = (double)((const S*)norm.var)[c] * ((double)count - 1) / (double)count;
    inverse = 1 / __builtin_sqrt(biased + norm.eps);
    const double scale_of = ((const S*)norm.weight)[c] * inverse;
    mean = broadcast((S)mean_of);
    scale = broadcast((S)scale_of);
    shift = broadcast((S)(((const S*)norm.bias)[c] - mean_of * scale_of));
    slope = broadcast(((const S*)norm.slope)[c]);
  }

  Pack<S> normalised(Pack<S> x) const { return x * scale + shift; }

  // The gradient of the input is scale * (g - mean of g - (x - mean) * correction), with g the gradient of what
  // `normalised` returns; sums are those of g, of g * (x - mean) and of the slope.
  struct Gradient {
    Pack<S> scale, mean, offset, correction;
    Pack<S> operator()(Pack<S> g, Pack<S> x) const { return scale * (g - offset - (x - mean) * correction); }
  };
  Gradient gradient(const dicenas_norm& norm, double sum, double product, double sum_slope) const {
    ((S*)norm.grad_bias)[index] = (S)sum;
    ((S*)norm.grad_weight)[index] = (S)(product * inverse);
    ((S*)norm.grad_slope)[index] = (S)sum_slope;
    const double values = (double)count;
    return {scale, mean, broadcast((S)(sum / values)), broadcast((S)(product * inverse * inverse / values))};
  }
};

// Statistics of the values at `x`, written where the norm keeps them.
template <class S>
static Channel<S> measure(const dicenas_norm& norm, int64_t c, const S* x, int64_t count) {
  Totals<1> sum, squares;
  sum_over<1, S>(count, sum, [=](int64_t i, auto take, Pack<S>* sums) { sums[0] += take(load(x + i)); });
  const S mean = (S)(sum.at[0] / (double)count);
  sum_over<1, S>(count, squares, [=](int64_t i, auto take, Pack<S>* sums) {
    const Pack<S> distance = take(load(x + i) - broadcast(mean));
    sums[0] += distance * distance;
  });
  ((S*)norm.mean)[c] = mean;
  ((S*)norm.var)[c] = (S)(squares.at[0] / ((double)count - 1));
  return Channel<S>(norm, c, count);
}

// The gradient behind normalisation and PReLU becomes that of the normalisation's input, in `grad`.
template <class S>
static void norm_act_gradient(const dicenas_norm& norm, const Channel<S>& k, const S* x, S* grad) {
  Totals<3> totals;
  sum_over<3, S>(k.count, totals, [=](int64_t i, auto take, Pack<S>* sums) {
    const Pack<S> v = load(x + i), g = take(load(grad + i)), e = k.normalised(v);
    const Pack<S> inner = e > 0 ? g : g * k.slope;
    store(grad + i, inner);
    sums[0] += inner;
    sums[1] += inner * take(v - k.mean);
    sums[2] += take(e > 0 ? Pack<S>{} : g * e);
  });
  const auto gradient = k.gradient(norm, totals.at[0], totals.at[1], totals.at[2]);
  for (int64_t i = 0; i < k.count; i += LANES) store(grad + i, gradient(load(grad + i), load(x + i)));
}

template <class S>
static S* scratch_of(int64_t rows, int64_t count, int64_t more = 0) {
  return (S*)scratch((rows * count + more) * (int64_t)(sizeof(S) / sizeof(float)));
}

// Values of a channel, with room for a vector behind the last.
static int64_t row_size(const dicenas_training& a) { return round_up(a.n * a.h * a.w, 16) + 2 * LANES; }

template <class S>
static void norm_act_items(const dicenas_training& a, int64_t begin, int64_t end) {
  const int64_t size = a.h * a.w, count = a.n * size, stride = a.c * size;
  S* x = scratch_of<S>(1, row_size(a));
  for (int64_t c = begin; c < end; ++c) {
    gather(x, (const S*)a.x + c * size, a.n, stride, size);
    prefetch_images((const S*)a.y + c * size, a.n, stride, size);
    const Channel<S> k = measure(a.norm, c, x, count);
    for (int64_t i = 0; i < count; i += LANES) store(x + i, prelu<S>(k.normalised(load(x + i)), k.slope));
    scatter((S*)a.y + c * size, x, a.n, stride, size);
  }
}

template <class S>
static void norm_act_backward_items(const dicenas_training& a, int64_t begin, int64_t end) {
  const int64_t size = a.h * a.w, count = a.n * size, stride = a.c * size;
  S *x = scratch_of<S>(2, row_size(a)), *grad = x + row_size(a);
  for (int64_t c = begin; c < end; ++c) {
    gather(x, (const S*)a.x + c * size, a.n, stride, size);
    gather(grad, (const S*)a.grad + c * size, a.n, stride, size);
    prefetch_images((const S*)a.grad_x + c * size, a.n, stride, size);
    norm_act_gradient(a.norm, Channel<S>(a.norm, c, count), x, grad);
    scatter((S*)a.grad_x + c * size, grad, a.n, stride, size);
  }
}

// Local fusion: branch b of channel c is channel b * C + c of the input.
template <class S>
struct Branches {
  Channel<S> of[3];
  Pack<S> weight[3];

  static Channel<S> channel(const dicenas_training& a, int b, int64_t c) {
    return Channel<S>(a.norm, b * a.c + c, a.n * a.h * a.w);
  }
  // Of statistics that are known.
  Branches(const dicenas_training& a, int64_t c) : of{channel(a, 0, c), channel(a, 1, c), channel(a, 2, c)} {
    for (int b = 0; b < 3; ++b) weight[b] = broadcast(((const S*)a.fusion)[3 * c + b]);
  }

  Pack<S> fused(const S* x, int64_t row, int64_t i) const {
    Pack<S> sum{};
    for (int b = 0; b < 3; ++b)
      sum += weight[b] * prelu<S>(of[b].normalised(load(x + b * row + i)), of[b].slope);
    return sum;
  }
};

template <class S>
static void gather_branches(S* x, const dicenas_training& a, int64_t c) {
  const int64_t size = a.h * a.w;
  for (int b = 0; b < 3; ++b)
    gather(x + b * row_size(a), (const S*)a.x + (b * a.c + c) * size, a.n, 3 * a.c * size, size);
}

template <class S>
static void local_fusion_items(const dicenas_training& a, int64_t begin, int64_t end) {
  const int64_t size = a.h * a.w, count = a.n * size, row = row_size(a);
  S *x = scratch_of<S>(4, row), *fused = x + 3 * row;
  for (int64_t c = begin; c < end; ++c) {
    gather_branches(x, a, c);
    prefetch_images((const S*)a.y + c * size, a.n, a.c * size, size);
    for (int b = 0; b < 3; ++b) measure(a.norm, b * a.c + c, x + b * row, count);
    const Branches<S> branches(a, c);
    for (int64_t i = 0; i < count; i += LANES) store(fused + i, branches.fused(x, row, i));
    const Channel<S> k = measure(a.out_norm, c, fused, count);
    for (int64_t i = 0; i < count; i += LANES) store(fused + i, prelu<S>(k.normalised(load(fused + i)), k.slope));
    for (int64_t n = 0; n < a.n; ++n) {
      Totals<1> sum;
      const S* image = fused + n * size;
      sum_over<1, S>(size, sum, [=](int64_t i, auto take, Pack<S>* sums) { sums[0] += take(load(image + i)); });
      ((S*)a.pooled)[n * a.c + c] = (S)(sum.at[0] / (double)size);
    }
    scatter((S*)a.y + c * size, fused, a.n, a.c * size, size);
  }
}

template <class S>
static void local_fusion_backward_items(const dicenas_training& a, int64_t begin, int64_t end) {
  const int64_t size = a.h * a.w, count = a.n * size, row = row_size(a);
  S *x = scratch_of<S>(5, row), *fused = x + 3 * row, *grad = x + 4 * row;
  for (int64_t c = begin; c < end; ++c) {
    gather_branches(x, a, c);
    const Branches<S> branches(a, c);
    for (int b = 0; b < 3; ++b) prefetch_images((const S*)a.grad_x + (b * a.c + c) * size, a.n, 3 * a.c * size, size);
    for (int64_t i = 0; i < count; i += LANES) store(fused + i, branches.fused(x, row, i));
    gather(grad, (const S*)a.grad + c * size, a.n, a.c * size, size);
    for (int64_t n = 0; n < a.n; ++n) {
      const Pack<S> pooled = broadcast(((const S*)a.pooled)[n * a.c + c] / (S)size);
      S* image = grad + n * size;
      int64_t i = 0;
      for (; i + LANES <= size; i += LANES) store(image + i, load(image + i) + pooled);
      for (; i < size; ++i) image[i] += pooled[0];
    }
    norm_act_gradient(a.out_norm, Channel<S>(a.out_norm, c, count), fused, grad);
    Totals<12> totals;
    sum_over<12, S>(count, totals, [=, &branches](int64_t i, auto take, Pack<S>* sums) {
      const Pack<S> g = take(load(grad + i));
      for (int b = 0; b < 3; ++b) {
        const Channel<S>& k = branches.of[b];
        const Pack<S> v = load(x + b * row + i), e = k.normalised(v), outer = g * branches.weight[b];
        const Pack<S> inner = e > 0 ? outer : outer * k.slope;
        sums[4 * b] += inner;
        sums[4 * b + 1] += inner * take(v - k.mean);
        sums[4 * b + 2] += take(e > 0 ? Pack<S>{} : outer * e);
        sums[4 * b + 3] += g * take(prelu<S>(e, k.slope));
      }
    });
    for (int b = 0; b < 3; ++b) {
      const Channel<S>& k = branches.of[b];
      const double* sums = totals.at + 4 * b;
      ((S*)a.grad_fusion)[3 * c + b] = (S)sums[3];
      const auto gradient = k.gradient(a.norm, sums[0], sums[1], sums[2]);
      S* at = x + b * row;
      for (int64_t i = 0; i < count; i += LANES) {
        const Pack<S> v = load(at + i), outer = load(grad + i) * branches.weight[b];
        store(at + i, gradient(k.normalised(v) > 0 ? outer : outer * k.slope, v));
      }
      scatter((S*)a.grad_x + (b * a.c + c) * size, at, a.n, 3 * a.c * size, size);
    }
  }
}

// Depth-wise convolution of an image's channel in a padded plane, to consecutive memory: rows in ascending order, since
// one that is narrower than a vector spills into the next.
template <class S, int K>
static void depthwise(const S* plane, const Planes& g, const Pack<S>* filter, S* out) {
  for (int64_t i = 0; i < g.aligned_vectors(); ++i) {
    const int64_t start = g.tensor_start(i), row = g.w;
    march<K>(plane + g.origin + start, g.row, 1, filter, Pack<S>{}, g.h,
             [=](int64_t h, Pack<S> v) { store(out + h * row + start, v); });
  }
}

template <class S>
static Image<S> channel_image(const void* x, const dicenas_training& a, int64_t n) {
  const S* data = (const S*)x;
  const int64_t size = a.h * a.w;
  return {data + n * a.c * size, data + a.n * a.c * size, a.c, size, a.w, 1};
}

template <class S, int K>
static void depthwise_items(const dicenas_training& a, int64_t begin, int64_t end) {
  const Planes g(a.h, a.w, K / 2);
  const int64_t size = a.h * a.w, count = a.n * size;
  S *values = scratch_of<S>(1, row_size(a), g.plane), *plane = values + row_size(a);
  zero_padding(plane, g);
  Pack<S> filter[K * K];
  for (int64_t c = begin; c < end; ++c) {
    broadcast_filter<K>(filter, (const S*)a.filter + c * K * K, 1);
    for (int64_t n = 0; n < a.n; ++n) {
      load_plane(plane, g, channel_image<S>(a.x, a, n), c);
      prefetch((const S*)a.x + (n * a.c + c + 1) * size, size);
      depthwise<S, K>(plane, g, filter, values + n * size);
    }
    prefetch_images((const S*)a.y + c * size, a.n, a.c * size, size);
    const Channel<S> k = measure(a.norm, c, values, count);
    for (int64_t n = 0; n < a.n; ++n) {
      const Pack<S> gate = broadcast(a.gate ? ((const S*)a.gate)[n * a.c + c] : (S)1);
      const S* in = values + n * size;
      S* out = (S*)a.y + (n * a.c + c) * size;
      for (int64_t i = 0; i < size; i += LANES) {
        const Pack<S> v = prelu<S>(k.normalised(load(in + i)), k.slope) * gate;
        if (i + LANES <= size) store(out + i, v);
        else store_first(out + i, v, size - i);
      }
    }
  }
}

template <class S, int K>
static void depthwise_backward_items(const dicenas_training& a, int64_t begin, int64_t end) {
  constexpr int TAPS = K * K;
  const Planes g(a.h, a.w, K / 2);
  const int64_t size = a.h * a.w, count = a.n * size, row = row_size(a);
  S *values = scratch_of<S>(2, row, 2 * g.plane), *grad = values + row, *plane = grad + row;
  S* grad_plane = plane + g.plane;
  zero_padding(plane, g);
  zero_padding(grad_plane, g);
  Pack<S> filter[TAPS], flipped[TAPS];
  for (int64_t c = begin; c < end; ++c) {
    broadcast_filter<K>(filter, (const S*)a.filter + c * TAPS, 1);
    for (int t = 0; t < TAPS; ++t) flipped[t] = filter[TAPS - 1 - t];
    for (int64_t n = 0; n < a.n; ++n) {
      load_plane(plane, g, channel_image<S>(a.x, a, n), c);
      prefetch((const S*)a.x + (n * a.c + c + 1) * size, size);
      depthwise<S, K>(plane, g, filter, values + n * size);
    }
    gather(grad, (const S*)a.grad + c * size, a.n, a.c * size, size);
    prefetch_images((const S*)a.grad_x + c * size, a.n, a.c * size, size);
    const Channel<S> k(a.norm, c, count);
    if (a.gate)
      for (int64_t n = 0; n < a.n; ++n) {
        const S *in = values + n * size, gate = ((const S*)a.gate)[n * a.c + c];
        S* image = grad + n * size;
        Totals<1> sum;
        sum_over<1, S>(size, sum, [=, &k](int64_t i, auto take, Pack<S>* sums) {
          sums[0] += take(load(image + i) * prelu<S>(k.normalised(load(in + i)), k.slope));
        });
        ((S*)a.grad_gate)[n * a.c + c] = (S)sum.at[0];
        int64_t i = 0;
        for (; i + LANES <= size; i += LANES) store(image + i, load(image + i) * broadcast(gate));
        for (; i < size; ++i) image[i] *= gate;
      }
    norm_act_gradient(a.norm, k, values, grad);
    Totals<TAPS> totals;
    for (int64_t n = 0; n < a.n; ++n) {
      const Image<S> image = {grad + n * size, grad + row, 1, 0, a.w, 1};
      load_plane(grad_plane, g, image, 0);
      load_plane(plane, g, channel_image<S>(a.x, a, n), c);
      const PlaneStore<S> put{(S*)a.grad_x + (n * a.c + c) * size, a.w, size};
      Pack<S> sums[TAPS] = {};
      for (int64_t i = 0; i < g.aligned_vectors(); ++i) {
        const int64_t start = g.tensor_start(i), at = g.origin + g.aligned_start(i), width = a.w;
        march<K>(grad_plane + g.origin + start, g.row, 1, flipped, Pack<S>{}, a.h,
                 [=](int64_t h, Pack<S> v) { put(h * width + start, v); });
        correlate<K>(plane + at, grad_plane + at, g.row, 1, a.h, sums);
      }
      totals.template add<S>(sums);
    }
    for (int t = 0; t < TAPS; ++t) ((S*)a.grad_filter)[c * TAPS + t] = (S)totals.at[t];
  }
}

template <class S, int K>
static constexpr TrainingKernels training_kernels() {
  return {norm_act_items<S>,      norm_act_backward_items<S>, local_fusion_items<S>, local_fusion_backward_items<S>,
          depthwise_items<S, K>, depthwise_backward_items<S, K>};
}

static TrainingKernels select_training(int dtype, int kernel_size) {
  if (dtype == DICENAS_FLOAT64) return kernel_size == 5 ? training_kernels<double, 5>() : training_kernels<double, 3>();
  return kernel_size == 5 ? training_kernels<float, 5>() : training_kernels<float, 3>();
}
