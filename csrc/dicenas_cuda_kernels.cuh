// The CUDA kernels. No header is included: nvcc, NVRTC and, with tests/kernels/emulation.h, a host compiler take this
// file alike. They are launched through the driver with one argument, a struct of plain values, so that neither the
// CUDA runtime nor torch is part of the binary.
//
// A thread owns one pixel (n, h, w) and walks over a chunk of the channels. The filters of its row and its column stay
// in registers with K partial results each; the values around the pixel come from the first-level cache. Consecutive
// threads own consecutive pixels, of several images where these are small, and the walk divides no integers.

struct Arguments {
  const void *x, *grad;  // (n, c, h, w) and (n, 3c, h, w), contiguous
  void* out;
  const float *weight_channel, *weight_width, *weight_height;  // (c, k, k), (w, k, k), (h, k, k)
  const float* local;  // (c, 14): constants of local fusion, as in dicenas_cpu.h
  float* parts;        // sums of the gradients of the filters, part by part
  int n, c, h, w;
  int chunk;           // channels of a block
  int group;           // images of a block, in the gradients of the filters
  int tile_h, tile_w;  // pixels of a block there
  int part_count, part_size;
};

struct Float16 {
  unsigned short bits;
};
struct BFloat16 {
  unsigned short bits;
};

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(BFloat16 v) { return __uint_as_float((unsigned)v.bits << 16); }
__device__ __forceinline__ float to_float(Float16 v) {
#ifdef DICENAS_EMULATION
  return emulation::half_to_float(v.bits);
#else
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(v.bits));
  return result;
#endif
}

__device__ __forceinline__ void assign(float& out, float v) { out = v; }
__device__ __forceinline__ void assign(BFloat16& out, float v) {
  const unsigned bits = __float_as_uint(v);
  out.bits = v != v ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
__device__ __forceinline__ void assign(Float16& out, float v) {
#ifdef DICENAS_EMULATION
  out.bits = emulation::float_to_half(v);
#else
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(v));
#endif
}

__device__ __forceinline__ float prelu(float v, float slope) { return v > 0 ? v : slope * v; }
__device__ __forceinline__ int least(int a, int b) { return a < b ? a : b; }

// Which of the K positions around `at` lie in 0 .. size - 1, as bits.
template <int K>
__device__ __forceinline__ unsigned inside(int at, int size) {
  unsigned bits = 0;
#pragma unroll
  for (int i = 0; i < K; ++i) bits |= (unsigned)(at + i - K / 2 >= 0 && at + i - K / 2 < size) << i;
  return bits;
}

enum Mode { FORWARD, LOCAL, GRAD_INPUT };

// FORWARD: the three branches of x. LOCAL: their fusion. GRAD_INPUT: the same walk over the three branches' gradients
// with the filters turned round, summed.
template <class T, int K, Mode MODE>
__device__ __forceinline__ void walk(const Arguments& a) {
  constexpr int R = K / 2, TAPS = K * K, USED = TAPS + (MODE == LOCAL ? 14 : 0), ROW = (USED + 3) / 4 * 4;
  DICENAS_SHARED(constants);  // of the chunk's channels: filter, and what LOCAL needs
  const int first = blockIdx.y * a.chunk, last = least(a.c, first + a.chunk);
  for (int i = threadIdx.x; i < (last - first) * ROW; i += blockDim.x) {
    const int c = first + i / ROW, t = i % ROW;
    float value = 0;
    if (t < TAPS) value = a.weight_channel[c * TAPS + (MODE == GRAD_INPUT ? TAPS - 1 - t : t)];
    else if (t < USED) value = a.local[c * 14 + t - TAPS];
    constants[i] = value;
  }
  __syncthreads();

  const int size = a.h * a.w;
  const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= (long long)a.n * size) return;
  const long long n = index / size;
  const int pixel = (int)(index - n * size), h = pixel / a.w, w = pixel - h * a.w;
  const unsigned rows = inside<K>(h, a.h), columns = inside<K>(w, a.w);
  float filter_h[TAPS], filter_w[TAPS];
