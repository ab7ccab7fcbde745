// Finds races between CUDA threads: see races.cpp.
#pragma once
#include <cstddef>

namespace races {

void begin_launch();
void begin_block(const void* shared, size_t shared_bytes);
void enter(unsigned thread, unsigned interval, const void* stack, size_t stack_bytes);
void leave();
bool found();

}  // namespace races
