// The C interface of the CPU kernels: checks, the partition into chunks of channels, threads, and the choice of the
// instruction set. Built with g++ or clang++ and OpenMP, no other library.
#include "dicenas_cpu.h"

#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef DICENAS_SOURCE_HASH
#define DICENAS_SOURCE_HASH ""
#endif

namespace {

inline int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

inline float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

inline uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

inline float to_float(float value) { return value; }
inline double to_float(double value) { return value; }
inline float to_float(BFloat16 value) { return float_of((uint32_t)value.bits << 16); }
inline float to_float(Float16 value) {
  const uint32_t sign = (uint32_t)(value.bits & 0x8000) << 16, magnitude = value.bits & 0x7fff;
  if (magnitude >= 0x7c00) return float_of(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  // The exponent is brought into place by a multiplication, which is right for subnormal numbers too.
  return float_of(sign | bits_of(float_of(magnitude << 13) * float_of(0x77800000)));
}

template <class T>
T from_float(float value);
template <>
[[maybe_unused]] Float16 from_float<Float16>(float value) {
  const uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return {(uint16_t)(sign | 0x7e00)};
  if (magnitude >= 0x477ff000) return {(uint16_t)(sign | 0x7c00)};
  if (magnitude < 0x38800000) {  // subnormal: the addition rounds to a multiple of 2^-24
    return {(uint16_t)(sign | (bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f)))};
  }
  return {(uint16_t)(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13))};
}

// Folded constants of a channel in local fusion.
struct Local {
  float scale[3], shift[3], weight[3], negative[3], shift_out, slope_out;
};

// A resizing of rows or of columns: target i is the sum over t of weights[t][i] * source[first[i] + t].
struct Resize {
  int64_t taps = 0;    // 0: the size stays
  int64_t stride = 0;  // of the targets, with room for a vector behind the last, where weights are zero
  const int32_t* first = nullptr;
  const float* weights = nullptr;
};

struct Problem {
  int64_t n, c, h, w;
  int64_t native_h, native_w;  // rows and columns that there are filters for
  int64_t stride_n, stride_c, stride_h, stride_w;
  const void* x = nullptr;
  void* y = nullptr;
  const float *weight_channel = nullptr, *weight_height = nullptr;
  const float* column_filters = nullptr;  // the width-wise filters as (walk over c, tap over h, w), `columns` apart
  int64_t columns = 0;
  Resize rows_in, rows_out, columns_in, columns_out;  // to the native size, before the filters, and back
  int64_t chunk = 0, chunks = 0;  // channels of a chunk, chunks of an image
  const Local* local = nullptr;
  const float* spatial = nullptr;
  // Of the gradients only; the filters are flipped then.
  const void* grad = nullptr;
  void* grad_x = nullptr;
  float* weight_sums = nullptr;
  Resize rows_of_x, columns_of_x;
  int64_t group = 0;  // images of an item
};

// A channel in the first image, and how far it is to the next one's.
struct ChannelOfMap {
  const void* data;
  int64_t stride_n;
};

struct Pointwise {
  const ChannelOfMap* x;
  const float *weight, *bias, *slope;
  void* y;
  int64_t n, c, out_channels, size;
  int64_t group;        // pixels of an item
  int64_t part, parts;  // output channels of an item, items of a group of pixels
};

struct Downsample {
  const ChannelOfMap* x;
  const float* constants;
  void *convolved, *pooled;
  int64_t c, h, w;
};

struct Kernels {
  int lanes;
  void (*dim_conv)(const Problem&, int64_t begin, int64_t end);
  void (*local)(const Problem&, int64_t begin, int64_t end);
  void (*backward)(const Problem&, int64_t begin, int64_t end);
  void (*unit_local)(const Problem&, int64_t n, int64_t begin, int64_t end, float* maps, float* means);
  void (*unit_spatial)(const Problem&, int64_t n, int64_t begin, int64_t end, const float* maps, const float* gates);
  int64_t (*unit_map_size)(const Problem&);
  void (*multiply)(const float* weights, const float* in, int64_t rows, int64_t columns, float* out);
  void (*pointwise)(const Pointwise&, int64_t begin, int64_t end);
  void (*downsample)(const Downsample&, int64_t begin, int64_t end);
};