#pragma unroll
  for (int t = 0; t < TAPS; ++t) {
    const int from = MODE == GRAD_INPUT ? TAPS - 1 - t : t;
    filter_h[t] = a.weight_height[h * TAPS + from];
    filter_w[t] = a.weight_width[w * TAPS + from];
  }

  const long long branch = MODE == GRAD_INPUT ? (long long)a.c * size : 0;
  const T* in = (const T*)(MODE == GRAD_INPUT ? a.grad : a.x) + n * (MODE == GRAD_INPUT ? 3 : 1) * a.c * size + pixel +
                (long long)(first - R) * size;
  T* out = (T*)a.out + (n * (MODE == FORWARD ? 3 : 1) * a.c + first) * size + pixel;
  // partial[i] is the result that the present plane meets with row i of the filter; the channel-wise results wait R
  // planes for the others.
  float partial_h[K], partial_w[K], waiting[R + 1];
#pragma unroll
  for (int i = 0; i < K; ++i) partial_h[i] = partial_w[i] = 0;
#pragma unroll
  for (int i = 0; i <= R; ++i) waiting[i] = 0;

  for (int q = first - R; q < last + R; ++q, in += size) {
#pragma unroll
    for (int i = K - 1; i > 0; --i) {
      partial_h[i] = partial_h[i - 1];
      partial_w[i] = partial_w[i - 1];
    }
    partial_h[0] = partial_w[0] = 0;
#pragma unroll
    for (int i = R; i > 0; --i) waiting[i] = waiting[i - 1];
    if (q >= 0 && q < a.c) {
      float row[K], column[K];
#pragma unroll
      for (int j = 0; j < K; ++j) row[j] = columns >> j & 1 ? to_float(in[branch + j - R]) : 0.0f;
#pragma unroll
      for (int i = 0; i < K; ++i) column[i] = rows >> i & 1 ? to_float(in[2 * branch + (i - R) * a.w]) : 0.0f;
      if (q >= first && q < last) {
        const float* filter = constants + (q - first) * ROW;
        float sum = 0;
#pragma unroll
        for (int i = 0; i < K; ++i)
#pragma unroll
          for (int j = 0; j < K; ++j) {
            float v;
            if (MODE != GRAD_INPUT && i == R) v = row[j];
            else if (MODE != GRAD_INPUT && j == R) v = column[i];
            else v = (rows >> i & columns >> j & 1) ? to_float(in[(i - R) * a.w + j - R]) : 0.0f;
            sum += filter[i * K + j] * v;
          }
        waiting[0] = sum;
      }
#pragma unroll
      for (int i = 0; i < K; ++i)
#pragma unroll
        for (int j = 0; j < K; ++j) {
          partial_h[i] += filter_h[i * K + j] * row[j];
          partial_w[i] += filter_w[j * K + i] * column[j];
        }
    }
    const int c = q - R;
    if (c < first) continue;
    const float d = waiting[R], y_h = partial_h[K - 1], y_w = partial_w[K - 1];
    if (MODE == FORWARD) {
      assign(out[0], d);
      assign(out[(long long)a.c * size], y_h);
      assign(out[2ll * a.c * size], y_w);
    } else if (MODE == GRAD_INPUT) {
      assign(out[0], d + y_h + y_w);
    } else {
      const float* k = constants + (c - first) * ROW + TAPS;
      float sum = k[12];
      sum += k[9] * prelu(d * k[0] + k[1], k[2]);
      sum += k[10] * prelu(y_h * k[3] + k[4], k[5]);
      sum += k[11] * prelu(y_w * k[6] + k[7], k[8]);
      assign(out[0], prelu(sum, k[13]));
    }
    out += size;
  }
}

