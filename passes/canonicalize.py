"""aten → aten: one spelling per idea. After it, every layer is `aten.linear` or `aten.convolution`.

Autocast is made explicit: where an operand has another dtype than the result, autocast had cast it, and the cast
becomes a node. `aten.convolution` itself is on no autocast list of the CPU.
"""

from __future__ import annotations

import operator
import sys
from typing import Any

import torch
import torch.nn.functional as F
from abcfx.passes._constants import constant_shape, constant_view
from abcfx.passes._rule import Rule, decline
from torch.fx import GraphModule, Node

from abcfx.graph import Builder, ConvView, dtype_of, shape_of, with_bodies

aten = torch.ops.aten

LINEAR = (F.linear, torch._C._nn.linear)
CONV = {
    F.conv1d: 1, F.conv2d: 2, F.conv3d: 3,
    aten.conv1d.default: 1, aten.conv2d.default: 2, aten.conv3d.default: 3,
    aten.conv1d.padding: 1, aten.conv2d.padding: 2, aten.conv3d.padding: 3,
}  # fmt: skip
CONV_TRANSPOSE = {
    F.conv_transpose1d: 1, F.conv_transpose2d: 2, F.conv_transpose3d: 3,
    aten.conv_transpose1d.default: 1, aten.conv_transpose2d.input: 2, aten.conv_transpose3d.input: 3,
}  # fmt: skip
ADDMM = (torch.addmm, aten.addmm.default, "addmm")
MATMUL = (torch.matmul, operator.matmul, torch.mm, aten.matmul.default, aten.mm.default, "matmul", "mm", "__matmul__")


