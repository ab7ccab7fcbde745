// What a kernel sees when it is compiled for the host: CUDA's names, and a table of the kernels.
#pragma once
#include <cmath>
#include <cstring>
#include <map>
#include <string>

#define DICENAS_EMULATION
#define __device__
#define __forceinline__ inline

struct Index {
  unsigned x, y, z;
};

struct Arguments;
using Kernel = void (*)(const Arguments&);

namespace emulation {

extern Index thread, block, grid_size, block_size;
extern float* shared;

float half_to_float(unsigned short bits);
unsigned short float_to_half(float v);
void barrier();
std::map<std::string, Kernel>& kernels();

struct Registration {
  Registration(const char* name, Kernel kernel) { kernels()[name] = kernel; }
};

}  // namespace emulation

#define threadIdx emulation::thread
#define blockIdx emulation::block
#define blockDim emulation::block_size
#define gridDim emulation::grid_size
#define __syncthreads emulation::barrier
#define DICENAS_SHARED(name) float* const name = emulation::shared
#define DICENAS_KERNEL(name)                                           \
  static void name(const Arguments& a);                                \
  static const emulation::Registration registered_##name(#name, name); \
  static void name(const Arguments& a)

inline float __uint_as_float(unsigned bits) {
  float v;
  memcpy(&v, &bits, 4);
  return v;
}
inline unsigned __float_as_uint(float v) {
  unsigned bits;
  memcpy(&bits, &v, 4);
  return bits;
}
