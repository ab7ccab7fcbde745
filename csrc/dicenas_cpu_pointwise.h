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

// Copies `width` vectors of pixels, from `start` on, of every input channel of image n, with zeros behind the last pixel.
template <class T>
static void pointwise_panel(const Pointwise& a, int64_t n, int64_t start, int64_t width, int64_t pixels,
                            float* panel) {
  for (int64_t c = 0; c < a.c; ++c) {
    const T* const in = (const T*)a.x[c].data + n * a.x[c].stride_n + start;
    for (int64_t i = 0; i < width; ++i, panel += LANES) {
      if ((i + 1) * LANES <= pixels) store(panel, load(in + i * LANES));
      else for (int64_t k = 0; k < LANES; ++k) panel[k] = i * LANES + k < pixels ? to_float(in[i * LANES + k]) : 0;
    }
  }
}

// Vectors of the next tile: three, or two and two in place of three and one, whose sums would be too few at a time.
static inline int64_t pointwise_width(int64_t vectors) { return vectors == 4 || vectors == 2 ? 2 : min_of(vectors, 3); }

template <class T, int ROWS>
static void pointwise_rows(const Pointwise& a, const float* panels, int64_t row, T* out, int64_t pixels) {
  for (int64_t vectors = divide_up(pixels, LANES); vectors > 0;) {
    const int64_t width = pointwise_width(vectors);
    if (width == 3) pointwise_tile<T, ROWS, 3>(a, panels, row, out, pixels);
    else if (width == 2) pointwise_tile<T, ROWS, 2>(a, panels, row, out, pixels);
    else pointwise_tile<T, ROWS, 1>(a, panels, row, out, pixels);
    panels += a.c * width * LANES;
    out += width * LANES;
    pixels -= width * LANES;
    vectors -= width;
  }
}

// Items are groups of pixels, for each part of the output channels. The pixels of a group stay in the second-level
// cache while the weights pass once.
template <class T>
static void pointwise_items(const Pointwise& a, int64_t begin, int64_t end) {
  const int64_t groups = divide_up(a.size, a.group);
  float* panels = scratch(a.c * round_up(a.group, LANES));
  for (int64_t item = begin; item < end; ++item) {
    const int64_t part = item % a.parts, group = item / a.parts % groups, n = item / a.parts / groups;
    const int64_t last = min_of(a.out_channels, (part + 1) * a.part), start = group * a.group;
    const int64_t pixels = min_of(a.group, a.size - start);
    float* panel = panels;
    for (int64_t at = 0; at < pixels;) {
      const int64_t width = pointwise_width(divide_up(pixels - at, LANES));
      pointwise_panel<T>(a, n, start + at, width, pixels - at, panel);
      panel += a.c * width * LANES;
      at += width * LANES;
    }
    T* out = (T*)a.y + n * a.out_channels * a.size + start;
    int64_t row = part * a.part;
    for (; row + 4 <= last; row += 4) pointwise_rows<T, 4>(a, panels, row, out, pixels);
    switch (last - row) {  // together: a row by itself passes as many pixels for a quarter of the products
      case 3: pointwise_rows<T, 3>(a, panels, row, out, pixels); break;
      case 2: pointwise_rows<T, 2>(a, panels, row, out, pixels); break;
      case 1: pointwise_rows<T, 1>(a, panels, row, out, pixels); break;
    }
  }
}
