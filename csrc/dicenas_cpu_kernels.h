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
// the row after it. There rows or columns are resized where filters are for another number of them (Resize), in front of
// the march and behind it.

#include "dicenas_cpu_vectors.h"
#include "dicenas_cpu_march.h"
#include "dicenas_cpu_dim_conv.h"
#include "dicenas_cpu_pointwise.h"
#include "dicenas_cpu_downsample.h"
#include "dicenas_cpu_training.h"

template <class T, int K>
static constexpr Kernels kernels() {
  return {LANES, dim_conv_items<T, K>, local_items<T, K>, backward_items<T, K>,
          unit_local<T, K>, unit_spatial<T>, unit_map_size, multiply, pointwise_items<T>, downsample_items<T>};
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
