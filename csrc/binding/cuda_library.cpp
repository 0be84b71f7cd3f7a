#include "cuda_ops.h"

// ABCFX_DEVICE_KEY is CUDA; the macro pastes its arguments, so one more step has to expand it first.
#define ABCFX_IMPL(library, key, m) STABLE_TORCH_LIBRARY_IMPL(library, key, m)

ABCFX_IMPL(abc_k, ABCFX_DEVICE_KEY, m) {
  m.impl("pack_weights", TORCH_BOX(&abcfx::cuda::pack_weights));
  m.impl("pack_rows", TORCH_BOX(&abcfx::cuda::pack_rows));
  m.impl("pack_image", TORCH_BOX(&abcfx::cuda::pack_image));
  m.impl("linear", TORCH_BOX(&abcfx::cuda::linear));
  m.impl("conv2d", TORCH_BOX(&abcfx::cuda::conv2d));
}
