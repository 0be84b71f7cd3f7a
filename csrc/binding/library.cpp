#include "ops.h"

STABLE_TORCH_LIBRARY_IMPL(abc_k, CPU, m) {
  m.impl("pack_weights", TORCH_BOX(&abcfx::pack_weights));
  m.impl("refit_weights", TORCH_BOX(&abcfx::refit_weights));
  m.impl("search_scales", TORCH_BOX(&abcfx::search_scales));
  m.impl("fit_lines", TORCH_BOX(&abcfx::fit_lines));
  m.impl("dequantize_weights", TORCH_BOX(&abcfx::dequantize_weights));
  m.impl("chain", TORCH_BOX(&abcfx::chain_kernels));
  m.impl("pack_rows", TORCH_BOX(&abcfx::pack_rows));
  m.impl("pack_image", TORCH_BOX(&abcfx::pack_image));
  m.impl("round_gradient", TORCH_BOX(&abcfx::round_gradient));
  m.impl("pack_positions", TORCH_BOX(&abcfx::pack_positions));
  m.impl("unpack_rows", TORCH_BOX(&abcfx::unpack_rows));
  m.impl("unpack_image", TORCH_BOX(&abcfx::unpack_image));
  m.impl("window_bits", TORCH_BOX(&abcfx::window_bits));
  m.impl("window_adjoint", TORCH_BOX(&abcfx::window_adjoint));
  m.impl("linear", TORCH_BOX(&abcfx::linear));
  m.impl("conv2d", TORCH_BOX(&abcfx::conv2d));
  m.impl("max_pool_bits", TORCH_BOX(&abcfx::max_pool_bits));
  m.impl("linear_emit", TORCH_BOX(&abcfx::linear_emit));
  m.impl("conv2d_emit", TORCH_BOX(&abcfx::conv2d_emit));
}