def arguments(node: Node, names: tuple[str, ...], defaults: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a call by name, whether they were given by position, by name or not at all."""
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    if unknown := given.keys() - set(names):
        decline(f"argument {', '.join(sorted(unknown))} has no place in the canonical form")
    return defaults | given


def cast_like_result(b: Builder, *operands: Node | None) -> list[Node | None]:
    """What autocast did before this op, as nodes: floating operands in the dtype of the result."""
    result = dtype_of(b.root)

    def cast(operand: Node | None) -> Node | None:
        dtype = dtype_of(operand) if operand is not None else None
        if result is None or dtype is None or dtype == result or not dtype.is_floating_point:
            return operand
        return b(aten.to.dtype, operand, result)

    return [cast(operand) for operand in operands]


def transposed(b: Builder, weight: Node) -> Node:
    """Wᵀ of a matrix; of a matrix that was itself transposed, the one below."""
    view = constant_view(weight)
    is_t = weight.target in ("t", torch.t, aten.t.default, aten.numpy_T.default)
    is_attribute = weight.target is getattr and weight.args[1] == "T"
    if view is not None and view.steps and (is_t or is_attribute):
        return weight.args[0]  # type: ignore[return-value]
    return b(aten.t.default, weight)


class FunctionalLinear(Rule):
    """F.linear(x, w, bias)  →  aten.linear(x, w, bias).

    Holds because F.linear is that op. A weight with one dimension makes a dot product, not a layer.

    Before::
        def f(x: f32[4, 8], w: f32[16, 8].constant, b: f32[16].constant):
            return F.linear(x, bias=b, weight=w)
    After::
        def f(x: f32[4, 8], w: f32[16, 8].constant, b: f32[16].constant):
            return aten.linear.default(x, w, b)
    Declines::
        def f(x: f32[4, 8], w: f32[8].constant):
            return F.linear(x, w)                        # weight has 1 dimension
    """

    root = LINEAR

    def match(self, node: Node) -> tuple:
        call = arguments(node, ("input", "weight", "bias"), {"bias": None})
        shape = shape_of(call["weight"])
        if shape is not None and len(shape) != 2:
            decline(f"weight has {len(shape)} dimension{'s' * (len(shape) != 1)}, a layer needs 2")
        return call["input"], call["weight"], call["bias"]

    def rewrite(self, b: Builder, x: Node, w: Node, bias: Node | None) -> Node:
        return b(aten.linear.default, *cast_like_result(b, x, w, bias))


class LinearFromMatmul(Rule):
    """x @ W  →  aten.linear(x, Wᵀ), for a constant matrix W[in, out] on the right.

    Holds because linear(x, w) = x·wᵀ. Products of two activations (attention scores) are no layers.

    Before::
        def f(x: f32[2, 4, 8], w: f32[8, 16].constant):
            return x @ w
    After::
        def f(x: f32[2, 4, 8], w: f32[8, 16].constant):
            return aten.linear.default(x, aten.t.default(w), None)
    Before::
        def f(x: f32[4, 8], w: f32[16, 8].constant):
            return x.matmul(w.t())
    After::
        def f(x: f32[4, 8], w: f32[16, 8].constant):
            return aten.linear.default(x, w, None)
    Declines::
        def f(x: f32[4, 8], y: f32[8, 4]):
            return torch.matmul(x, y)                    # no constant operand
    Declines::
        def f(x: f32[8, 4], w: f32[16, 8].constant):
            return torch.matmul(w, x)                    # the constant is the left operand
    Declines::
        def f(x: f32[2, 4, 8], w: f32[2, 8, 16].constant):
            return torch.matmul(x, w)                    # the constant has 3 dimensions
    """

    root = MATMUL

    def match(self, node: Node) -> tuple:
        first = "self" if node.target in (aten.matmul.default, aten.mm.default) else "input"
        second = "mat2" if node.target in (torch.mm, aten.mm.default, "mm") else "other"
        call = arguments(node, (first, second), {})
        x, w = call[first], call[second]
        if constant_view(w) is None:
            left = constant_view(x) is not None
            decline("the constant is the left operand" if left else "no constant operand: activation × activation")
        if constant_view(x) is not None:
            decline("both operands are constants")
        shape = constant_shape(w)
        if shape is None or len(shape) != 2:
            decline(f"the constant has {len(shape)} dimensions" if shape else "the shape of the constant is unknown")
        return x, w

    def rewrite(self, b: Builder, x: Node, w: Node) -> Node:
        x, w = cast_like_result(b, x, transposed(b, w))
        return b(aten.linear.default, x, w, None)


class LinearFromAddmm(Rule):
    """β·c + α·(x @ W)  →  aten.linear(x, Wᵀ, c) if α = β = 1 and c has one value per column; else linear, then the sum.

    Holds because linear adds its bias to every row. β = 0 ignores c, also where it is NaN, as addmm does.

    Before::
        def f(x: f32[4, 8], w: f32[8, 16].constant, c: f32[16].constant):
            return torch.addmm(c, x, w)
    After::
        def f(x: f32[4, 8], w: f32[8, 16].constant, c: f32[16].constant):
            return aten.linear.default(x, aten.t.default(w), c)
    Before::
        def f(x: f32[4, 8], w: f32[8, 16].constant, c: f32[4, 16]):
            return torch.addmm(c, x, w, beta=0.5, alpha=2)
    After::
        def f(x: f32[4, 8], w: f32[8, 16].constant, c: f32[4, 16]):
            y = aten.mul.Tensor(aten.linear.default(x, aten.t.default(w), None), 2)
            return aten.add.Tensor(aten.mul.Tensor(c, 0.5), y)
    Declines::
        def f(x: f32[4, 8], y: f32[8, 16], c: f32[16].constant):
            return torch.addmm(c, x, y)                  # no constant operand
    """

    root = ADDMM

    def match(self, node: Node) -> tuple:
        bias = "self" if node.target is aten.addmm.default else "input"
        call = arguments(node, (bias, "mat1", "mat2", "beta", "alpha"), {"beta": 1, "alpha": 1})
        if constant_view(call["mat2"]) is None:
            decline("no constant operand: activation × activation")
        return call[bias], call["mat1"], call["mat2"], call["beta"], call["alpha"]

    def rewrite(self, b: Builder, c: Node, x: Node, w: Node, beta: float, alpha: float) -> Node:
        columns = (constant_shape(w) or (None, None))[1]
        c, x, w = cast_like_result(b, c, x, transposed(b, w))
        if beta == 1 and alpha == 1 and columns is not None and shape_of(c) == (columns,):
            return b(aten.linear.default, x, w, c)
        y = b(aten.linear.default, x, w, None)
        y = y if alpha == 1 else b(aten.mul.Tensor, y, alpha)
        if beta == 0:
            return y
        return b(aten.add.Tensor, c if beta == 1 else b(aten.mul.Tensor, c, beta), y)


def per_dimension(name: str, given: Any, dims: int) -> list[int]:
    """An int or a sequence of ints, one per spatial dimension."""
    values = list(given) if isinstance(given, (list, tuple)) else [given]
    if not all(isinstance(v, int) for v in values):
        decline(f"{name} is computed in the graph")
    return values * dims if len(values) == 1 else values


def batched(x: Node, dims: int) -> bool:
    """A graph without shapes is taken as batched, which is what aten.convolution itself expects."""
    shape = shape_of(x)
    return shape is None or len(shape) == dims + 2


class FunctionalConvolution(Rule):
    """F.conv{1,2,3}d(x, w, bias, …)  →  aten.convolution with a list per parameter.

    padding='same' of an even kernel is not symmetric: t = dilation·(kernel − 1) zeros, ⌊t/2⌋ in front, ⌈t/2⌉ behind.
    With stride 1, padding ⌈t/2⌉ on both sides gives the same outputs after t mod 2 extra first ones, which are cut off.
    An input without batch gets one of size 1 and loses it again.

    Before::
        def f(x: f32[2, 4, 9, 9], w: f32[8, 2, 3, 3].constant, b: f32[8].constant):
            return F.conv2d(x, w, b, 2, padding=(1, 0), groups=2)
    After::
        def f(x: f32[2, 4, 9, 9], w: f32[8, 2, 3, 3].constant, b: f32[8].constant):
            return aten.convolution.default(x, w, b, [2, 2], [1, 0], [1, 1], False, [0, 0], 2)
    Before::
        def f(x: f32[4, 9], w: f32[8, 4, 4].constant):
            return F.conv1d(x, w, padding='same')
    After::
        def f(x: f32[4, 9], w: f32[8, 4, 4].constant):
            x = aten.unsqueeze.default(x, 0)
            y = aten.convolution.default(x, w, None, [1], [2], [1], False, [0], 1)
            return aten.squeeze.dim(aten.slice.Tensor(y, -1, 1, sys.maxsize), 0)
    Declines::
        def f(x: f32[2, 4, 9], w: f32[8, 4, 3].constant, k: f32[2]):
            return F.conv1d(x, w, None, 1, k.size(0))    # padding is computed in the graph
    """

    root = tuple(CONV)
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    defaults = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}  # noqa: RUF012  never changed

    def match(self, node: Node) -> tuple:
        dims = CONV[node.target]  # type: ignore[index]
        call = arguments(node, self.names, self.defaults)
        stride = per_dimension("stride", call["stride"], dims)
        dilation = per_dimension("dilation", call["dilation"], dims)
        padding, extra = self.padding(call["padding"], call["weight"], dilation, dims)
        operands = call["input"], call["weight"], call["bias"]
        return operands, (stride, padding, dilation, False, [0] * dims, call["groups"]), extra

    def padding(self, given: Any, weight: Node, dilation: list[int], dims: int) -> tuple[list[int], list[int]]:
        """Symmetric padding, and how many first outputs it makes too many, per dimension."""
        if not isinstance(given, str):
            return per_dimension("padding", given, dims), [0] * dims
        if given == "valid":
            return [0] * dims, [0] * dims
        kernel = (
            shape_of(weight) or constant_shape(weight) or decline("padding='same' with a weight of unknown shape")
        )[2:]
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [(t + 1) // 2 for t in total], [t % 2 for t in total]

    def rewrite(self, b: Builder, operands: tuple, geometry: tuple, extra: list[int]) -> Node:
        x, w, bias = cast_like_result(b, *operands)
        has_batch = batched(x, len(extra))
        x = x if has_batch else b(aten.unsqueeze.default, x, 0)
        y = b(aten.convolution.default, x, w, bias, *geometry)
        for dim, first in enumerate(extra, start=-len(extra)):
            y = b(aten.slice.Tensor, y, dim, first, sys.maxsize) if first else y
        return y if has_batch else b(aten.squeeze.dim, y, 0)


class FunctionalTransposedConvolution(FunctionalConvolution):
    """F.conv_transpose{1,2,3}d(x, w, bias, …)  →  aten.convolution with transposed=True.

    Before::
        def f(x: f32[2, 4, 5, 5], w: f32[4, 8, 3, 3].constant):
            return F.conv_transpose2d(x, w, None, 2, 1, output_padding=1)
    After::
        def f(x: f32[2, 4, 5, 5], w: f32[4, 8, 3, 3].constant):
            return aten.convolution.default(x, w, None, [2, 2], [1, 1], [1, 1], True, [1, 1], 1)
    Declines::
        def f(x: f32[2, 4, 5], w: f32[4, 8, 3].constant, k: f32[2]):
            return F.conv_transpose1d(x, w, stride=k.size(0))   # stride is computed in the graph
    """

    root = tuple(CONV_TRANSPOSE)
    names = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
    defaults = FunctionalConvolution.defaults | {"output_padding": 0}

    def match(self, node: Node) -> tuple:
        dims = CONV_TRANSPOSE[node.target]  # type: ignore[index]
        call = arguments(node, self.names, self.defaults)
        stride, padding, dilation, output_padding = (
            per_dimension(name, call[name], dims) for name in ("stride", "padding", "dilation", "output_padding")
        )
        geometry = (stride, padding, dilation, True, output_padding, call["groups"])
        return (call["input"], call["weight"], call["bias"]), geometry, [0] * dims


class CompleteConvolution(Rule):
    """aten.convolution with one entry for all dimensions  →  one entry per dimension.

    Decompositions write padding=[0] where they mean none in any dimension.

    Before::
        def f(x: f32[2, 4, 9, 9], w: f32[8, 4, 3, 3].constant):
            return aten.convolution.default(x, w, None, [1, 1], [0], [1, 1], False, [0], 1)
    After::
        def f(x: f32[2, 4, 9, 9], w: f32[8, 4, 3, 3].constant):
            return aten.convolution.default(x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    Declines::
        def f(x: f32[2, 4, 9], w: f32[8, 4, 3].constant):
            return aten.convolution.default(x, w, None, [1], [0], [1], False, [0], 1)   # complete
    """

    root = (aten.convolution.default,)

    def match(self, node: Node) -> tuple:
        call = arguments(node, ConvView._fields, {})
        layer = ConvView(**call)
        lists = ("stride", "padding", "dilation", "output_padding")
        shape = shape_of(layer.weight) or constant_shape(layer.weight)
        dims = len(shape) - 2 if shape is not None else max(len(call[name]) for name in lists)
        full = layer._replace(**{name: per_dimension(name, call[name], dims) for name in lists})
        if node.args == tuple(full):
            decline("complete")
        return (full,)

    def rewrite(self, b: Builder, full: ConvView) -> Node:
        return b(aten.convolution.default, *full)


def name_overloads(gm: GraphModule) -> None:
    """`torch.ops.abc.linear(…)`, as users write it, calls a packet; name the only overload in it."""
    for part in with_bodies(gm):
        for node in part.graph.nodes:
            if isinstance(node.target, torch._ops.OpOverloadPacket) and node.target.overloads() == ["default"]:
                node.target = node.target.default


CANONICALIZE: tuple[Rule, ...] = (
    FunctionalLinear(),
    LinearFromAddmm(),
    LinearFromMatmul(),
    FunctionalConvolution(),
    FunctionalTransposedConvolution(),
    CompleteConvolution(),
)
