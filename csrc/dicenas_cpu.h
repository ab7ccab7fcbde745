// C interface of the CPU kernels: no torch and no Python headers, so that one build serves every version of both.
//
// Tensors are raw pointers with sizes (n, c, h, w); the input also has strides in elements, outputs are contiguous.
// Weights, their gradients and the folded constants are float32 whatever the data type of the tensors is. All
// functions return 0, or a negative code when an argument is out of range (no tensor is touched then).
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum dicenas_dtype { DICENAS_FLOAT32 = 0, DICENAS_FLOAT16 = 1, DICENAS_BFLOAT16 = 2, DICENAS_FLOAT64 = 3 };
enum dicenas_status { DICENAS_OK = 0, DICENAS_BAD_ARGUMENT = -1 };

// Raised whenever a signature below changes; the loader refuses a library of another version.
#define DICENAS_ABI_VERSION 5

int dicenas_abi_version(void);
// Hash of the sources that the library was built from.
const char* dicenas_source_hash(void);
// Name of the instruction set in use: "baseline", "avx2" or "avx512".
const char* dicenas_cpu_isa(void);

// y (n, 3c, h, w) = dimension-wise convolution of x with weight_channel (c, k, k), weight_width (native_w, k, k) and
// weight_height (native_h, k, k); k is 3 or 5. Where h is not native_h, the height-wise branch resizes its rows before
// the filters and back behind them, and likewise the width-wise branch its columns: linear interpolation with aligned
// corners to grow, adaptive average pooling to shrink.
int dicenas_dim_conv(const void* x, const float* weight_channel, const float* weight_width,
                     const float* weight_height, void* y, int64_t n, int64_t c, int64_t h, int64_t w,
                     int64_t native_h, int64_t native_w, int64_t stride_n, int64_t stride_c, int64_t stride_h,
                     int64_t stride_w, int kernel_size, int dtype, int threads);

// Gradients of dicenas_dim_conv from grad (n, 3c, h, w), contiguous. grad_x may be null; so may the three
// gradients of the weights, together. The sums are taken in an order that depends on the sizes alone.
int dicenas_dim_conv_backward(const void* grad, const void* x, const float* weight_channel, const float* weight_width,
                              const float* weight_height, void* grad_x, float* grad_weight_channel,
                              float* grad_weight_width, float* grad_weight_height, int64_t n, int64_t c, int64_t h,
                              int64_t w, int64_t native_h, int64_t native_w, int64_t stride_n, int64_t stride_c,
                              int64_t stride_h, int64_t stride_w, int kernel_size, int dtype, int threads);

// y (n, c, h, w): dimension-wise convolution, folded normalisation and PReLU of the three branches, their local
// fusion, folded normalisation and PReLU. `local` has 14 constants a channel: (scale, shift, slope) of the
// channel-, height- and width-wise branch, the three fusion weights, and shift and slope of the result.
int dicenas_dim_conv_local(const void* x, const float* weight_channel, const float* weight_width,
                           const float* weight_height, const float* local, void* y, int64_t n, int64_t c, int64_t h,
                           int64_t w, int64_t native_h, int64_t native_w, int64_t stride_n, int64_t stride_c,
                           int64_t stride_h, int64_t stride_w, int kernel_size, int dtype, int threads);

// y (n, c, h, w): the whole DiCE unit in inference. After dicenas_dim_conv_local a depth-wise 3x3 convolution with
// folded normalisation and PReLU, scaled by the gate. `spatial` has 11 constants a channel: nine weights, shift
// and slope; gate_reduce is (squeezed, c) and gate_expand (c, squeezed).
int dicenas_dice_unit(const void* x, const float* weight_channel, const float* weight_width,
                      const float* weight_height, const float* local, const float* spatial, const float* gate_reduce,
                      const float* gate_expand, int64_t squeezed, void* y, int64_t n, int64_t c, int64_t h, int64_t w,
                      int64_t native_h, int64_t native_w, int64_t stride_n, int64_t stride_c, int64_t stride_h,
                      int64_t stride_w, int kernel_size, int dtype, int threads);

// A map (n, c, h * w) whose pixels lie one after another.
typedef struct {
  const void* data;
  int64_t c, stride_n, stride_c;
} dicenas_map;

// Some channels of several maps of one size: number k is channels[k], counted through all channels of the maps; without
// `channels` (null) it is k.
typedef struct {
  const dicenas_map* maps;
  int64_t map_count;
  const int64_t* channels;
  int64_t n, c, size;
} dicenas_selection;

// y (n, c, size) = the channels of x, one after another.
int dicenas_select_channels(const dicenas_selection* x, void* y, int dtype, int threads);

// y (n, out_channels, size) = a point-wise convolution of the channels of x, plus bias, through PReLU; weight is
// (out_channels, c).
int dicenas_pointwise(const dicenas_selection* x, const float* weight, const float* bias, const float* slope, void* y,
                      int64_t out_channels, int dtype, int threads);

// Of the channels of x, whose size is h * w, two maps (n, c, (h + 1) / 2, (w + 1) / 2): a depth-wise 3x3 convolution of
// stride 2 and padding 1 with bias and PReLU, and average pooling over the same nine places. `constants` has 11 a
// channel: nine weights, bias and slope.
int dicenas_downsample(const dicenas_selection* x, int64_t h, int64_t w, const float* constants, void* convolved,
                       void* pooled, int dtype, int threads);

// Training, float32 and float64 only: every pointer below is to elements of `dtype`, every tensor is contiguous.
//
// Normalisation by the statistics of the batch with PReLU behind it. The forward functions write mean and var (the
// unbiased variance), the backward functions read them and write the gradients. Constants have one value a channel.
typedef struct {
  const void *weight, *bias, *slope;
  void *mean, *var;
  void *grad_weight, *grad_bias, *grad_slope;
  double eps;
} dicenas_norm;

// Arguments of the functions below; what one of them does not name may be null.
typedef struct {
  int64_t n, c, h, w;  // of the result
  int kernel_size, dtype, threads;
  const void* x;
  void* y;
  const void* grad;  // of y
  void* grad_x;
  dicenas_norm norm, out_norm;
  const void* fusion;
  void* grad_fusion;
  void* pooled;
  const void* filter;
  void* grad_filter;
  const void* gate;
  void* grad_gate;
} dicenas_training;

// y = PReLU(norm(x)), all (n, c, h, w). A channel needs two values at least, here and below.
int dicenas_norm_act(const dicenas_training* arguments);
int dicenas_norm_act_backward(const dicenas_training* arguments);

// y (n, c, h, w) = PReLU(out_norm(sum over b of fusion[c][b] * PReLU(norm(x))[b * C + c])) of x (n, 3c, h, w), and
// pooled (n, c), the means of y over h and w; norm has 3c channels, fusion is (c, 3). Backward, pooled is the gradient
// of these means.
int dicenas_local_fusion(const dicenas_training* arguments);
int dicenas_local_fusion_backward(const dicenas_training* arguments);

// y (n, c, h, w) = PReLU(norm(depth-wise convolution of x with filter (c, k, k))) times gate (n, c) unless it is null;
// k is 3 or 5, the padding k / 2.
int dicenas_depthwise_norm_act(const dicenas_training* arguments);
int dicenas_depthwise_norm_act_backward(const dicenas_training* arguments);

#ifdef __cplusplus
}
#endif
