#include "cuda_ops.h"

// ABCFX_DEVICE_KEY is CUDA; the macro pastes its arguments, so one more step has to expand it first.
#define ABCFX_IMPL(library, key, m) STABLE_TORCH_LIBRARY_IMPL(library, key, m)

ABCFX_IMPL(abc_k, ABCFX_DEVICE_KEY, m) {
  m.impl("pack_weights", TORCH_BOX(&abcfx::cuda::pack_weights));
  m.impl("pack_rows", TORCH_BOX(&abcfx::cuda::pack_rows));
  m.impl("pack_image", TORCH_BOX(&abcfx::cuda::pack_image));
  m.impl("round_gradient", TORCH_BOX(&abcfx::cuda::round_gradient));
  m.impl("pack_positions", TORCH_BOX(&abcfx::cuda::pack_positions));
  m.impl("unpack_rows", TORCH_BOX(&abcfx::cuda::unpack_rows));
  m.impl("unpack_image", TORCH_BOX(&abcfx::cuda::unpack_image));
  m.impl("window_bits", TORCH_BOX(&abcfx::cuda::window_bits));
  m.impl("window_adjoint", TORCH_BOX(&abcfx::cuda::window_adjoint));
  m.impl("linear", TORCH_BOX(&abcfx::cuda::linear));
  m.impl("conv2d", TORCH_BOX(&abcfx::cuda::conv2d));
  m.impl("max_pool_bits", TORCH_BOX(&abcfx::cuda::max_pool_bits));
  m.impl("linear_emit", TORCH_BOX(&abcfx::cuda::linear_emit));
  m.impl("conv2d_emit", TORCH_BOX(&abcfx::cuda::conv2d_emit));
}
