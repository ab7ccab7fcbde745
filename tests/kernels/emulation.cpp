// Runs the CUDA kernels on the host: one fiber for each thread of a block, which changes at barriers only. It finds
// barriers that not all threads reach, reads of shared memory that nobody wrote (it begins as NaN), and results that
// depend on the order of the threads. The kernels stand in a file of their own: compiled with -fsanitize=address they
// show accesses outside any buffer, and with -fsanitize=thread races.cpp sees each access.
#include "emulation.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>
#include <ucontext.h>

#include "races.h"

namespace emulation {

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool done;
};

Index thread, block, grid_size, block_size;
float* shared;

static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static unsigned current;
static Kernel kernel;
static const Arguments* arguments;

std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> all;
  return all;
}

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

static void enter() {
  kernel(*arguments);
  fibers[current].done = true;
}

// Runs the threads of a block from barrier to barrier; whether all reach each.
static bool run_block(std::vector<unsigned>& sequence, bool shuffle, std::mt19937& random) {
  const unsigned threads = block_size.x;
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    fiber.stack.resize(16 * 1024);
    fiber.done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, enter, 0);
  }
  for (unsigned interval = 0, done = 0; done < threads; ++interval) {
    if (shuffle) std::shuffle(sequence.begin(), sequence.end(), random);
    done = 0;
    for (unsigned i : sequence) {
      Fiber& fiber = fibers[i];
      if (fiber.done) return false;
      current = i;
      thread = {i, 0, 0};
      races::enter(i, interval, fiber.stack.data(), fiber.stack.size());
      swapcontext(&scheduler, &fiber.context);
      races::leave();
      done += fiber.done;
    }
    if (done && done < threads) return false;
  }
  return true;
}

}  // namespace emulation

// Runs a kernel; `order` is 0 (threads ascending), 1 (descending) or the seed of random orders. Returns 0, or 1 for an
// unknown kernel, 2 for a launch that a device refuses, 3 for a barrier that some threads did not reach, 4 for a race.
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
  races::begin_launch();
  for (block.z = 0; block.z < grid_z; ++block.z)
    for (block.y = 0; block.y < grid_y; ++block.y)
      for (block.x = 0; block.x < grid_x; ++block.x) {
        std::vector<float> memory(shared_bytes / 4, NAN);
        shared = memory.data();
        races::begin_block(shared, shared_bytes);
        if (!run_block(sequence, order > 1, random)) return 3;
        if (races::found()) return 4;
      }
  return 0;
}

// The names of the kernels, in lines.
extern "C" const char* kernel_names() {
  static std::string names;
  if (names.empty())
    for (const auto& kernel : emulation::kernels()) names += kernel.first + "\n";
  return names.c_str();
}
