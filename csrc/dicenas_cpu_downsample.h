// Down-sampling by two: depth-wise convolution and average pooling of the same map. Included by dicenas_cpu_kernels.h.

// A channel's plane with its even and its odd columns apart, so that a result's neighbours lie in vectors: row y is at
// `even + y * row`, from -1 to the height; element -1 of the odd columns is left of the first.
struct Halves {
  int64_t h, w, out_h, out_w, row, size;

  Halves(int64_t height, int64_t width)
      : h(height), w(width), out_h(divide_up(height, 2)), out_w(divide_up(width, 2)) {
    row = LANES + round_up(out_w, LANES);
    size = (h + 2) * row + LANES;
  }
};

template <class T>
static void load_halves(const T* in, const Halves& g, float* line, float* even, float* odd) {
  for (int64_t y = 0; y < g.h; ++y, in += g.w, even += g.row, odd += g.row) {
    int64_t i = 0;
    for (; i + LANES <= g.w; i += LANES) store(line + i, load(in + i));
    for (; i < g.w; ++i) line[i] = to_float(in[i]);
    const int64_t pairs = g.w / 2;
    for (i = 0; i < pairs; ++i) {
      even[i] = line[2 * i];
      odd[i] = line[2 * i + 1];
    }
    if (pairs < g.out_w) even[pairs] = line[2 * pairs];
  }
}

// Items are channels of images.
template <class T>
static void downsample_items(const Downsample& a, int64_t begin, int64_t end) {
  const Halves g(a.h, a.w);
  const int64_t row = g.row, out_size = g.out_h * g.out_w;
  float* const memory = scratch(2 * g.size + round_up(g.w, 16));
  memset(memory, 0, 2 * g.size * sizeof(float));
  float *const even = memory + row + LANES, *const odd = even + g.size, *const line = memory + 2 * g.size;
  const Vector ninth = broadcast(1.0f / 9), one = broadcast(1.0f);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t n = item / a.c, c = item % a.c;
    load_halves((const T*)a.x[c].data + n * a.x[c].stride_n, g, line, even, odd);
    const float* const constants = a.constants + 11 * c;
    Vector filter[9];
    for (int i = 0; i < 9; ++i) filter[i] = broadcast(constants[i]);
    const Vector bias = broadcast(constants[9]), slope = broadcast(constants[10]);
    T *convolved = (T*)a.convolved + item * out_size, *pooled = (T*)a.pooled + item * out_size;
    for (int64_t y = 0; y < g.out_h; ++y)
      for (int64_t start = 0; start < g.out_w; start += LANES) {
        Vector sum = bias, all{};
#pragma GCC unroll 3
        for (int r = 0; r < 3; ++r) {
          const int64_t at = (2 * y + r - 1) * row + start;
          const Vector left = load(odd + at - 1), middle = load(even + at), right = load(odd + at);
          sum += filter[3 * r] * left + filter[3 * r + 1] * middle + filter[3 * r + 2] * right;
          all += left + middle + right;
        }
        sum = weighted_prelu(sum, one, slope);
        all *= ninth;
        const int64_t at = y * g.out_w + start, count = g.out_w - start;
        if (count >= LANES) {
          store(convolved + at, sum);
          store(pooled + at, all);
        } else {
          store_first(convolved + at, sum, count);
          store_first(pooled + at, all, count);
        }
      }
  }
}
