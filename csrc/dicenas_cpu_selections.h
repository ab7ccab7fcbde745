// The functions that take channels of several maps (dicenas_selection). Included by dicenas_cpu.cpp.

namespace {

// Where each channel of a selection lies, in the workspace; null where the selection is none.
const ChannelOfMap* find_channels(const dicenas_selection& x, int dtype) {
  if (x.n < 0 || x.c <= 0 || x.size <= 0 || x.map_count <= 0 || dtype < DICENAS_FLOAT32 || dtype > DICENAS_BFLOAT16)
    return nullptr;
  const int64_t bytes = dtype == DICENAS_FLOAT32 ? 4 : 2;
  ChannelOfMap* const found = (ChannelOfMap*)workspace(divide_up(x.c * sizeof(ChannelOfMap), sizeof(float)));
  for (int64_t k = 0; k < x.c; ++k) {
    int64_t channel = x.channels ? x.channels[k] : k, m = 0;
    while (m < x.map_count && channel >= x.maps[m].c) channel -= x.maps[m++].c;
    if (channel < 0 || m == x.map_count) return nullptr;
    found[k] = {(const char*)x.maps[m].data + channel * x.maps[m].stride_c * bytes, x.maps[m].stride_n};
  }
  return found;
}

}  // namespace

EXPORT int dicenas_select_channels(const dicenas_selection* x, void* y, int dtype, int threads) {
  const ChannelOfMap* const channels = threads > 0 ? find_channels(*x, dtype) : nullptr;
  if (!channels) return DICENAS_BAD_ARGUMENT;
  const int64_t bytes = dtype == DICENAS_FLOAT32 ? 4 : 2, size = x->size * bytes, c = x->c;
  threads = (int)max_of(1, min_of(threads, x->n * c * size / 65536));
  parallel(threads, x->n * c, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const ChannelOfMap& from = channels[i % c];
      memcpy((char*)y + i * size, (const char*)from.data + i / c * from.stride_n * bytes, size);
    }
  });
  return DICENAS_OK;
}

EXPORT int dicenas_pointwise(const dicenas_selection* x, const float* weight, const float* bias, const float* slope,
                             void* y, int64_t out_channels, int dtype, int threads) {
  const ChannelOfMap* const channels = out_channels > 0 && threads > 0 ? find_channels(*x, dtype) : nullptr;
  if (!channels) return DICENAS_BAD_ARGUMENT;
  const int64_t n = x->n, c = x->c, size = x->size;
  Pointwise a = {channels, weight, bias, slope, y, n, c, out_channels, size, size, out_channels, 1};
  const Kernels kernels = kernels_for(dtype, 3, size);
  threads = (int)max_of(1, min_of(threads, n * size * c * out_channels / 200000));
  const int64_t tile = 3 * kernels.lanes;
  a.group = max_of(tile, 64 * 1024 / c / tile * tile);  // 256 kB
  if (n % threads) {
    // Each thread takes its share of an image's pixels or, where these are few, of the output channels.
    if (size >= 4 * tile * threads) {
      a.group = min_of(a.group, round_up(divide_up(size, threads), tile));
    } else {
      a.part = round_up(divide_up(out_channels, threads), 4);
      a.parts = divide_up(out_channels, a.part);
    }
  }
  const int64_t groups = n * divide_up(size, a.group);
  parallel(threads, groups * a.parts, [&](int64_t begin, int64_t end) { kernels.pointwise(a, begin, end); });
  return DICENAS_OK;
}

EXPORT int dicenas_downsample(const dicenas_selection* x, int64_t h, int64_t w, const float* constants, void* convolved,
                              void* pooled, int dtype, int threads) {
  const bool sizes = h > 0 && w > 0 && h * w == x->size && threads > 0;
  const ChannelOfMap* const channels = sizes ? find_channels(*x, dtype) : nullptr;
  if (!channels) return DICENAS_BAD_ARGUMENT;
  const Downsample a = {channels, constants, convolved, pooled, x->c, h, w};
  const Kernels kernels = kernels_for(dtype, 3, (w + 1) / 2);
  threads = (int)max_of(1, min_of(threads, x->n * x->c * x->size / 16384));
  parallel(threads, x->n * x->c, [&](int64_t begin, int64_t end) { kernels.downsample(a, begin, end); });
  return DICENAS_OK;
}
