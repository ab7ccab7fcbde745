// Finds races between CUDA threads. Kernels compiled with -fsanitize=thread call the functions at the end before each
// access to memory. They stand in for that sanitizer's own runtime, which knows the threads of the host; here the rules
// are CUDA's. Two accesses to the same memory, one of them a write, by two threads are a race
// - within a block, if no barrier lies between them,
// - between blocks, always: within a launch nothing orders them.
// What is found does not depend on the order in which threads and blocks happen to run, nor on the values.
#include "races.h"

#include <cstdint>
#include <cstdio>
#include <unordered_map>
#include <vector>
#include <dlfcn.h>

namespace races {

constexpr unsigned NONE = ~0u;

struct Access {
  unsigned block = NONE, interval = 0, thread = 0;
  const void* code = nullptr;
};

struct Cell {  // of two bytes of memory
  Access write, read;
  bool read_by_several = false;  // threads of that block, in that interval
  Access read_elsewhere;         // by a block before
};

constexpr uintptr_t PAGE = 4096;
static std::unordered_map<uintptr_t, std::vector<Cell>> pages;
static std::vector<Cell>* last_page;
static uintptr_t last_page_at, stack_from, stack_to, shared_from, shared_to;
static Access now;
static bool inside = false, any = false;
static char message[512];

static Cell& cell(uintptr_t at) {
  if (!last_page || at / PAGE != last_page_at) {
    last_page_at = at / PAGE;
    last_page = &pages[last_page_at];
    last_page->resize(PAGE / 2);
  }
  return (*last_page)[at % PAGE / 2];
}

void begin_launch() {
  pages.clear();
  last_page = nullptr;
  any = false;
  now.block = NONE;
}

void begin_block(const void* shared, size_t shared_bytes) {
  ++now.block;
  shared_from = (uintptr_t)shared;
  shared_to = shared_from + shared_bytes;
  for (uintptr_t at = shared_from; at < shared_to; at += 2) cell(at) = Cell();  // another block's memory
}

void enter(unsigned thread, unsigned interval, const void* stack, size_t stack_bytes) {
  now.thread = thread;
  now.interval = interval;
  stack_from = (uintptr_t)stack;
  stack_to = stack_from + stack_bytes;
  inside = true;
}

void leave() { inside = false; }
bool found() { return any; }

static bool unordered(const Access& before) {
  if (before.block == NONE) return false;
  return before.block != now.block || (before.interval == now.interval && before.thread != now.thread);
}

static unsigned long offset_of(const void* code) {
  Dl_info info;
  return dladdr(code, &info) ? (uintptr_t)code - (uintptr_t)info.dli_fbase - 1 : 0;
}

static void report(uintptr_t at, const Access& before, const char* what, const char* what_before) {
  if (any) return;
  any = true;
  snprintf(message, sizeof message, "%s %lx %lx %s by thread %u of block %u, %s by thread %u of block %u",
           at >= shared_from && at < shared_to ? "shared" : "global", offset_of(now.code), offset_of(before.code), what,
           now.thread, now.block, what_before, before.thread, before.block);
}

static void access(uintptr_t from, size_t size, bool writes, const void* code) {
  if (!inside || (from >= stack_from && from < stack_to)) return;
  now.code = code;
  for (uintptr_t at = from; at < from + size; at += 2) {
    Cell& c = cell(at);
    if (unordered(c.write)) report(at, c.write, writes ? "write" : "read", "write");
    const bool same_interval = c.read.block == now.block && c.read.interval == now.interval;
    const bool other_reader = same_interval && (c.read_by_several || c.read.thread != now.thread);
    if (writes) {
      if (c.read_elsewhere.block != NONE) report(at, c.read_elsewhere, "write", "read");
      if (other_reader || unordered(c.read)) report(at, c.read, "write", "read");
      c.write = now;
    } else {
      if (c.read.block != NONE && c.read.block != now.block) c.read_elsewhere = c.read;
      c.read_by_several = other_reader;
      c.read = now;
    }
  }
}

}  // namespace races

// What was found: in shared or global memory, places in the code of the two accesses (hexadecimal), words.
extern "C" const char* race_found() { return races::message; }

#define DICENAS_ACCESS(size)                                                                           \
  void __tsan_read##size(void* at) { races::access((uintptr_t)at, size, false, __builtin_return_address(0)); } \
  void __tsan_write##size(void* at) { races::access((uintptr_t)at, size, true, __builtin_return_address(0)); } \
  void __tsan_unaligned_read##size(void* at) {                                                         \
    races::access((uintptr_t)at, size, false, __builtin_return_address(0));                            \
  }                                                                                                    \
  void __tsan_unaligned_write##size(void* at) {                                                        \
    races::access((uintptr_t)at, size, true, __builtin_return_address(0));                             \
  }

extern "C" {
DICENAS_ACCESS(1)
DICENAS_ACCESS(2)
DICENAS_ACCESS(4)
DICENAS_ACCESS(8)
DICENAS_ACCESS(16)
void __tsan_read_range(void* at, size_t size) { races::access((uintptr_t)at, size, false, __builtin_return_address(0)); }
void __tsan_write_range(void* at, size_t size) { races::access((uintptr_t)at, size, true, __builtin_return_address(0)); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
