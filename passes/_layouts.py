"""Who can see the strides of a tensor? Where nobody can, a convolution may hand on whatever order it wrote."""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch.fx import Node

aten = torch.ops.aten

# Same value for any strides of the argument, whose strides show through the result (also where it is the same tensor,
# written in place)
_ELEMENTWISE = {
    operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.pow, operator.getitem,
    operator.iadd, operator.imul, "add_", "mul_", "relu_", "clamp_", torch.relu_, F.relu_,
    torch.add, torch.sub, torch.mul, torch.div, torch.cat, torch.relu, torch.sigmoid, torch.tanh, torch.clamp,
    F.relu, F.relu6, F.gelu, F.silu, F.hardswish, F.hardtanh, F.hardsigmoid, F.leaky_relu, F.elu, F.mish, F.softplus,
    torch._C._nn.gelu, torch._C._nn.silu, torch._C._nn.hardswish,
    F.batch_norm, F.group_norm, F.layer_norm, F.dropout, F.dropout2d, F.prelu, torch.prelu,
    F.max_pool1d, F.max_pool2d, F.avg_pool2d, torch._C._nn.avg_pool2d, F.interpolate, F.pad, torch._C._nn.pad,
    F.adaptive_avg_pool2d, F.adaptive_avg_pool1d, torch.avg_pool1d, torch.max_pool2d,
    "add", "sub", "mul", "div", "relu", "sigmoid", "tanh", "clamp", "float", "to", "half", "bfloat16",
    torch.addcmul,
    aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor, aten.to.dtype, aten.relu.default, aten.slice.Tensor,
    torch.permute, torch.transpose, "permute", "transpose", "unsqueeze", "squeeze",
    aten.permute.default, aten.squeeze.dim, aten.unsqueeze.default,
}  # fmt: skip
# Same value for any strides, and the result has its own
_ABSORBING = {
    torch.mean, torch.sum, torch.amax, torch.flatten, torch.reshape, torch.conv1d, torch.conv2d, torch.conv3d, F.linear,
    "mean", "sum", "amax", "flatten", "reshape", "contiguous", "size", "dim", aten.sym_size.int,
    aten.convolution.default, aten.linear.default, aten.reshape.default,
}  # fmt: skip
_ABSORBING_NAMESPACES = ("abc", "abc_k")


def strides_matter(node: Node) -> bool:
    """Whether some user might compute something else, or fail, if the strides of `node` changed.

    `view`, `as_strided`, an in-place op and the graph's output do; anything unknown is taken to.
    """
    seen, waiting = {node}, [node]
    while waiting:
        for user in waiting.pop().users:
            if user in seen or _absorbs(user):
                continue
            if not passes_strides(user):
                return True
            seen.add(user)
            waiting.append(user)
    return False


def passes_strides(node: Node) -> bool:
    """Whether `node` has the same value for any strides of its argument, which show through it."""
    return node.op in ("call_function", "call_method") and node.target in _ELEMENTWISE


def _absorbs(user: Node) -> bool:
    if getattr(user.target, "namespace", None) in _ABSORBING_NAMESPACES:
        return True
    if user.target is getattr:
        return user.args[1] in ("shape", "dtype", "device", "ndim")
    return user.op in ("call_function", "call_method") and user.target in _ABSORBING
