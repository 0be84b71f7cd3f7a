"""Both products of a backward pass from the CUDA kernels' own text: equal to those that the CPU makes of the same seed.

round_pack → product with the weight planes (dx);  round_pack → positions, image → positions → product (dŴ).
"""

from __future__ import annotations

import math

import pytest
import torch
from emulated_cuda import BGEMM, WEIGHTS, call
from kernel_abi import BAD_SHAPE, OK, PACK, Guarded
from test_positions import POSITIONS, Case
from test_round import ROUND
from torch import Tensor

from abcfx.ops import gradients
from abcfx.ops.kernel_pack import pack_image
from abcfx.ops.kernel_positions import pack_positions
from abcfx.quant import activations
from abcfx.quant import gradients as quant

SEED, K = 77, 4
CASES = [
    Case(1, 1), Case(64, 2, size=(1, 64)), Case(5, 3, (3, 3), (9, 8), images=3), Case(16, 2, size=(8, 16)),
    Case(70, 2, (3, 2), (12, 17), stride=(2, 3), images=2), Case(130, 8, (2, 3), (9, 7), (1, 2), (3, 2)),
]  # fmt: skip


def positions(src: Tensor, channels: int, case: Case) -> tuple[Tensor, Tensor]:
    """[planes, columns, words] and counts [planes, columns]."""
    out, planes = case.out(), src.shape[2]
    columns, depth = case.kernel[0] * case.kernel[1] * channels, src.shape[0] * out[0] * out[1]
    dst = Guarded(planes, columns, -(-depth // 64), dtype=torch.int64).tensor
    counts = Guarded(planes, columns, dtype=torch.int32).tensor
    pairs = dict(padded=src.shape[1::2][:2], kernel=case.kernel, stride=case.stride, dilation=case.dilation, out=out)
    args = POSITIONS(
        src=src.data_ptr(), dst=dst.data_ptr(), counts=counts.data_ptr(), images=src.shape[0], planes=planes,
        channels=channels,
        **{f"{name}_{axis}": value for name, pair in pairs.items() for axis, value in zip("hw", pair, strict=True)},
    )  # fmt: skip
    assert call("abcfx_cuda_positions", args, None) == OK
    return dst, counts


@pytest.mark.parametrize("case", CASES, ids=str)
def test_positions(case: Case) -> None:
    x = torch.randn(case.images, case.channels, *case.size)
    levels = torch.ones(case.planes), torch.randn(case.planes) / 2
    src = pack_image(x, *levels, case.planes, "thermometer", 1, (0, 0))
    got, counts = positions(src, case.channels, case)
    wanted, wanted_counts = pack_positions(
        src, case.channels, case.kernel, case.stride, case.dilation, case.out(), 8
    )
    # [1, blocks, planes, words, 8 columns] → [planes, columns, words]
    wanted = wanted[0].permute(1, 0, 3, 2).flatten(1, 2)[:, : got.shape[1]]
    assert torch.equal(got, wanted)
    assert torch.equal(counts, wanted_counts)


@pytest.mark.parametrize(("field", "value"), [("planes", 9), ("out_h", 8), ("kernel_w", 0), ("stride_w", 0)])
def test_bad_positions_are_refused(field: str, value: int) -> None:
    args = POSITIONS(images=1, padded_h=4, padded_w=4, planes=1, channels=3, kernel_h=1, kernel_w=1, stride_h=1,
                     stride_w=1, dilation_h=1, dilation_w=1, out_h=4, out_w=4)  # fmt: skip
    setattr(args, field, value)
    assert call("abcfx_cuda_positions", args, None) == BAD_SHAPE


def round_pack(grad: Tensor, gain: Tensor, inverse: Tensor, pad: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Planes of the codes [n, h + 2ph, K, w + 2pw, words], and counts."""
    n, c, h, w = grad.shape
    channels = gain.shape[0] * c
    places = (n, h + 2 * pad[0], K, w + 2 * pad[1])
    bits = Guarded(*places, -(-channels // 64), dtype=torch.int64).tensor
    counts = Guarded(*places, 1, dtype=torch.int32).tensor
    image = PACK(dst=bits.data_ptr(), planes=K, images=n, channels=channels, height=h, width=w, top=pad[0],
                 left=pad[1], bottom=pad[0], right=pad[1], groups=1)  # fmt: skip
    args = ROUND(
        src=grad.data_ptr(), gain=gain.data_ptr(), inverse=inverse.data_ptr(), planes=K, gains=gain.shape[0], images=n,
        channels=c, height=h, width=w, inverse_step=int(len(inverse) > 1),
        **dict(zip(("stride_n", "stride_c", "stride_h", "stride_w"), grad.stride(), strict=True)),
    )  # fmt: skip
    assert call("abcfx_cuda_round_pack", args, torch.tensor([SEED]), image, counts, None) == OK
    return bits, counts


def product(a: Tensor, a_counts: Tensor, w: Tensor, w_counts: Tensor, alpha: Tensor, beta: Tensor, base: Tensor,
            kernel: tuple[int, int], out: tuple[int, int], depth: int) -> Tensor:  # fmt: skip
    """One product of abcfx/cuda.h with its corrections, f32 [rows, cols]."""
    images, padded_h, n, padded_w, words = a.shape
    cols, m = base.numel(), alpha.shape[0]
    rows, beta_sum = images * out[0] * out[1], float(beta.sum())
    alpha_sum = alpha.sum(0)
    column_base = depth * beta_sum * alpha_sum - 2 * beta_sum * (alpha * w_counts).sum(0)
    row_sum, dst = (Guarded(rows, size, dtype=torch.float32).tensor for size in (1, cols))
    named = {"a": a, "w": w, "alpha": alpha, "beta": beta, "alpha_sum": alpha_sum, "row_sum": row_sum,
             "column_base": column_base, "base": base, "dst": dst}  # fmt: skip
    args = BGEMM(
        **{name: t.data_ptr() for name, t in named.items()}, low=-math.inf, high=math.inf, weight_bases=m,
        activation_bases=n, images=images, padded_h=padded_h, padded_w=padded_w, out_h=out[0], out_w=out[1],
        kernel_h=kernel[0], kernel_w=kernel[1], stride_h=1, stride_w=1, dilation_h=1, dilation_w=1, groups=1,
        words=words, depth=depth, cols=cols,
    )  # fmt: skip
    assert call("abcfx_cuda_row_sums", args, a_counts, row_sum) == OK
    assert call("abcfx_cuda_bgemm", args) == OK
    return dst


def grad_of(n: int, o: int, h: int, w: int) -> Tensor:
    return torch.randn(n, h, w, o).permute(0, 3, 1, 2)


def test_input_gradient() -> None:
    """3 x 3, padding 1, stride 1: one product of the codes of α_p·g with the weight, turned around."""
    n, o, c, m, h, w = 2, 37, 9, 2, 5, 6
    grad, alpha = grad_of(n, o, h, w), torch.rand(m, o) + 0.1
    bases = torch.randint(0, 2, (m, o, 9, c), dtype=torch.int8) * 2 - 1
    geometry = ([1, 1], [1, 1], [1, 1])
    wanted = gradients.input_grad_on_planes(
        grad, bases, alpha, K, torch.tensor([SEED]), geometry, [3, 3], [h, w], "xnor"
    )
    step = gradients.sample_step(*gradients.extremes(grad), alpha, K)
    a, a_counts = round_pack(grad, alpha, quant.inverse_step(step), (1, 1))
    signs = bases.view(m, o, 3, 3, c).flip(2, 3).permute(4, 2, 3, 0, 1).reshape(1, c, 9, m * o).contiguous()
    words = -(-m * o // 64)
    packed = Guarded(1, c, 9 * words, dtype=torch.int64).tensor
    counts = Guarded(1, c, dtype=torch.int32).tensor
    pointers = (signs.data_ptr(), packed.data_ptr(), counts.data_ptr(), None)
    assert call("abcfx_cuda_pack_weights", WEIGHTS(*pointers, 1, 1, c, 9, m * o)) == OK
    scale, shift = gradients.code_levels(K, grad)
    beta, constant = activations.coefficients(scale, shift, K, "coded")
    # padded pixels have bits 0, +1 in every plane: where a tap lies outside, the product has B instead of code 0
    outside = torch.nn.functional.pad(torch.zeros(1, 1, h, w), (1, 1, 1, 1), value=1.0).expand(1, m * o, -1, -1)
    kernel = signs.view(c, 3, 3, m * o).permute(0, 3, 1, 2).float()
    inside = torch.nn.functional.conv2d(1 - outside, kernel)[0]
    outside = torch.nn.functional.conv2d(outside, kernel)[0]
    correction = constant * inside - beta.sum() * outside
    got = product(a, a_counts, packed, counts, torch.ones(1, c), beta, torch.zeros(c), (3, 3), (h, w), 9 * m * o)
    got = (got.view(n, h, w, c).permute(0, 3, 1, 2) + correction) * step.view(n, 1, 1, 1)
    assert torch.equal(got, wanted)


def test_weight_gradient() -> None:
    """Both operands along the positions: rows are output channels, columns are taps and input channels."""
    n, o, c, h, w = 2, 19, 35, 6, 5
    grad, x = grad_of(n, o, h, w), torch.randn(n, c, h, w)
    scale, shift = torch.tensor([0.5]), torch.tensor([-0.75])
    image = pack_image(x, scale, shift, 2, "coded", 1, (1, 1))
    geometry = ([1, 1], [1, 1], [1, 1])
    arguments = (grad, image, scale, shift, "coded", K, torch.tensor([SEED]), geometry, [o, c, 3, 3], "xnor")
    wanted = gradients.weight_grad_on_planes(*arguments)
    step = gradients.channel_step(*gradients.extremes(grad), K)
    codes, _ = round_pack(grad, quant.inverse_step(step).unsqueeze(0), torch.ones(1), (0, 0))
    a, a_counts = positions(codes, o, Case(o, K, size=(h, w), images=n))
    columns, counts = positions(image, c, Case(c, 2, (3, 3), (h + 2, w + 2), images=n))
    beta_x, constant = activations.coefficients(scale, shift, 2, "coded")
    levels = gradients.code_levels(K, grad)
    beta, code_constant = activations.coefficients(*levels, K, "coded")
    depth = n * h * w
    alpha = beta_x.unsqueeze(1).expand(counts.shape).contiguous()
    base = code_constant * (beta_x @ (depth - 2 * counts).float())
    got = product(a[None, None], a_counts[None, None], columns, counts, alpha, beta, base, (1, 1), (1, o), depth)
    values = quant.quantize(grad.permute(0, 2, 3, 1).contiguous(), step, torch.tensor([SEED]), K) / step
    sums = values.nan_to_num(0).round().sum(0)
    inside = torch.einsum("yxo,ty,sx->ots", sums.double(), *gradients.masks(image, [3, 3], [h, w], geometry))
    outside = sums.sum((0, 1)).view(-1, 1, 1) - inside
    correction = (constant * inside - beta_x.sum() * outside).float().unsqueeze(-1)
    got = (got.view(o, 3, 3, c) + correction) * step.view(-1, 1, 1, 1)
    assert torch.equal(got.permute(0, 3, 1, 2), wanted)
