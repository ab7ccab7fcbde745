// Runs the CUDA kernels on the host: one fiber for each thread of a block, which changes at barriers only. It finds
// barriers that not all threads reach, reads of shared memory that nobody wrote (it begins as NaN), results that
// depend on the order of the threads, and, built with -fsanitize=address, accesses outside any buffer.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>
#include <ucontext.h>

#define DICENAS_EMULATION
#define __device__
#define __forceinline__ inline

struct Index {
  unsigned x, y, z;
};

namespace emulation {

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool done;
};

Index thread, block, grid_size, block_size;
float* shared;
std::vector<Fiber> fibers;
ucontext_t scheduler;
unsigned current;

float half_to_float(unsigned short bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float sign = bits & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024.0f + fraction, exponent - 25) : std::ldexp((float)fraction, -24));
}

unsigned short float_to_half(float v) {
  if (v != v) return 0x7e00;
  const unsigned short sign = std::signbit(v) ? 0x8000 : 0;
  const double magnitude = std::fabs(v);
  if (magnitude >= 65520) return sign | 0x7c00;
  int exponent;
  std::frexp(magnitude, &exponent);
  exponent = std::max(exponent, -13);
  const long units = std::lrint(std::ldexp(magnitude, 11 - exponent));
  return sign | (unsigned short)(((exponent + 13) << 10) + units);
}

void barrier() { swapcontext(&fibers[current].context, &scheduler); }

}  // namespace emulation

#define threadIdx emulation::thread
#define blockIdx emulation::block
#define blockDim emulation::block_size
#define gridDim emulation::grid_size
#define __syncthreads emulation::barrier
#define DICENAS_SHARED(name) float* const name = emulation::shared

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

struct Arguments;
using Kernel = void (*)(const Arguments&);
static std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> all;
  return all;
}
struct Registration {
  Registration(const char* name, Kernel kernel) { kernels()[name] = kernel; }
};
#define DICENAS_KERNEL(name)                               \
  static void name(const Arguments& a);                    \
  static const Registration registered_##name(#name, name); \
  static void name(const Arguments& a)

#include KERNELS

namespace emulation {

Kernel kernel;
const Arguments* arguments;

void enter() {
  kernel(*arguments);
  fibers[current].done = true;
}

}  // namespace emulation

// Runs a kernel; `order` is 0 (threads ascending), 1 (descending) or the seed of random orders. Returns 0, or 1 for an
// unknown kernel, 2 for a launch that a device refuses, 3 for a barrier that some threads did not reach.
extern "C" int emulate(const char* name, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned threads,
                       unsigned shared_bytes, const Arguments* arguments, unsigned order) {
  using namespace emulation;
  const auto found = kernels().find(name);
  if (found == kernels().end()) return 1;
  if (!grid_x || !grid_y || !grid_z || grid_y > 65535 || grid_z > 65535 || !threads || threads > 256 ||
      shared_bytes > 48 * 1024)
    return 2;
  kernel = found->second;
  emulation::arguments = arguments;
  grid_size = {grid_x, grid_y, grid_z};
  block_size = {threads, 1, 1};
  if (fibers.size() < threads) fibers.resize(threads);
  std::vector<unsigned> sequence(threads);
  for (unsigned i = 0; i < threads; ++i) sequence[i] = order == 1 ? threads - 1 - i : i;
  std::mt19937 random(order);
  for (block.z = 0; block.z < grid_z; ++block.z)
    for (block.y = 0; block.y < grid_y; ++block.y)
      for (block.x = 0; block.x < grid_x; ++block.x) {
        std::vector<float> memory(shared_bytes / 4, NAN);
        shared = memory.data();
        for (Fiber& fiber : fibers) {
          fiber.stack.resize(64 * 1024);
          fiber.done = false;
          getcontext(&fiber.context);
          fiber.context.uc_stack.ss_sp = fiber.stack.data();
          fiber.context.uc_stack.ss_size = fiber.stack.size();
          fiber.context.uc_link = &scheduler;
          makecontext(&fiber.context, enter, 0);
        }
        for (unsigned done = 0; done < threads;) {
          if (order > 1) std::shuffle(sequence.begin(), sequence.end(), random);
          done = 0;
          for (unsigned i : sequence) {
            if (fibers[i].done) return 3;
            current = i;
            thread = {i, 0, 0};
            swapcontext(&scheduler, &fibers[i].context);
            done += fibers[i].done;
          }
          if (done && done < threads) return 3;
        }
      }
  return 0;
}