// Gradients of the height- and width-wise filters. A block owns a tile of pixels, a chunk of channels and a group of
// images; it writes the sums of its rows and of its columns to its own part.
//   parts: (blocks of y and z, tiles across, h, k, k), then (blocks of y and z, tiles down, w, k, k)
template <class T, int K>
__device__ __forceinline__ void grad_rows_columns(const Arguments& a) {
  constexpr int R = K / 2, TAPS = K * K;
  DICENAS_SHARED(sums);  // (threads, k, k)
  const int across = (a.w + a.tile_w - 1) / a.tile_w, down = (a.h + a.tile_h - 1) / a.tile_h;
  const int tile_y = blockIdx.x / across, tile_x = blockIdx.x % across;
  const int local_h = threadIdx.x / a.tile_w, local_w = threadIdx.x % a.tile_w;
  const int h = tile_y * a.tile_h + local_h, w = tile_x * a.tile_w + local_w, size = a.h * a.w;
  const bool active = local_h < a.tile_h && h < a.h && w < a.w;
  const int first = blockIdx.y * a.chunk, last = least(a.c, first + a.chunk);
  float sum_h[TAPS], sum_w[TAPS];
#pragma unroll
  for (int t = 0; t < TAPS; ++t) sum_h[t] = sum_w[t] = 0;
  if (active) {
    const unsigned rows = inside<K>(h, a.h), columns = inside<K>(w, a.w);
    const int stop = least(a.n, (blockIdx.z + 1) * a.group);
    for (int n = blockIdx.z * a.group; n < stop; ++n) {
      const T* in = (const T*)a.x + ((long long)n * a.c + first - R) * size + h * a.w + w;
      const T* grad = (const T*)a.grad + ((long long)n * 3 * a.c + a.c + first) * size + h * a.w + w;
      float grad_h[K], grad_w[K];  // of the channels that the present plane reaches
#pragma unroll
      for (int i = 0; i < K; ++i) grad_h[i] = grad_w[i] = 0;
      for (int q = first - R; q < last + R; ++q, in += size) {
#pragma unroll
        for (int i = K - 1; i > 0; --i) {
          grad_h[i] = grad_h[i - 1];
          grad_w[i] = grad_w[i - 1];
        }
        grad_h[0] = grad_w[0] = 0;
        if (q + R < last) {
          grad_h[0] = to_float(grad[0]);
          grad_w[0] = to_float(grad[(long long)a.c * size]);
          grad += size;
        }
        if (q < 0 || q >= a.c) continue;
#pragma unroll
        for (int j = 0; j < K; ++j) {
          const float row = columns >> j & 1 ? to_float(in[j - R]) : 0.0f;
          const float column = rows >> j & 1 ? to_float(in[(j - R) * a.w]) : 0.0f;
#pragma unroll
          for (int i = 0; i < K; ++i) {
            sum_h[i * K + j] += grad_h[i] * row;
            sum_w[j * K + i] += grad_w[i] * column;
          }
        }
      }
    }
  }
  const long long part = (long long)blockIdx.z * gridDim.y + blockIdx.y, parts = (long long)gridDim.y * gridDim.z;
  float* out_h = a.parts + (part * across + tile_x) * a.h * TAPS;
  float* out_w = a.parts + parts * across * a.h * TAPS + (part * down + tile_y) * a.w * TAPS;
#pragma unroll
  for (int t = 0; t < TAPS; ++t) sums[threadIdx.x * TAPS + t] = sum_h[t];
  __syncthreads();
  for (int i = threadIdx.x; i < a.tile_h * TAPS; i += blockDim.x) {
    const int y = i / TAPS, t = i % TAPS;
    if (tile_y * a.tile_h + y >= a.h) continue;
    float sum = 0;
    for (int x = 0; x < a.tile_w; ++x) sum += sums[(y * a.tile_w + x) * TAPS + t];
    out_h[(tile_y * a.tile_h + y) * TAPS + t] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int t = 0; t < TAPS; ++t) sums[threadIdx.x * TAPS + t] = sum_w[t];
  __syncthreads();
  for (int i = threadIdx.x; i < a.tile_w * TAPS; i += blockDim.x) {
    const int x = i / TAPS, t = i % TAPS;
    if (tile_x * a.tile_w + x >= a.w) continue;
    float sum = 0;
    for (int y = 0; y < a.tile_h; ++y) sum += sums[(y * a.tile_w + x) * TAPS + t];
    out_w[(tile_x * a.tile_w + x) * TAPS + t] = sum;
  }
}

