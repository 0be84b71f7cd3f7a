"""Named view of a kernel product, plain or with an epilogue, and of the layout nodes around it."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from abcfx.passes._glue import NO_LIMIT, vector
from torch.fx import Node

from abcfx.graph import Builder, shape_of

aten, abc_k = torch.ops.aten, torch.ops.abc_k
LINEAR_HEAD, CONV_HEAD = 9, 14  # arguments of abc_k.linear and abc_k.conv2d
PLAIN = {abc_k.linear.default: LINEAR_HEAD, abc_k.conv2d.default: CONV_HEAD}
EMIT = {abc_k.linear_emit.default: LINEAR_HEAD, abc_k.conv2d_emit.default: CONV_HEAD}
TO_NCHW, TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
PERMUTES = {aten.permute.default}
RESHAPES = {aten.reshape.default, aten.view.default}
COPIES = {aten.clone.default}
MOVES = PERMUTES | RESHAPES


class ProductView(NamedTuple):
    """abc_k.linear[_emit] or abc_k.conv2d[_emit].

    head        the arguments of the plain op: bits, weight bits, alpha, tap sums, bias, levels, geometry
    residual …  the epilogue, as abcfx/ops/kernel_emit.py names it; next_layout: groups and padding of a bit image
    keep        whether its floats are wanted
    nodes       those that it was read from: the op, and the getitem of its floats
    """

    head: tuple
    residual: Node | None = None
    slope: Node | None = None
    low: float = -NO_LIMIT
    high: float = NO_LIMIT
    gain: Node | None = None
    offset: Node | None = None
    next_low: float = -NO_LIMIT
    next_high: float = NO_LIMIT
    next_scale: Node | None = None
    next_shift: Node | None = None
    next_planes: int = 0
    next_levels: str = "coded"
    next_layout: tuple = ()
    keep: bool = True
    nodes: tuple[Node, ...] = ()

    @property
    def is_conv(self) -> bool:
        return len(self.head) == CONV_HEAD

    @property
    def outputs(self) -> int:
        """Output channels of all groups."""
        return shape_of(self.head[2])[1]  # type: ignore[index]

    @property
    def clips(self) -> bool:
        return self.low > -NO_LIMIT or self.high < NO_LIMIT

    @property
    def has_epilogue(self) -> bool:
        return self.clips or self.residual is not None or self.slope is not None

    def channel_dim(self, output: Node) -> int:
        """Where `output`, this product's in its final layout, has the channels."""
        return 1 if self.is_conv else len(shape_of(output) or ()) - 1

    def scaled(self, b: Builder, gain: Node, offset: Node) -> ProductView:
        """gain[c]·product + offset[c]."""
        bits, weight_bits, alpha, tap_sums, bias, *rest = self.head
        shift = offset
        if bias is not None:
            shift = b(aten.add.Tensor, b(aten.mul.Tensor, vector(b, bias), gain), offset)
        if shape_of(shift) != (self.outputs,):
            shift = b(aten.expand.default, shift, [self.outputs])
        sums = b(aten.mul.Tensor, tap_sums, b(aten.unsqueeze.default, gain, 1))
        return self._replace(head=(bits, weight_bits, b(aten.mul.Tensor, alpha, gain), sums, shift, *rest))

    def as_operand(self, b: Builder, other: Node) -> Node:
        """A tensor of the output's final shape in the layout that the kernel writes."""
        other = strip_copies(other)
        if self.is_conv:
            if other.op == "call_function" and other.target in PERMUTES and list(other.args[1]) == TO_NCHW:  # type: ignore[arg-type]
                return other.args[0]  # type: ignore[return-value]
            return b(aten.permute.default, other, TO_NHWC)
        return other if len(shape_of(other) or ()) == 2 else b(aten.reshape.default, other, [-1, self.outputs])

    def build(self, b: Builder) -> Node:
        """The f32 output: of the plain op if there is no epilogue, else of the emitting one."""
        if not self.has_epilogue and not self.next_planes:
            return b(abc_k.conv2d.default if self.is_conv else abc_k.linear.default, *self.head)
        return b(operator.getitem, self.emit(b), 0)

    def emit(self, b: Builder) -> Node:
        """The emitting op, which returns (floats, planes)."""
        layout = (self.next_layout or (1, [0, 0])) if self.is_conv else ()
        target = abc_k.conv2d_emit.default if self.is_conv else abc_k.linear_emit.default
        return b(target, *self.head, *self[1:13], *layout, self.keep)


def product_of(node: Any) -> tuple[ProductView, tuple[Node, ...]] | None:
    """The product whose floats `node` is, and the layout nodes from it to `node`, the first one first."""
    layout: list[Node] = []
    while isinstance(node, Node) and node.op == "call_function" and (_is_copy(node) or node.target in MOVES):
        layout.insert(0, node)
        node = node.args[0]
    found = view(node)
    if found is None or not _is_layout(found, layout):
        return None
    return found, tuple(layout)


def strip_copies(node: Node) -> Node:
    """What a row of copies copies."""
    while _is_copy(node):
        node = node.args[0]  # type: ignore[assignment]
    return node


def _is_copy(node: Node) -> bool:
    """The same values: a clone, or dropout in eval mode."""
    if node.op != "call_function":
        return False
    if node.target is F.dropout:
        training = node.args[2] if len(node.args) > 2 else node.kwargs.get("training", True)
        return training is False
    return node.target in COPIES


def view(node: Any) -> ProductView | None:
    """The product whose f32 output `node` is, as the kernel writes it."""
    if not isinstance(node, Node) or node.op != "call_function":
        return None
    if node.target in PLAIN:
        return ProductView(tuple(node.args), nodes=(node,))
    if node.target is operator.getitem and node.args[1] == 0:
        made = node.args[0]
        if isinstance(made, Node) and made.target in EMIT:
            head = EMIT[made.target]
            args = list(made.args)
            return ProductView(
                tuple(args[:head]), *args[head : head + 12], tuple(args[head + 12 : -1]), args[-1], (made, node)
            )
    return None


def _is_layout(product: ProductView, layout: list[Node]) -> bool:
    """One permutation to NCHW after a convolution, one reshape of the rows after a linear layer, and copies."""
    moves = [node for node in layout if not _is_copy(node)]
    if product.is_conv:
        return len(moves) == 1 and moves[0].target in PERMUTES and list(moves[0].args[1]) == TO_NCHW  # type: ignore[arg-type]
    if any(node.target not in RESHAPES for node in moves) or len(moves) > 1:
        return False
    return not moves or (shape_of(moves[0]) or (None,))[-1] == product.outputs


def replayed(b: Builder, node: Node, layout: tuple[Node, ...]) -> Node:
    """The same moves on another node; copies are left to whoever needs the strides."""
    for move in layout:
        if not _is_copy(move):
            node = b(move.target, node, *move.args[1:], **move.kwargs)  # type: ignore[arg-type]
    return node
