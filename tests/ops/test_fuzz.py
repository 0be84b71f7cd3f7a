"""The layer ops on random problems, in every form they have, against the float op on the dequantized operands.

`pytest tests/ops/test_fuzz.py --fuzz 5000` runs more of them, `ABCFX_KERNEL=portable` another kernel. A case that fails
is printed as a line; put it in ALWAYS.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fuzz_case import Case, Operands, draw, operands_of
from oracle import fitted_weight
from torch import Tensor
from torch._prims_common import suggest_memory_format

import abcfx  # noqa: F401  registers the ops
from abcfx.ops import library
from abcfx.ops.choose import forcing
from abcfx.ops.kernel_weights import METHODS
from abcfx.plan import LEVELS, LayerPlan
from abcfx.quant import activations

# Corners that a draw seldom meets, and cases that failed once.
ALWAYS = [
    Case(1, (0, 3), 70),
    Case(2, (1,), 4608, 9, plan=LayerPlan(8, 8)),
    Case(3, (1,), 3, 4, 2, (1, 1), (3, 3), (2, 1), (9, 2), (1, 1), layout="every other"),  # windows that see no pixel
    Case(4, (3,), 1, 1, 11, (6, 5), (3, 3), (1, 1), (1, 1), (1, 1), layout="channels last"),  # depthwise
    Case(5, (1,), 65, 7, 1, (20,), (15,), (2,), (7,), (1,), plan=LayerPlan(3, 2, "abc", "thermometer", False)),
]


def methods_of(case: Case) -> list[str]:
    """The forms in which an op can compute a case. Each is forced, whatever would be chosen."""
    kernels = [*METHODS] if library.loaded() and case.dtype != "float64" else []
    return ["dense", *kernels]


def run(case: Case, method: str, given: Operands) -> Tensor:
    arguments = (given.x, given.weight, given.bias, given.scale, given.shift)
    with forcing(method):
        if case.size:
            return torch.ops.abc.convolution(*arguments, *case.geometry, *case.plan.op_arguments())
        return torch.ops.abc.linear(*arguments, *case.plan.op_arguments())


def float_op(case: Case, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if case.size:
        return torch.ops.aten.convolution(x, weight, bias, *case.geometry)
    return torch.nn.functional.linear(x, weight, bias)


def along_outputs(case: Case, values: Tensor) -> Tensor:
    """A vector over the output channels, shaped so that it broadcasts with the output."""
    return values.view(-1, *[1] * len(case.size))


def wanted_and_bound(case: Case, given: Operands) -> tuple[Tensor, Tensor]:
    """The exact result y in f64, and how far from it the rounding of a right implementation may be.

    Let u = 2⁻²⁴, B = Σ_q |β_q| and k run over the products of one output.

    * Long f32 sums: the dense form adds x̂_k·ŵ_k; the bit form adds ŵ_k and multiplies by at most 2B + |c|, for what the
      constant and the padding give. Each is off by λ·√depth·u times the sum of the magnitudes, with probability
      1 - 2·exp(-λ²/2) (Higham & Mary 2019, theorem 2.4: independent errors of mean zero). With λ = 6 that fails for
      one output in 3·10⁷.
    * Short ones: M·N exact integers of at most `depth` are scaled and added in M + N steps, and α, β, c, bias come with
      a few roundings of their own: at most (M + N + 6)·u·(depth·Σ_p |α_p|·(B + |c|) + |bias|), always.
    * Ŵ is rounded to the weight's own type in the dense form, y to the type of the output: half a unit each.
    """
    plan, n = case.plan, case.plan.activation_bases
    x_hat = activations.quantize(given.x.float(), given.scale, given.shift, n, plan.levels).double()
    w_hat, alpha = fitted_weight(given.weight, plan, False, case.groups)
    w_hat, bias = w_hat.double(), None if given.bias is None else given.bias.double()
    wanted = float_op(case, x_hat, w_hat, bias)

    beta, constant = activations.coefficients(given.scale, given.shift, n, plan.levels)
    b, c, u = float(beta.abs().sum()), float(constant.abs()), 2.0**-24
    magnitude = float_op(case, x_hat.abs(), w_hat.abs(), None)
    long = magnitude + along_outputs(case, (2 * b + c) * w_hat.abs().flatten(1).sum(1))
    products = case.depth * alpha.double().abs().sum(0) * (b + c)
    short = along_outputs(case, products if bias is None else products + bias.abs())
    rounding = 6 * case.depth**0.5 * u * long + (plan.weight_bases + n + 6) * u * short
    rounding += half_ulp(given.weight.dtype) * magnitude
    return wanted, rounding + half_ulp(given.x.dtype) * (wanted.abs() + rounding) + torch.finfo(given.x.dtype).tiny


def half_ulp(dtype: torch.dtype) -> float:
    """Relative error of a rounding to this type; nothing for types that hold every f32."""
    return torch.finfo(dtype).eps / 2 if torch.finfo(dtype).bits < 32 else 0.0


def excess(case: Case, got: Tensor, given: Operands) -> float:
    """The largest error over its bound: a right result is at most 1."""
    wanted, bound = wanted_and_bound(case, given)
    return float(((got.double() - wanted).abs() / bound).max()) if wanted.numel() else 0.0


def check(case: Case) -> None:
    given = operands_of(case)
    like = float_op(case, given.x, given.weight.to(given.x.dtype), None)
    for method in methods_of(case):
        got = run(case, method, given)
        assert (got.shape, got.dtype) == (like.shape, like.dtype), f"{method}: {case!r}"
        if case.size:
            assert got.is_contiguous(memory_format=suggest_memory_format(given.x)), f"{method}: {case!r}"
        over = excess(case, got, given)
        assert over <= 1, f"{method} is {over:.3g} times as far from the float op as rounding allows:\n{case!r}"


def test_random_case(fuzz_seed: int) -> None:
    check(draw(fuzz_seed))


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("size", [(), (9,), (8, 7)])
def test_one_wrong_code_is_more_than_rounding(size: tuple[int, ...], levels: str) -> None:
    """The bounds are tight enough to see a single value of 576 or less that is read as its neighbour."""
    dims = len(size)
    kernel, ones = (3,) * dims, (1,) * dims
    case = Case(5, (2,), 64, 8, 1, size, kernel, ones, ones, ones, plan=LayerPlan(2, 2, levels=levels))
    given = operands_of(case)
    thresholds = given.shift + given.scale / 2 if levels == "coded" else 0.5 - given.shift
    x = given.x.flatten().clone()
    at = int((x - thresholds[0]).abs().argmin())
    x[at] = 2 * thresholds[0] - x[at] + (1e-3 if x[at] < thresholds[0] else -1e-3)
    wrong = replace(given, x=x.view_as(given.x))
    for method in methods_of(case):
        assert excess(case, run(case, method, given), given) <= 1
        assert excess(case, run(case, method, wrong), given) > 1


@pytest.mark.parametrize("case", ALWAYS, ids=repr)
def test_fixed_case(case: Case) -> None:
    check(case)
