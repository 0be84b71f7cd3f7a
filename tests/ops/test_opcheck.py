"""torch.library.opcheck (schema, autograd registration, fake kernel, AOT dispatch) of every op, by a table of samples.

An op that is registered and has no line in SAMPLES fails `test_every_op_has_samples`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from test_chain_ops import convolutions, rows
from test_kernel_ops import Levels, Weights, conv_arguments, linear_arguments
from test_layer_ops import CONVOLUTIONS, LINEAR, PLANS, operands
from torch import Tensor
from torch.utils._pytree import tree_map

import abcfx  # noqa: F401  registers the ops
from abcfx.ops import library
from abcfx.ops.kernel_pack import NO_LIMIT
from abcfx.ops.schema import LINEAR as GEOMETRY
from abcfx.quant.cells import SortedRows

NAMESPACES = ("abc", "abc_k")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
ANY_FLOAT = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
F32 = ANY_FLOAT[:1]  # what the kernels work on

Samples = Iterator[tuple]
SAMPLES: dict[str, tuple[tuple[torch.dtype, ...], Callable[[], Samples]]] = {}


def samples_of(op: str, dtypes: tuple[torch.dtype, ...]) -> Callable[[Callable[[], Samples]], Callable[[], Samples]]:
    """Registers a function that yields argument tuples of an op, with f32 operands that are tested in these dtypes."""

    def register(function: Callable[[], Samples]) -> Callable[[], Samples]:
        SAMPLES[op] = dtypes, function
        return function

    return register


@samples_of("abc::linear", ANY_FLOAT)
def _() -> Samples:
    for plan in PLANS:
        yield (*operands(*LINEAR, 8, plan), *plan)
    x, weight, _, scale, shift = operands(*LINEAR, 8, PLANS[0])
    yield x.detach().view(5, 1, 70), weight, None, scale, shift, *PLANS[0]


@samples_of("abc::convolution", ANY_FLOAT)
def _() -> Samples:
    for number, (shape, weight, geometry) in enumerate(CONVOLUTIONS.values()):
        plan = PLANS[number % len(PLANS)]
        outputs = weight[1] * geometry[5] if geometry[3] else weight[0]
        yield (*operands(shape, weight, outputs, plan), *geometry, *plan)
    for plan in PLANS:
        shape, weight, geometry = CONVOLUTIONS["conv2d"]
        x, *rest = operands(shape, weight, 6, plan)
        x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
        yield x, *rest, *geometry, *plan


@samples_of("abc::quantize_activation", ANY_FLOAT)
def _() -> Samples:
    for plan in PLANS:
        x, _, _, scale, shift = operands(*LINEAR, 8, plan)
        yield x, scale, shift, plan[1], plan[3]
    yield x, scale, shift, plan[1], plan[3], "abc"


@samples_of("abc::fake_quantize", ANY_FLOAT)
def _() -> Samples:
    for plan in (plan for plan in PLANS if plan[3] == "coded"):
        x, _, _, scale, shift = operands(*LINEAR, 8, plan)
        yield x, scale, shift, plan[1]


@samples_of("abc::quantize_weight", ANY_FLOAT)
def _() -> Samples:
    for plan in PLANS:
        yield torch.randn(8, 70, requires_grad=True), False, 1, plan[0], plan[2], plan[4]
        yield torch.randn(8, 3, 3, 3, requires_grad=True), True, 2, plan[0], plan[2], plan[4]


def layers() -> Samples:
    """(input, weight, scale, shift, geometry, plan) of a linear layer and of every kind of convolution, frozen."""
    for number, (shape, weight, geometry) in enumerate([(*LINEAR, tuple(GEOMETRY)), *CONVOLUTIONS.values()]):
        plan = PLANS[number % len(PLANS)]
        x, w, _, scale, shift = (t.detach() for t in operands(shape, weight, 6, plan))
        yield x, w, scale, shift, geometry, plan


def outputs_of(x: Tensor, w: Tensor, geometry: tuple) -> Tensor:
    return torch.ops.aten.convolution(x, w, None, *geometry) if geometry[0] else x @ w.t()


@samples_of("abc::save_activation", F32)
def _() -> Samples:
    for x, w, scale, shift, geometry, plan in layers():
        yield x, scale, shift, list(w.shape), *geometry, plan[1], plan[3]
        yield x, scale, shift, list(w.shape), *geometry, plan[1], plan[3], "abc"


@samples_of("abc::product", F32)
def _() -> Samples:
    for x, w, scale, shift, geometry, plan in layers():
        planes, _ = torch.ops.abc.save_activation(x, scale, shift, list(w.shape), *geometry, plan[1], plan[3])
        yield planes, w, None, scale, shift, list(x.shape), False, torch.float32, *geometry, *plan


@samples_of("abc::input_adjoint", F32)
def _() -> Samples:
    for x, w, _, _, geometry, plan in layers():
        dy = torch.randn_like(outputs_of(x, w, geometry))
        yield dy, w, list(x.shape), False, torch.float32, None, *geometry, *plan
        yield dy, w, list(x.shape), False, torch.float32, torch.tensor([3]), *geometry, *plan, 4


@samples_of("abc::weight_adjoint", F32)
def _() -> Samples:
    for x, w, scale, shift, geometry, plan in layers():
        planes, _ = torch.ops.abc.save_activation(x, scale, shift, list(w.shape), *geometry, plan[1], plan[3])
        dy, sizes = torch.randn_like(outputs_of(x, w, geometry)), (list(w.shape), list(x.shape))
        yield dy, planes, scale, shift, *sizes, False, torch.float32, None, *geometry, *plan
        yield dy, planes, scale, shift, *sizes, False, torch.float32, torch.tensor([3]), *geometry, *plan, 4


@samples_of("abc::activation_windows", F32)
def _() -> Samples:
    for x, _, scale, shift, _, plan in layers():
        yield x, scale, shift, plan[1], plan[3]
        yield x, scale, shift, plan[1], plan[3], "abc"


@samples_of("abc::activation_adjoint", F32)
def _() -> Samples:
    for x, w, scale, shift, geometry, plan in layers():
        _, windows = torch.ops.abc.save_activation(x, scale, shift, list(w.shape), *geometry, plan[1], plan[3])
        yield torch.randn_like(x), windows, scale, shift, plan[1], plan[3]
        yield torch.randn_like(x), windows, scale, shift, plan[1], plan[3], "abc"


@samples_of("abc::weight_scales", F32)
def _() -> Samples:
    yield torch.randn(8, 70), False, 1, 2, "alternating", True
    yield torch.randn(8, 3, 3, 3), True, 2, 3, "greedy", False


@samples_of("abc_k::pack_weights", F32)
def _() -> Samples:
    yield Weights.random(2, 12, 9, 70).bases, 3


@samples_of("abc_k::refit_weights", F32)
def _() -> Samples:
    for weight in (torch.randn(5, 9, 33), torch.randn(5, 33, 9).transpose(1, 2)):
        yield weight, torch.rand(2, 5), 2
    yield torch.randn(5, 9, 33), torch.tensor([[0.5], [1.0]]).expand(2, 5).contiguous(), 2, True


@samples_of("abc_k::search_scales", F32)
def _() -> Samples:
    rows = SortedRows.of(torch.randn(5, 30))
    for bases in (1, 3):
        yield rows.values, rows.prefix, torch.ones(5).double(), bases
        yield rows.values, rows.prefix, torch.ones(5).double(), bases, True


@samples_of("abc_k::fit_lines", F32)
def _() -> Samples:
    rows = SortedRows.of(torch.randn(30))
    for top, anchored in ((1, True), (7, False)):
        yield rows.values, rows.prefix, torch.rand(3, 2).double() + 0.1, top, anchored, 5


@samples_of("abc_k::dequantize_weights", F32)
def _() -> Samples:
    yield Weights.random(2, 12, 9, 70).bases, torch.rand(2, 12)


@samples_of("abc_k::rows_as_taps", F32)
def _() -> Samples:
    bases = torch.randn(3, 20, 1, 6 * 70).sign().to(torch.int8)
    for lanes in (8, 32):
        yield torch.ops.abc_k.pack_weights(bases, 1, lanes), torch.rand(3, 20), 70, 6


@samples_of("abc_k::pack_rows", F32)
def _() -> Samples:
    for levels, n in (("coded", 2), ("thermometer", 3)):
        at = Levels.random(levels, n)
        yield torch.randn(7, 70), at.scale, at.shift, n, levels
        yield torch.randn(7, 70).half(), at.scale, at.shift, n, levels, torch.randn(70), torch.randn(70)


@samples_of("abc_k::pack_image", F32)
def _() -> Samples:
    at = Levels.random("thermometer", 3)
    image = torch.randn(2, 64, 5, 6)
    for x in (image, image.contiguous(memory_format=torch.channels_last)):
        yield x, at.scale, at.shift, 3, "thermometer", 2, [1, 2]
        yield x.bfloat16(), at.scale, at.shift, 3, "thermometer", 2, [1, 2], torch.randn(64), torch.randn(64)


@samples_of("abc_k::unpack_rows", F32)
def _() -> Samples:
    for levels, n in (("coded", 2), ("thermometer", 3)):
        at = Levels.random(levels, n)
        packed = torch.ops.abc_k.pack_rows(torch.randn(7, 70), at.scale, at.shift, n, levels)
        yield packed, at.scale, at.shift, levels, 70


@samples_of("abc_k::unpack_image", F32)
def _() -> Samples:
    for levels, n in (("coded", 3), ("thermometer", 2)):
        at = Levels.random(levels, n)
        packed = torch.ops.abc_k.pack_image(torch.randn(2, 140, 5, 6), at.scale, at.shift, n, levels, 2, [1, 2])
        yield packed, at.scale, at.shift, levels, 70, 2, [1, 2]


@samples_of("abc_k::window_bits", F32)
def _() -> Samples:
    image = torch.randn(2, 9, 5, 7)
    for levels, n in (("coded", 2), ("thermometer", 3)):
        at = Levels.random(levels, n)
        for x in (image, image.contiguous(memory_format=torch.channels_last), image.bfloat16()):
            yield x, at.scale, at.shift, n, levels, at.windows()[0]


@samples_of("abc_k::window_adjoint", F32)
def _() -> Samples:
    image = torch.randn(2, 9, 5, 7)
    for levels, n in (("coded", 2), ("thermometer", 3)):
        at = Levels.random(levels, n)
        edges, slopes = at.windows()
        for x in (image, image.contiguous(memory_format=torch.channels_last)):
            windows = torch.ops.abc_k.window_bits(x, at.scale, at.shift, n, levels, edges)
            yield torch.randn_like(x), windows, slopes, n, levels
            yield torch.randn_like(x), windows, slopes, n, levels, torch.rand(2)


@samples_of("abc_k::linear", F32)
def _() -> Samples:
    yield linear_arguments(Levels.random("coded", 2), 3, 2)[2]
    yield linear_arguments(Levels.random("thermometer", 3), 1, 3)[2]


@samples_of("abc_k::conv2d", F32)
def _() -> Samples:
    coded = Levels.random("coded", 2)
    yield conv_arguments("3x3", coded, 2, 2)[2]
    yield conv_arguments("depthwise", coded, 2, 2, bias=False)[2]


@samples_of("abc_k::linear_emit", F32)
def _() -> Samples:
    coded = Levels.random("coded", 2)
    layer, none = linear_arguments(coded, 2, 2)[2], (-NO_LIMIT, NO_LIMIT)
    yield *layer, torch.randn(5, 21), None, 0.0, 6.0, None, None, *none, None, None, 0, "coded", True
    affine = torch.rand(21), torch.randn(21)
    yield *layer, None, torch.rand(21), *none, *affine, 0.0, NO_LIMIT, coded.scale, coded.shift, 2, "coded", False


@samples_of("abc_k::conv2d_emit", F32)
def _() -> Samples:
    coded = Levels.random("coded", 2)
    layer, none = conv_arguments("3x3", coded, 2, 2)[2], (-NO_LIMIT, NO_LIMIT)
    following = (coded.scale, coded.shift, 2, "coded", 1, (1, 1))
    yield *layer, torch.randn(2, 9, 8, 19), None, 0.0, 6.0, None, None, *none, *following, True
    yield *layer, None, torch.rand(19), *none, torch.rand(19), torch.randn(19), *none, *following, False
    yield *layer, None, None, 0.0, NO_LIMIT, None, None, *none, None, None, 0, "coded", 1, (0, 0), True


@samples_of("abc_k::chain", F32)
def _() -> Samples:
    for run, returned in (convolutions(), rows()):
        yield run.inputs, run.program(*returned)


@samples_of("abc_k::max_pool_bits", F32)
def _() -> Samples:
    bits = conv_arguments("3x3", Levels.random("coded", 2), 2, 2)[2][0]
    yield bits, "coded", (3, 3), (2, 2), (1, 1), (1, 1), (0, 2)
    yield bits, "thermometer", (2, 2), (1, 1), (0, 0), (1, 1), (1, 1)


@samples_of("abc_k::round_gradient", F32)
def _() -> Samples:
    gain, seed = torch.rand(2, 6), torch.tensor([5])
    yield torch.randn(3, 6, 4, 5), gain, torch.rand(3), seed, 4
    yield torch.randn(3, 6, 4, 5).contiguous(memory_format=torch.channels_last), gain[:1], torch.rand(1), seed, 1
    yield torch.randn(7, 6), gain, torch.rand(7), seed, 4


@samples_of("abc_k::pack_positions", F32)
def _() -> Samples:
    bits = torch.randint(0, 2**40, (2, 9, 2, 8, 1))
    yield bits, 40, [3, 3], [1, 1], [1, 1], [7, 6], library.lut_lanes()
    yield bits, 40, [3, 2], [2, 1], [1, 2], [4, 6], 8


def registered() -> set[str]:
    names = (name.split(".")[0] for name in torch._C._dispatch_get_all_op_names())
    return {name for name in names if name.split("::")[0] in NAMESPACES}


def test_every_op_has_samples() -> None:
    mine = {name for name in registered() if not name.split("::")[1].startswith("test_")}  # other tests register some
    assert mine == set(SAMPLES)


def converted(value: Any, dtype: torch.dtype, device: str) -> Any:
    """An f32 operand in another type, asking for a gradient if it did."""
    if not isinstance(value, Tensor):
        return value
    wanted = dtype if value.dtype == torch.float32 else value.dtype
    return value.detach().to(device, wanted).requires_grad_(value.requires_grad)


CASES = [
    pytest.param(op, dtype, device, id=f"{op}-{str(dtype).removeprefix('torch.')}-{device}")
    for op, (dtypes, _) in SAMPLES.items()
    for dtype in dtypes
    for device in DEVICES
]


@pytest.mark.parametrize(("op", "dtype", "device"), CASES)
def test_opcheck(op: str, dtype: torch.dtype, device: str) -> None:
    namespace, name = op.split("::")
    if namespace == "abc_k" and not library.loaded():
        pytest.skip(library.problem())
    samples = list(SAMPLES[op][1]())
    assert samples
    for arguments in samples if dtype == torch.float32 else samples[:2]:
        overload = getattr(getattr(torch.ops, namespace), name).default
        torch.library.opcheck(overload, tree_map(lambda value: converted(value, dtype, device), arguments))
