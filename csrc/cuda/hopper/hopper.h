#pragma once
#include "abcfx/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/// abcfx_cuda_bgemm on the asynchronous bit units of sm_90a: the same arguments and values (`kernel` is not read).
/// Enqueues on args->stream, does not synchronise, may be captured in a CUDA graph.
///
/// ABCFX_UNSUPPORTED: take the mma.sync kernel. The device is not compute capability 9.0, or TMA cannot address the
/// operands: `words` odd (pitches must be multiples of 16 bytes), a or w not aligned to 16 bytes, a stride above 8,
/// 2^23 bits or more in a window, or sizes of 2^28 and more. ABCFX_BAD_SHAPE: sizes that contradict each other.
ABCFX_API int abcfx_hopper_bgemm(const struct abcfx_cuda_bgemm_args* args);

#ifdef __cplusplus
}
#endif
