"""Named views of what stands between layers: batch norm, other per-channel affines, clips, PReLU, additions.

    affine   y = x·gain[c] + offset[c], gain and offset constants        clip   y = min(max(x, low), high)
    slope    y = x if x > 0 else x·slope[c] (PReLU)                      add    y = a + b

One spelling of each, whether Dynamo, make_fx or symbolic tracing wrote it. A node that writes in place is one of these
only if nobody else looks at what it writes to.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from abcfx.passes._constants import constant_view
from torch import Tensor
from torch.fx import Node

from abcfx.graph import CONSTANT, Builder, shape_of, value

aten = torch.ops.aten
NO_LIMIT = torch.finfo(torch.float32).max


class NormView(NamedTuple):
    """Batch norm with given statistics: gain = weight/√(variance + eps), offset = bias - mean·gain."""

    input: Node
    mean: Node
    variance: Node
    weight: Node | None
    bias: Node | None
    eps: float

    def build(self, b: Builder) -> tuple[Node, Node]:
        """(gain, offset) f32[channels] as nodes."""
        inverse = b(aten.rsqrt.default, b(aten.add.Scalar, vector(b, self.variance), self.eps))
        gain = inverse if self.weight is None else b(aten.mul.Tensor, vector(b, self.weight), inverse)
        moved = b(aten.mul.Tensor, vector(b, self.mean), gain)
        if self.bias is None:
            return gain, b(aten.neg.default, moved)
        return gain, b(aten.sub.Tensor, vector(b, self.bias), moved)


class AffineView(NamedTuple):
    """torch.addcmul(offset, x, gain) with constants of one value a channel."""

    input: Node
    gain: Node
    offset: Node

    def build(self, b: Builder) -> tuple[Node, Node]:
        return vector(b, self.gain), vector(b, self.offset)


class ClipView(NamedTuple):
    input: Node
    low: float
    high: float


class SlopeView(NamedTuple):
    input: Node
    slope: Node


class AddView(NamedTuple):
    a: Node
    b: Node


def _norm(input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """The signature of F.batch_norm."""
    return None if training is not False else NormView(input, running_mean, running_var, weight, bias, eps)


def _native_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled=True):
    """The signature of torch.batch_norm."""
    return _norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def _addcmul(input, tensor1, tensor2, *, value=1):
    return AffineView(tensor1, tensor2, input) if value == 1 else None


def _relu(input, inplace=False):
    return ClipView(input, 0.0, NO_LIMIT)


def _relu6(input, inplace=False):
    return ClipView(input, 0.0, 6.0)


def _hardtanh(input, min_val=-1.0, max_val=1.0, inplace=False):
    return ClipView(input, float(min_val), float(max_val))


def _clamp(input, min=None, max=None):
    if isinstance(min, (Node, Tensor)) or isinstance(max, (Node, Tensor)):
        return None
    return ClipView(input, -NO_LIMIT if min is None else float(min), NO_LIMIT if max is None else float(max))


def _prelu(input, weight):
    return SlopeView(input, weight)


def _add(input, other, *, alpha=1):
    both = isinstance(input, Node) and isinstance(other, Node)
    return AddView(input, other) if both and alpha == 1 else None


READERS = {
    F.batch_norm: _norm, torch.batch_norm: _native_norm, aten.batch_norm.default: _native_norm,
    torch.addcmul: _addcmul, aten.addcmul.default: _addcmul,
    F.relu: _relu, torch.relu: _relu, torch.relu_: _relu, F.relu_: _relu, "relu": _relu, "relu_": _relu,
    aten.relu.default: _relu, F.relu6: _relu6, torch._C._nn.relu6: _relu6,
    F.hardtanh: _hardtanh, torch._C._nn.hardtanh: _hardtanh, aten.hardtanh.default: _hardtanh,
    torch.clamp: _clamp, torch.clip: _clamp, "clamp": _clamp, "clip": _clamp, aten.clamp.default: _clamp,
    F.prelu: _prelu, torch.prelu: _prelu, aten.prelu.default: _prelu,
    operator.add: _add, operator.iadd: _add, torch.add: _add, "add": _add, "add_": _add, aten.add.Tensor: _add,
}  # fmt: skip
NORMS = tuple(t for t, reader in READERS.items() if reader in (_norm, _native_norm, _addcmul))
CLIPS = tuple(t for t, reader in READERS.items() if reader in (_relu, _relu6, _hardtanh, _clamp))
SLOPES = tuple(t for t, reader in READERS.items() if reader is _prelu)
ADDS = tuple(t for t, reader in READERS.items() if reader is _add)
_WRITES = {torch.relu_, F.relu_, "relu_", operator.iadd, "add_"}

Glue = NormView | AffineView | ClipView | SlopeView | AddView


def glue(node: Any) -> Glue | None:
    """The view of a node, None for any other one."""
    if not isinstance(node, Node) or node.op not in ("call_function", "call_method"):
        return None
    bound = bound_to(READERS.get(node.target), node)
    if bound is None:
        return None
    found = READERS[node.target](*bound.args, **bound.kwargs)
    if found is None or not _is_plain(found) or (_writes(node, bound.arguments) and _is_seen(node)):
        return None
    return found


def bound_to(reader: Callable[..., Any] | None, node: Node) -> inspect.BoundArguments | None:
    """The arguments of a node by the names that a reader gives them; None if there is no reader or they do not fit."""
    try:
        return inspect.signature(reader).bind(*node.args, **node.kwargs) if reader is not None else None
    except TypeError:
        return None


def _writes(node: Node, arguments: dict[str, Any]) -> bool:
    return node.target in _WRITES or arguments.get("inplace") is True


def _is_seen(node: Node) -> bool:
    """Whether anybody else sees what this node writes into its first argument."""
    written = node.args[0] if node.args else None
    return not isinstance(written, Node) or written.op in ("placeholder", "get_attr") or len(written.users) > 1


def _is_plain(found: Glue) -> bool:
    """Its parameters are constants, and its limits numbers."""
    if isinstance(found, NormView):
        return all(p is None or constant_view(p) is not None for p in found[1:5]) and found.mean is not None
    if isinstance(found, AffineView):
        return is_constant(found.gain) and is_constant(found.offset)
    if isinstance(found, SlopeView):
        return is_constant(found.slope)
    return not isinstance(found, ClipView) or not (math.isnan(found.low) or math.isnan(found.high))


def is_constant(node: Any) -> bool:
    """Made of parameters, buffers and numbers alone."""
    waiting, seen = [node], set[Any]()
    while waiting:
        current = waiting.pop()
        if not isinstance(current, Node) or current in seen:
            continue
        seen.add(current)
        if current.op == "get_attr" or (current.op == "placeholder" and current.meta.get(CONSTANT)):
            if not isinstance(value(current), Tensor):
                return False
        elif current.op not in ("call_function", "call_method") or not current.all_input_nodes or _is_random(current):
            return False
        waiting += current.all_input_nodes
    return True


_RANDOM = ("rand", "dropout", "bernoulli", "normal_", "uniform_", "exponential_", "multinomial", "poisson")


def _is_random(node: Node) -> bool:
    if isinstance(node.target, torch._ops.OpOverload):
        return torch.Tag.nondeterministic_seeded in node.target.tags
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return any(word in name for word in _RANDOM)


def vector(b: Builder, node: Node) -> Node:
    """A constant as f32[values], whatever dimensions of one it has."""
    found = value(node)
    node = node if found.dim() == 1 else b(aten.reshape.default, node, [-1])
    return node if found.dtype == torch.float32 else b(aten.to.dtype, node, torch.float32)


def of_channels(b: Builder, node: Node, channels: int) -> Node:
    """A vector of one value, or of one for each channel, as f32[channels]."""
    return node if shape_of(node) == (channels,) else b(aten.expand.default, node, [channels])


def clip_and_affine(node: Node) -> tuple[ClipView | None, NormView | AffineView | None, list[Node]]:
    """clip(g·x + h) that ends in `node`, either part of which may be missing; the nodes of them, then x."""
    passed = [node]
    clip = glue(node)
    if isinstance(clip, ClipView):
        passed.append(clip.input)
    affine = glue(passed[-1])
    if isinstance(affine, (NormView, AffineView)):
        passed.append(affine.input)
    return (
        clip if isinstance(clip, ClipView) else None,
        affine if isinstance(affine, (NormView, AffineView)) else None, passed,
    )  # fmt: skip


def acts_on_channels(found: NormView | AffineView | SlopeView, channels: int, channel_dim: int) -> bool:
    """Whether each parameter has one value for each channel of a layer's output (or one in all).

    Statistics, weights and slopes are vectors along dimension 1; the operands of an affine broadcast.
    """
    rank = len(shape_of(found.input) or ())
    if rank == 0:
        return False
    axis = channel_dim % rank
    for parameter in found[1:5]:
        shape = shape_of(parameter) if isinstance(parameter, Node) else None
        if shape is None:
            if isinstance(parameter, Node):
                return False
        elif isinstance(found, AffineView):
            padded = (1,) * (rank - len(shape)) + tuple(shape)
            if any(size not in ((1, channels) if i == axis else (1,)) for i, size in enumerate(padded)):
                return False
        elif axis != 1 or shape not in ((1,), (channels,)):
            return False
    return True
