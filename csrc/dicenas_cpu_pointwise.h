// Point-wise convolution. Included by dicenas_cpu_kernels.h.

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
      const Vector v = weighted_prelu(sums[r][i], broadcast(1.0f), broadcast(a.slope[row + r]));
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
