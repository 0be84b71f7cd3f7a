"""Does a layer run on bit planes, or as one dense op on dequantized operands? Decided here and nowhere else."""

from __future__ import annotations

import torch

from abcfx.ops import library
from abcfx.plan import LayerPlan

# Below this many channels a 64-bit word is mostly padding, and the dense op is faster.
MIN_CHANNELS = 16

# Largest M·N that still beats f32 on the variant the library chose; measured on 3x3 convolutions with 128 and more
# channels, two threads, pack included (`python -m abcfx bench` comes with the cost model).
BREAK_EVEN = {"avx512vpopcnt": 16, "avx2": 4, "portable": 1}


def kernel_or_reason(
    kind: str,
    weight: tuple[int, ...],
    groups: int,
    dtype: torch.dtype,
    plan: LayerPlan,
    device: torch.device = torch.device("cpu"),  # noqa: B008  immutable
) -> str | None:
    """None if the layer runs on the binary kernels, else why it runs in the dequantized form.

    kind     "linear", "conv1d", "conv2d", "conv3d", "conv_transpose2d" ...
    weight   shape of the float weight; [o, channels/groups, *kernel] for a convolution
    """
    if kind not in ("linear", "conv1d", "conv2d"):
        return f"{kind} has no binary kernel"
    if device.type not in ("cpu", "meta"):
        return f"no binary kernel for {device.type} yet"
    if dtype == torch.float64:
        return "float64 input: the kernels combine in float32"
    if weight[1] < MIN_CHANNELS:
        return f"{weight[1]} channels per group; the binary kernel needs {MIN_CHANNELS} to pay"
    variant = library.kernel_variant()
    if variant == "reference":
        return "the compiled kernels are not loaded (python -m abcfx doctor says why)"
    limit = BREAK_EVEN[variant]
    products = plan.weight_bases * plan.activation_bases
    if products > limit:
        return f"M·N = {products} is beyond the break-even of {limit} on {variant}"
    return None