// Each does channels begin .. end - 1 of the result.
typedef void TrainingItems(const dicenas_training&, int64_t begin, int64_t end);

struct TrainingKernels {
  TrainingItems *norm_act, *norm_act_backward, *local_fusion, *local_fusion_backward, *depthwise, *depthwise_backward;
};

// Memory that grows and is kept: a call on a small map would spend more time on page faults than on its result.
class Buffer {
 public:
  ~Buffer() { free(data_); }
  float* reserve(int64_t count) {
    if (count > size_) {
      free(data_);
      size_ = round_up(count, 1024);
      data_ = (float*)aligned_alloc(64, size_ * sizeof(float));
      if (!data_) abort();
    }
    return data_;
  }

 private:
  float* data_ = nullptr;
  int64_t size_ = 0;
};

// Of the kernels: one for each thread.
float* scratch(int64_t count) {
  static thread_local Buffer buffer;
  return buffer.reserve(count);
}

// Of the calling thread, shared by the threads that work for it.
float* workspace(int64_t count) {
  static thread_local Buffer buffer;
  return buffer.reserve(count);
}

namespace baseline {
#define LANES 4
#include "dicenas_cpu_kernels.h"
#undef LANES
}  // namespace baseline

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
namespace avx2 {
#define LANES 8
#include "dicenas_cpu_kernels.h"
#undef LANES
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512vl,avx512bw,avx512dq,prefer-vector-width=512")
namespace avx512 {
#define LANES 16
#include "dicenas_cpu_kernels.h"
#undef LANES
}  // namespace avx512
#pragma GCC pop_options
#endif

enum Isa { BASELINE, AVX2, AVX512 };
const char* const ISA_NAMES[] = {"baseline", "avx2", "avx512"};

// The instruction set that serves this machine best, or the one that DICENAS_CPU_ISA names where the machine has it.
Isa isa() {
  static const Isa chosen = [] {
    Isa most = BASELINE, best = BASELINE;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) most = AVX2;
    if (most == AVX2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
      most = AVX512;
    // Zen 4 does the arithmetic of 512 bits in two halves, and every neighbour's load crosses a cache line: 8 lanes
    // take a quarter less time than 16 there.
    best = most == AVX512 && __builtin_cpu_is("amdfam19h") ? AVX2 : most;
#endif
    const char* const wanted = getenv("DICENAS_CPU_ISA");
    for (int i = BASELINE; wanted && i <= most; ++i)
      if (!strcmp(wanted, ISA_NAMES[i])) return (Isa)i;
    return best;
  }();
  return chosen;
}

Kernels kernels_for(int dtype, int kernel_size, int64_t w) {
#if defined(__x86_64__)
  if (isa() == AVX512 && w >= 16) return avx512::select(dtype, kernel_size);
  if (isa() >= AVX2) return avx2::select(dtype, kernel_size);  // narrow rows would leave most of 16 lanes idle
#endif
  return baseline::select(dtype, kernel_size);
}

TrainingKernels training_kernels_for(const dicenas_training& a, int64_t narrowest) {
#if defined(__x86_64__)
  if (isa() == AVX512 && narrowest >= 16) return avx512::select_training(a.dtype, a.kernel_size);
  if (isa() >= AVX2) return avx2::select_training(a.dtype, a.kernel_size);
#endif
  return baseline::select_training(a.dtype, a.kernel_size);
}

bool valid(const Problem& a, int kernel_size, int dtype, int threads) {
  const int64_t limit = (int64_t)1 << 31;
  return a.n >= 0 && a.c > 0 && a.h > 0 && a.w > 0 && a.c < limit && a.h < limit && a.w < limit && a.native_h > 0 &&
         a.native_w > 0 && a.native_h < limit && a.native_w < limit &&
         (kernel_size == 3 || kernel_size == 5) && dtype >= DICENAS_FLOAT32 && dtype <= DICENAS_BFLOAT16 &&
         threads > 0;
}

// Threads that are worth starting: one takes about 10 us to arrive, in which another does 100 000 elements' taps.
int useful_threads(const Problem& a, int threads) {
  const int64_t work = a.n * a.c * a.h * a.w;
  return (int)max_of(1, min_of(threads, work / 8192));
}

// Cuts the channels into chunks whose planes fit the second-level cache, as many for each thread.
void set_chunks(Problem& a, int kernel_size, int planes_a_channel, int threads) {
  const int64_t h = max_of(a.h, a.native_h), w = max_of(a.w, a.native_w);
  const int64_t plane = (h + kernel_size) * round_up(w + kernel_size, 8) * (int64_t)sizeof(float);
  if (a.h != a.native_h || a.w != a.native_w) planes_a_channel += 2;
  const int64_t fitting = max_of(2 * (kernel_size - 1), min_of(32, 256 * 1024 / (plane * planes_a_channel)));
  a.chunks = divide_up(a.c, fitting);
  if (a.n % threads) a.chunks = min_of(a.c, round_up(a.chunks, threads));
  a.chunk = divide_up(a.c, a.chunks);
  a.chunks = divide_up(a.c, a.chunk);
}

template <class Body>
void parallel(int threads, int64_t items, Body body) {
#ifdef _OPENMP
  if (threads > 1 && items > 1) {
#pragma omp parallel num_threads((int)min_of(threads, items))
    {
      const int64_t team = omp_get_num_threads(), rank = omp_get_thread_num();
      const int64_t begin = items * rank / team, end = items * (rank + 1) / team;
      if (begin < end) body(begin, end);
    }
    return;
  }
#endif
  body(0, items);
}

int64_t column_filters_size(const Problem& a, int kernel_size) {
  return round_up(kernel_size * kernel_size * (a.native_w + 16), 16);
}

// Lays the width-wise filters (w, tap over h, walk over c) out as (walk, tap, w), flipped for the gradient.
void set_column_filters(Problem& a, const float* weight_width, int kernel_size, bool flip, float* out) {
  const int taps = kernel_size * kernel_size;
  a.columns = a.native_w + 16;
  a.column_filters = out;
  for (int walk = 0; walk < kernel_size; ++walk)
    for (int tap = 0; tap < kernel_size; ++tap, out += a.columns) {
      const int from = flip ? taps - 1 - (tap * kernel_size + walk) : tap * kernel_size + walk;
      for (int64_t w = 0; w < a.native_w; ++w) out[w] = weight_width[w * taps + from];
      for (int64_t w = a.native_w; w < a.columns; ++w) out[w] = 0;
    }
}

#include "dicenas_cpu_resize.h"

int64_t local_size(int64_t c) { return round_up(c * (int64_t)(sizeof(Local) / sizeof(float)), 16); }

void set_local(Problem& a, const float* local, float* out) {
  Local* k = (Local*)out;
  a.local = k;
  for (int64_t c = 0; c < a.c; ++c, ++k, local += 14) {
    for (int b = 0; b < 3; ++b) {
      k->scale[b] = local[3 * b];
      k->shift[b] = local[3 * b + 1];
      k->weight[b] = local[9 + b];
      k->negative[b] = local[9 + b] * local[3 * b + 2];
    }
    k->shift_out = local[12];
    k->slope_out = local[13];
  }
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int dicenas_abi_version(void) { return DICENAS_ABI_VERSION; }
EXPORT const char* dicenas_source_hash(void) { return DICENAS_SOURCE_HASH; }
EXPORT const char* dicenas_cpu_isa(void) { return ISA_NAMES[isa()]; }

EXPORT int dicenas_dim_conv(const void* x, const float* weight_channel, const float* weight_width,
                            const float* weight_height, void* y, int64_t n, int64_t c, int64_t h, int64_t w,
                            int64_t native_h, int64_t native_w, int64_t stride_n, int64_t stride_c, int64_t stride_h,
                            int64_t stride_w, int kernel_size, int dtype, int threads) {
  Problem a = {n, c, h, w, native_h, native_w, stride_n, stride_c, stride_h, stride_w};
  if (!valid(a, kernel_size, dtype, threads)) return DICENAS_BAD_ARGUMENT;
  if (n == 0) return DICENAS_OK;
  a.x = x;
  a.y = y;
  a.weight_channel = weight_channel;
  a.weight_height = weight_height;
  float* memory = workspace(column_filters_size(a, kernel_size) + resizes_size(a, false));
  set_column_filters(a, weight_width, kernel_size, false, memory);
  set_resizes(a, false, memory += column_filters_size(a, kernel_size));
  threads = useful_threads(a, threads);
  set_chunks(a, kernel_size, 1, threads);
  const Kernels kernels = kernels_for(dtype, kernel_size, w);
  parallel(threads, n * a.chunks, [&](int64_t begin, int64_t end) { kernels.dim_conv(a, begin, end); });
  return DICENAS_OK;
}

EXPORT int dicenas_dim_conv_backward(const void* grad, const void* x, const float* weight_channel,
                                     const float* weight_width, const float* weight_height, void* grad_x,
                                     float* grad_weight_channel, float* grad_weight_width, float* grad_weight_height,
                                     int64_t n, int64_t c, int64_t h, int64_t w, int64_t native_h, int64_t native_w,
                                     int64_t stride_n, int64_t stride_c, int64_t stride_h, int64_t stride_w,
                                     int kernel_size, int dtype, int threads) {
  Problem a = {n, c, h, w, native_h, native_w, stride_n, stride_c, stride_h, stride_w};
  if (!valid(a, kernel_size, dtype, threads)) return DICENAS_BAD_ARGUMENT;
  const int taps = kernel_size * kernel_size;
  a.x = x;
  a.grad = grad;
  a.grad_x = grad_x;
  // Neither the chunks nor the groups depend on the number of threads, so that neither do the sums' last bits.
  set_chunks(a, kernel_size, 5, 1);
  a.chunk = min_of(a.chunk, 16);
  a.chunks = divide_up(c, a.chunk);
  a.group = max_of(1, divide_up(n, 8));
  const int64_t groups = divide_up(n, a.group), items = groups * a.chunks;
  const int64_t part = (a.chunk + native_h + native_w) * taps, sums = grad_weight_channel ? items * part : 0;
  const int64_t resizes = resizes_size(a, true) + resize_size(h, native_h, false) + resize_size(w, native_w, false);
  float* memory = workspace(column_filters_size(a, kernel_size) + resizes + (c + native_h) * taps + sums);
  set_column_filters(a, weight_width, kernel_size, true, memory);
  set_resizes(a, true, memory += column_filters_size(a, kernel_size));
  set_resize(a.rows_of_x, h, native_h, false, memory);
  set_resize(a.columns_of_x, w, native_w, false, memory);
  a.weight_channel = memory;
  for (int64_t i = 0; i < c; ++i)
    for (int t = 0; t < taps; ++t) *memory++ = weight_channel[i * taps + taps - 1 - t];
  a.weight_height = memory;
  for (int64_t i = 0; i < native_h; ++i)
    for (int t = 0; t < taps; ++t) *memory++ = weight_height[i * taps + taps - 1 - t];
  a.weight_sums = grad_weight_channel ? memory : nullptr;
  const Kernels kernels = kernels_for(dtype, kernel_size, w);
  parallel(useful_threads(a, threads), items, [&](int64_t begin, int64_t end) { kernels.backward(a, begin, end); });
  if (!grad_weight_channel) return DICENAS_OK;
  memset(grad_weight_channel, 0, c * taps * sizeof(float));
  memset(grad_weight_height, 0, native_h * taps * sizeof(float));
  memset(grad_weight_width, 0, native_w * taps * sizeof(float));
  for (int64_t item = 0; item < items; ++item) {
    const float* in = a.weight_sums + item * part;
    const int64_t first = item % a.chunks * a.chunk, count = min_of(a.chunk, c - first);
    for (int64_t i = 0; i < count * taps; ++i) grad_weight_channel[first * taps + i] += in[i];
    in += a.chunk * taps;
    for (int64_t i = 0; i < native_h * taps; ++i) grad_weight_height[i] += in[i];
    in += native_h * taps;
    for (int64_t i = 0; i < native_w * taps; ++i) grad_weight_width[i] += in[i];
  }
  return DICENAS_OK;
}

EXPORT int dicenas_dim_conv_local(const void* x, const float* weight_channel, const float* weight_width,
                                  const float* weight_height, const float* local, void* y, int64_t n, int64_t c,
                                  int64_t h, int64_t w, int64_t native_h, int64_t native_w, int64_t stride_n,
                                  int64_t stride_c, int64_t stride_h, int64_t stride_w, int kernel_size, int dtype,
                                  int threads) {
  Problem a = {n, c, h, w, native_h, native_w, stride_n, stride_c, stride_h, stride_w};
  if (!valid(a, kernel_size, dtype, threads)) return DICENAS_BAD_ARGUMENT;
  if (n == 0) return DICENAS_OK;
  a.x = x;
  a.y = y;
  a.weight_channel = weight_channel;
  a.weight_height = weight_height;
  float* memory = workspace(local_size(c) + column_filters_size(a, kernel_size) + resizes_size(a, false));
  set_local(a, local, memory);
  set_column_filters(a, weight_width, kernel_size, false, memory += local_size(c));
  set_resizes(a, false, memory += column_filters_size(a, kernel_size));
  threads = useful_threads(a, threads);
  set_chunks(a, kernel_size, 2, threads);
  const Kernels kernels = kernels_for(dtype, kernel_size, w);
  parallel(threads, n * a.chunks, [&](int64_t begin, int64_t end) { kernels.local(a, begin, end); });
  return DICENAS_OK;
}

EXPORT int dicenas_dice_unit(const void* x, const float* weight_channel, const float* weight_width,
                             const float* weight_height, const float* local, const float* spatial,
                             const float* gate_reduce, const float* gate_expand, int64_t squeezed, void* y, int64_t n,
                             int64_t c, int64_t h, int64_t w, int64_t native_h, int64_t native_w, int64_t stride_n,
                             int64_t stride_c, int64_t stride_h, int64_t stride_w, int kernel_size, int dtype,
                             int threads) {
  Problem a = {n, c, h, w, native_h, native_w, stride_n, stride_c, stride_h, stride_w};
  if (!valid(a, kernel_size, dtype, threads) || squeezed <= 0) return DICENAS_BAD_ARGUMENT;
  if (n == 0) return DICENAS_OK;
  const Kernels kernels = kernels_for(dtype, kernel_size, w);
  a.x = x;
  a.y = y;
  a.weight_channel = weight_channel;
  a.weight_height = weight_height;
  a.spatial = spatial;
  threads = useful_threads(a, threads);
  // With an image for each thread, a thread's maps stay in its cache and nobody waits; else all share each image.
  const bool by_image = n >= threads;
  const int teams = by_image ? threads : 1, members = by_image ? 1 : threads;
  const int64_t map_size = round_up(kernels.unit_map_size(a), 16);
  const int64_t image = map_size + round_up(2 * c + squeezed, 16);
  const int64_t filters = column_filters_size(a, kernel_size);
  float* memory = workspace(local_size(c) + filters + resizes_size(a, false) + teams * image);
  set_local(a, local, memory);
  set_column_filters(a, weight_width, kernel_size, false, memory += local_size(c));
  set_resizes(a, false, memory += filters);
  set_chunks(a, kernel_size, 2, by_image ? 1 : threads);
  const auto run_images = [&](int64_t first, int64_t last, float* maps) {
    float *means = maps + map_size, *gates = means + c, *hidden = gates + c;
    for (int64_t i = first; i < last; ++i) {
      parallel(members, a.chunks,
               [&](int64_t begin, int64_t end) { kernels.unit_local(a, i, begin, end, maps, means); });
      kernels.multiply(gate_reduce, means, squeezed, c, hidden);
      for (int64_t r = 0; r < squeezed; ++r) hidden[r] = hidden[r] < 0 ? 0 : hidden[r];  // NaN stays
      kernels.multiply(gate_expand, hidden, c, squeezed, gates);
      for (int64_t k = 0; k < c; ++k) gates[k] = 1 / (1 + __builtin_expf(-gates[k]));
      parallel(members, c, [&](int64_t begin, int64_t end) { kernels.unit_spatial(a, i, begin, end, maps, gates); });
    }
  };
  if (!by_image) {
    run_images(0, n, memory);
    return DICENAS_OK;
  }
  parallel(threads, threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) run_images(n * t / threads, n * (t + 1) / threads, memory + t * image);
  });
  return DICENAS_OK;
}

