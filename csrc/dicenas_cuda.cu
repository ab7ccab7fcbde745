// The translation unit of nvcc and NVRTC.
#define DICENAS_KERNEL(name) extern "C" __global__ void __launch_bounds__(256) name(const Arguments a)
#define DICENAS_SHARED(name) extern __shared__ __align__(16) float name[]

#include "dicenas_cuda_kernels.cuh"
