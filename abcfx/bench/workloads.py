"""Layers to measure: a shape, its float module, its inputs, and its binary form on the kernels whether or not it pays.

The one place that builds the kernel form by hand. Layers of a model choose between kernel and dense form themselves
(abcfx/ops/choose.py); a benchmark has to run the kernel beyond break-even too, else it could not find it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abcfx.ops.convolution import in_layout_of
from abcfx.ops.kernel_weights import METHODS
from abcfx.ops.weight_cache import PackedWeight, WeightRecipe, dequantized, fitted, packed
from abcfx.quant import activations
from abcfx.quant.weights import dequantize_bases, unflatten_weight

LAYOUTS = ("channels_last", "NCHW")
# Speed depends on whether scales double ("coded") and on no other value, and greedy bases take the least time to fit.
SPEED_BASES = ("greedy", "coded")
LEVELS = "coded"
# The kernel sums exact integers and rounds M·N + 3 times; the float op it is compared with sums up to thousands of
# terms in f32, about sqrt(depth)·2^-24 of the norm: below 1e-5. One wrong tap or plane is far above it.
TOLERANCE = 1e-5


class WrongResult(Exception):
    """A kernel whose output is not that of the float op on the dequantized operands."""


class Spec(NamedTuple):
    """One binary form of a layer: M weight bases of a kind, N activation bases, kernel method, layout of the input."""

    M: int
    N: int
    method: str
    layout: str
    basis: str = SPEED_BASES[0]


class Levels(NamedTuple):
    scale: Tensor
    shift: Tensor


def methods() -> list[str]:
    """The kernel methods there are."""
    return list(METHODS)


def recipe_for(M: int, method: str, basis: str = SPEED_BASES[0]) -> WeightRecipe:
    if method not in methods():
        raise ValueError(f"method must be one of {', '.join(methods())}, got {method!r}")
    return WeightRecipe(M, basis, True, method=method)


def levels_for(N: int) -> Levels:
    """2^N levels that normal values use from end to end."""
    return Levels(torch.tensor([5 / 2**N]), torch.tensor([-2.4]))


@dataclass(frozen=True)
class LinearShape:
    name: str
    batch: int  # rows of the product: images times tokens
    depth: int
    outputs: int

    @property
    def macs(self) -> int:
        """Multiply-adds of the float op; the binary form does M·N times as many on bits."""
        return self.batch * self.depth * self.outputs

    @property
    def layouts(self) -> tuple[str, ...]:
        return ("rows",)

    def __str__(self) -> str:
        return f"{self.depth}→{self.outputs}, batch {self.batch}"

    def workload(self) -> Workload:
        return LinearWorkload(self)


@dataclass(frozen=True)
class ConvShape:
    """A square image and a square kernel; "same" padding."""

    name: str
    batch: int
    channels: int
    outputs: int
    kernel: int
    image: int
    stride: int = 1

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def out(self) -> int:
        return (self.image + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def macs(self) -> int:
        return self.batch * self.out**2 * self.outputs * self.channels * self.kernel**2

    @property
    def layouts(self) -> tuple[str, ...]:
        return LAYOUTS

    def __str__(self) -> str:
        stride = f"/{self.stride}" if self.stride > 1 else ""
        window, channels = f"{self.kernel}x{self.kernel}{stride}", f"{self.channels}→{self.outputs}"
        return f"{window} {channels} at {self.image}², batch {self.batch}"

    def workload(self) -> Workload:
        return ConvWorkload(self)


Shape = LinearShape | ConvShape


class Workload:
    """A float module with random weights, its input, and what makes the binary form of it.

    Made outside inference mode, as users' parameters are: a packed weight is cached by the version of its tensor.
    """

    shape: Any
    module: nn.Module

    @property
    def weight(self) -> Tensor:
        return self.module.weight

    @property
    def bias(self) -> Tensor | None:
        return self.module.bias

    def input(self, layout: str) -> Tensor:
        raise NotImplementedError

    def pack(self, x: Tensor, levels: Levels, N: int) -> Tensor:
        """The bit planes of an f32 input."""
        raise NotImplementedError

    def product(self, bits: Tensor, weight: PackedWeight, levels: Levels, like: Tensor) -> Tensor:
        """The output f32 in the shape and layout that the float op gives for an input `like` this one."""
        raise NotImplementedError

    def float_op(self, x: Tensor, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def binary(self, spec: Spec) -> Binary:
        recipe, levels = recipe_for(spec.M, spec.method, spec.basis), levels_for(spec.N)
        return Binary(self, spec, recipe, levels, self.input(spec.layout), packed(self.weight, recipe))

    def refitted(self, recipe: WeightRecipe) -> Tensor:
        """Ŵ from a fit of its own, kept for the next check."""
        kept, key = self.__dict__.setdefault("_refitted", {}), recipe.fit()
        if key not in kept:
            bases, scales, shape = fitted(self.weight, recipe)
            kept[key] = unflatten_weight(dequantize_bases(bases, scales).view(shape), self.weight.shape)
        return kept[key]

    def dense(self, spec: Spec) -> tuple[nn.Module, Tensor]:
        """The dequantized form, as a module and its input: what runs beyond break-even."""
        recipe, levels = recipe_for(spec.M, spec.method, spec.basis), levels_for(spec.N)
        return Dense(self, dequantized(self.weight, recipe), levels, spec.N), self.input(spec.layout)


class LinearWorkload(Workload):
    def __init__(self, shape: LinearShape) -> None:
        self.shape = shape
        self.module = nn.Linear(shape.depth, shape.outputs).eval().requires_grad_(False)

    @cached_property
    def rows(self) -> Tensor:
        return torch.randn(self.shape.batch, self.shape.depth)

    def input(self, layout: str) -> Tensor:
        return self.rows

    def pack(self, x: Tensor, levels: Levels, N: int) -> Tensor:
        return torch.ops.abc_k.pack_rows(x, *levels, N, LEVELS)

    def product(self, bits: Tensor, weight: PackedWeight, levels: Levels, like: Tensor) -> Tensor:
        return torch.ops.abc_k.linear(bits, *weight, self.bias, *levels, LEVELS, self.shape.depth)

    def float_op(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight, self.bias)


class ConvWorkload(Workload):
    def __init__(self, shape: ConvShape) -> None:
        self.shape = shape
        module = nn.Conv2d(
            shape.channels, shape.outputs, shape.kernel, shape.stride, padding=shape.padding, bias=False
        ).requires_grad_(False)
        self.module = module.eval().to(memory_format=torch.channels_last)

    @cached_property
    def images(self) -> dict[str, Tensor]:
        x = torch.randn(self.shape.batch, self.shape.channels, self.shape.image, self.shape.image)
        return {"NCHW": x, "channels_last": x.contiguous(memory_format=torch.channels_last)}

    def input(self, layout: str) -> Tensor:
        return self.images[layout]

    def pack(self, x: Tensor, levels: Levels, N: int) -> Tensor:
        return torch.ops.abc_k.pack_image(x, *levels, N, LEVELS, 1, [self.shape.padding] * 2)

    def product(self, bits: Tensor, weight: PackedWeight, levels: Levels, like: Tensor) -> Tensor:
        s = self.shape
        out = torch.ops.abc_k.conv2d(
            bits, *weight, self.bias, *levels, LEVELS,
            s.channels, [s.kernel] * 2, [s.stride] * 2, [s.padding] * 2, [1, 1], 1,
        )  # fmt: skip
        return in_layout_of(out.permute(0, 3, 1, 2), like)

    def float_op(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, self.bias, self.shape.stride, self.shape.padding)


@dataclass(frozen=True)
class Binary:
    """A layer on the kernels: `whole` from f32 to f32 with packing, `kernel` from bits that are packed already."""

    workload: Workload
    spec: Spec
    recipe: WeightRecipe
    levels: Levels
    x: Tensor
    weight: PackedWeight

    def bits(self) -> Tensor:
        return self.workload.pack(self.x, self.levels, self.spec.N)

    def whole(self) -> Tensor:
        return self.workload.product(self.bits(), self.weight, self.levels, self.x)

    def kernel(self) -> Callable[[], Tensor]:
        bits = self.bits()
        return lambda: self.workload.product(bits, self.weight, self.levels, self.x)

    def check(self) -> float:
        """‖y - ŷ‖ / ‖ŷ‖ against the float op on Â and Ŵ, which the packed weight has no part in; WrongResult if off."""
        quantized = activations.quantize(self.x, *self.levels, self.spec.N, LEVELS)
        want, got = self.workload.float_op(quantized, self.workload.refitted(self.recipe)), self.whole()
        what = f"{self.workload.shape}, M={self.spec.M}, N={self.spec.N}, {self.spec.method}, {self.spec.layout}"
        if got.shape != want.shape:
            raise WrongResult(f"{what}: the kernel gives {list(got.shape)}, the float op {list(want.shape)}")
        error = float((got - want).norm() / want.norm())
        if not error <= TOLERANCE:  # a NaN is wrong too
            raise WrongResult(
                f"{what}: the kernel is off by {error:.1e} of the float op on the dequantized operands, "
                f"more than the {TOLERANCE:g} that rounding explains; it is not timed"
            )
        return error


class Dense(nn.Module):
    """The float op on dequantized operands; the weight is dequantized once."""

    def __init__(self, workload: Workload, weight: Tensor, levels: Levels, N: int) -> None:
        super().__init__()
        self.float_op, self.weight, self.levels, self.N = workload.float_op, weight, levels, N

    def forward(self, x: Tensor) -> Tensor:
        return self.float_op(activations.quantize(x, *self.levels, self.N, LEVELS), self.weight)
