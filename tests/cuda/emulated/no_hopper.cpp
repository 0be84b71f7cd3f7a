// No device here is compute capability 9.0: the binding takes the general kernel.
#include "../../../csrc/cuda/hopper/hopper.h"

int abcfx_hopper_bgemm(const abcfx_cuda_bgemm_args*) { return ABCFX_UNSUPPORTED; }