// Gradient of the channel-wise filters: block (x, y) sums channel x of group y. parts: (groups, c, k, k).
template <class T, int K>
__device__ __forceinline__ void grad_channels(const Arguments& a) {
  constexpr int R = K / 2, TAPS = K * K;
  DICENAS_SHARED(sums);  // (threads, k, k), a power of two threads
  const int c = blockIdx.x, size = a.h * a.w;
  float sum[TAPS];
#pragma unroll
  for (int t = 0; t < TAPS; ++t) sum[t] = 0;
  const int stop = least(a.n, (blockIdx.y + 1) * a.group);
  for (int n = blockIdx.y * a.group; n < stop; ++n) {
    const T* in = (const T*)a.x + ((long long)n * a.c + c) * size;
    const T* grad = (const T*)a.grad + ((long long)n * 3 * a.c + c) * size;
    for (int pixel = threadIdx.x; pixel < size; pixel += blockDim.x) {
      const int h = pixel / a.w, w = pixel - h * a.w;
      const unsigned rows = inside<K>(h, a.h), columns = inside<K>(w, a.w);
      const float g = to_float(grad[pixel]);
#pragma unroll
      for (int i = 0; i < K; ++i)
#pragma unroll
        for (int j = 0; j < K; ++j)
          if (rows >> i & columns >> j & 1) sum[i * K + j] += g * to_float(in[pixel + (i - R) * a.w + j - R]);
    }
  }
#pragma unroll
  for (int t = 0; t < TAPS; ++t) sums[threadIdx.x * TAPS + t] = sum[t];
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    __syncthreads();
    if ((int)threadIdx.x < half)
      for (int t = 0; t < TAPS; ++t) sums[threadIdx.x * TAPS + t] += sums[(threadIdx.x + half) * TAPS + t];
  }
  __syncthreads();
  if (threadIdx.x < TAPS) a.parts[((long long)blockIdx.y * a.c + c) * TAPS + threadIdx.x] = sums[threadIdx.x];
}

#define DICENAS_KERNELS_OF(T, name, K)                                                                               \
  DICENAS_KERNEL(dim_conv_##name##_k##K) { walk<T, K, FORWARD>(a); }                                                 \
  DICENAS_KERNEL(dim_conv_local_##name##_k##K) { walk<T, K, LOCAL>(a); }                                             \
  DICENAS_KERNEL(grad_input_##name##_k##K) { walk<T, K, GRAD_INPUT>(a); }                                            \
  DICENAS_KERNEL(grad_rows_columns_##name##_k##K) { grad_rows_columns<T, K>(a); }                                    \
  DICENAS_KERNEL(grad_channels_##name##_k##K) { grad_channels<T, K>(a); }

DICENAS_KERNELS_OF(float, float32, 3)
DICENAS_KERNELS_OF(float, float32, 5)
DICENAS_KERNELS_OF(Float16, float16, 3)
DICENAS_KERNELS_OF(Float16, float16, 5)
DICENAS_KERNELS_OF(BFloat16, bfloat16, 3)
DICENAS_KERNELS_OF(BFloat16, bfloat16, 5)

// out[i] = the sum of element i over the parts, in their order.
DICENAS_KERNEL(sum_parts) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= a.part_size) return;
  float sum = 0;
  for (int part = 0; part < a.part_count; ++part) sum += a.parts[(long long)part * a.part_size + i];
  ((float*)a.out)[i] = sum;
}
