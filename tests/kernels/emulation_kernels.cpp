// The kernels, compiled for the host: the one file of the emulation that is built with a sanitizer's instrumentation.
#include "emulation.h"

#include KERNELS