#include "dicenas_cpu_selections.h"

namespace {

// `narrowest`: elements that lie one after another wherever the kernel works in vectors.
int train(const dicenas_training* arguments, int64_t narrowest, TrainingItems* TrainingKernels::*items) {
  const dicenas_training& a = *arguments;
  const int64_t limit = (int64_t)1 << 31;
  const bool sizes = a.n > 0 && a.c > 0 && a.h > 0 && a.w > 0 && a.c < limit && a.h < limit && a.w < limit;
  if (!sizes || a.n * a.h * a.w < 2 || (a.dtype != DICENAS_FLOAT32 && a.dtype != DICENAS_FLOAT64) || a.threads <= 0)
    return DICENAS_BAD_ARGUMENT;
  TrainingItems* run = training_kernels_for(a, narrowest).*items;
  const int threads = (int)max_of(1, min_of(a.threads, a.n * a.c * a.h * a.w / 8192));
  parallel(threads, a.c, [&](int64_t begin, int64_t end) { run(a, begin, end); });
  return DICENAS_OK;
}

int train_depthwise(const dicenas_training* a, TrainingItems* TrainingKernels::*items) {
  return a->kernel_size == 3 || a->kernel_size == 5 ? train(a, a->w, items) : DICENAS_BAD_ARGUMENT;
}

}  // namespace

EXPORT int dicenas_norm_act(const dicenas_training* a) {
  return train(a, a->n * a->h * a->w, &TrainingKernels::norm_act);
}
EXPORT int dicenas_norm_act_backward(const dicenas_training* a) {
  return train(a, a->n * a->h * a->w, &TrainingKernels::norm_act_backward);
}
EXPORT int dicenas_local_fusion(const dicenas_training* a) {
  return train(a, a->n * a->h * a->w, &TrainingKernels::local_fusion);
}
EXPORT int dicenas_local_fusion_backward(const dicenas_training* a) {
  return train(a, a->n * a->h * a->w, &TrainingKernels::local_fusion_backward);
}
EXPORT int dicenas_depthwise_norm_act(const dicenas_training* a) {
  return train_depthwise(a, &TrainingKernels::depthwise);
}
EXPORT int dicenas_depthwise_norm_act_backward(const dicenas_training* a) {
  return train_depthwise(a, &TrainingKernels::depthwise_backward);
}
