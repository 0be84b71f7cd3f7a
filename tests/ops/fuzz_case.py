"""Random problems for the layer ops: what a case is, how one is drawn, and its operands."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from abcfx.plan import BASES, LEVELS, LayerPlan
from abcfx.quant import activations

CHANNELS = (1, 3, 15, 16, 17, 31, 32, 48, 63, 64, 65, 100, 127, 128, 130, 200)
KERNELS = (1, 1, 3, 3, 5, 7, 2, 4)
DTYPES = ("float32", "float32", "float32", "float16", "bfloat16", "float64")


@dataclass(frozen=True)
class Case:
    """A layer and an input of it. Its `repr` makes it again; operands depend on nothing else."""

    seed: int
    batch: tuple[int, ...] = (2,)  # [n] of an image, the leading dimensions of a linear layer
    channels: int = 64  # of one group
    outputs: int = 8  # of one group
    groups: int = 1
    size: tuple[int, ...] = ()  # of the image; () is a linear layer
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    plan: LayerPlan = field(default_factory=LayerPlan)
    bias: bool = True
    dtype: str = "float32"
    weight_dtype: str = "float32"
    layout: str = "contiguous"
    weight_layout: str = "contiguous"
    fitted_levels: bool = True

    @property
    def geometry(self) -> tuple:
        """The arguments of aten.convolution after the bias."""
        return (*map(list, (self.stride, self.padding, self.dilation)), False, [0] * len(self.size), self.groups)

    @property
    def depth(self) -> int:
        """Products in one output."""
        return self.channels * torch.Size(self.kernel).numel()


def draw(seed: int) -> Case:
    """The case of a seed: a third linear layers, a sixth 1-d and a half 2-d convolutions."""
    pick = random.Random(seed)
    plan = LayerPlan(
        pick.randint(1, 8), pick.randint(1, 8), pick.choice(BASES), pick.choice(LEVELS), pick.random() < 0.7
    )
    dtype = pick.choice(DTYPES)
    case = Case(
        seed,
        channels=pick.choice(CHANNELS),
        outputs=pick.randint(1, 40),
        plan=plan,
        bias=pick.random() < 0.6,
        dtype=dtype,
        weight_dtype=pick.choice(("float32", dtype)),
        layout=pick.choice(list(LAYOUTS)),
        weight_layout=pick.choice(("contiguous", "last first", "every other")),
        fitted_levels=pick.random() < 0.6,
    )
    dims = pick.choice((0, 0, 1, 2, 2, 2))
    if not dims:
        leading = tuple(pick.choice((0, 1, 1, 2, 3, 5, 7)) for _ in range(pick.randint(0, 3)))
        return replace(case, batch=leading)
    return _convolution(case, dims, pick)


def _convolution(case: Case, dims: int, pick: random.Random) -> Case:
    groups = pick.choice((1, 1, 1, 2, 3))
    channels = min(case.channels, 70) if groups > 1 else case.channels
    if pick.random() < 0.1:
        groups, channels = pick.choice(((5, 1), (4, 16), (9, 2)))
    kernel = tuple(pick.choice(KERNELS) for _ in range(dims))
    if dims == 2 and pick.random() < 0.5:
        kernel = kernel[:1] * 2
    size = tuple(pick.randint(1, 13) for _ in range(dims))
    stride = tuple(pick.randint(1, 3) for _ in range(dims))
    dilation = tuple(pick.choice((1, 1, 1, 2, 3)) for _ in range(dims))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    least = [max(0, -(-(r - s) // 2)) for r, s in zip(reach, size, strict=True)]  # at least one output
    most = [max(low, pick.choice((0, r // 2, r))) for low, r in zip(least, reach, strict=True)]
    return replace(
        case,
        batch=(pick.choice((0, 1, 1, 2, 3, 5)),),
        channels=channels,
        outputs=min(case.outputs, 12) if groups > 1 else case.outputs,
        groups=groups,
        size=size,
        kernel=kernel,
        stride=stride,
        padding=tuple(map(pick.randint, least, most)),
        dilation=dilation,
    )


def _every_other(tensor: Tensor) -> Tensor:
    """The values of `tensor` at every other place of every dimension of a larger one, not from its beginning."""
    room = tensor.new_full([2 * n + 1 for n in tensor.shape], 1000)
    view = room[tuple(slice(1, 2 * n, 2) for n in tensor.shape)]
    return view.copy_(tensor)


def _last_first(tensor: Tensor) -> Tensor:
    """Dimensions stored in reversed order."""
    order = tuple(reversed(range(tensor.dim())))
    return tensor.permute(order).contiguous().permute(order)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1) if tensor.dim() > 2 else tensor


def _same_everywhere(dim: int) -> Callable[[Tensor], Tensor]:
    """One slice of a dimension, repeated with stride 0."""
    return lambda tensor: tensor.narrow(dim, 0, min(tensor.shape[dim], 1)).expand_as(tensor)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda tensor: tensor,
    "channels last": _channels_last,
    "every other": _every_other,
    "last first": _last_first,
    "first expanded": _same_everywhere(0),
    "last expanded": _same_everywhere(-1),
}


@dataclass(frozen=True)
class Operands:
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    scale: Tensor
    shift: Tensor


def operands_of(case: Case) -> Operands:
    generator = torch.Generator().manual_seed(case.seed)
    dtype, weight_dtype = getattr(torch, case.dtype), getattr(torch, case.weight_dtype)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x = normal(*case.batch, case.channels * case.groups, *case.size)
    if case.seed % 3 == 0:
        x = x.relu()
    x = LAYOUTS[case.layout](x.to(dtype))
    outputs = case.outputs * case.groups
    weight = LAYOUTS[case.weight_layout]((normal(outputs, case.channels, *case.kernel) / 8).to(weight_dtype))
    bias = normal(outputs).to(weight_dtype) if case.bias else None
    n, levels = case.plan.activation_bases, case.plan.levels
    if case.fitted_levels and x.numel():
        scale, shift = activations.fit(x.flatten(), n, levels)
    elif levels == "coded":
        scale, shift = torch.tensor([5 / 2**n]), normal(1)
    else:
        scale, shift = torch.rand(n, generator=generator) + 0.1, normal(n)
    return Operands(x, weight, bias, scale, shift)
