"""Constants of a graph: tensors that do not depend on its inputs, and the views (transposed, cast) taken of them.

A weight must be a constant, so that what is packed of it can be kept. A graph input is one if the caller says so
(Dynamo turns parameters into inputs); a get_attr always is. A `View` remembers how a node is made of its base tensor,
and can be replayed on the live tensor.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from abcfx.graph import CONSTANT, bodies, shape_of, value

aten = torch.ops.aten
_VIEW_METHODS = {
    "t", "transpose", "permute", "swapaxes", "unsqueeze", "squeeze", "view", "reshape", "flatten", "contiguous",
    "detach",
}  # fmt: skip
_CAST_METHODS = {"to", "float", "half", "bfloat16", "double"}
_VIEW_FUNCTIONS = {
    torch.t, torch.transpose, torch.permute, torch.unsqueeze, torch.squeeze, torch.reshape, torch.flatten,
    torch.swapaxes, torch.detach, aten.t.default, aten.transpose.int, aten.permute.default, aten.unsqueeze.default,
    aten.squeeze.dim, aten.view.default, aten.reshape.default, aten.detach.default, aten.alias.default,
    aten.contiguous.default, aten.numpy_T.default,
}  # fmt: skip
_CAST_FUNCTIONS = {aten.to.dtype, aten._to_copy.default}
_IN_PLACE = {
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod, operator.ipow,
    operator.imatmul, operator.iand, operator.ior, operator.ixor, operator.ilshift, operator.irshift, operator.setitem,
}  # fmt: skip
_VIEW_ATTRIBUTES = {"T", "mT"}


class Step(NamedTuple):
    """One view or cast: a function, or the name of a Tensor method, with its other arguments."""

    target: Callable[..., Tensor] | str
    args: tuple
    kwargs: tuple[tuple[str, Any], ...]
    cast: bool

    def __call__(self, tensor: Tensor) -> Tensor:
        function = getattr(tensor, self.target) if isinstance(self.target, str) else self.target
        args = self.args if isinstance(self.target, str) else (tensor, *self.args)
        return function(*args, **dict(self.kwargs))


class View(NamedTuple):
    """A constant: `base` (a placeholder or get_attr node) with `steps` applied in order."""

    base: Node
    steps: tuple[Step, ...]

    def of(self, tensor: Tensor) -> Tensor:
        """The same view of a live tensor."""
        for step in self.steps:
            tensor = step(tensor)
        return tensor


def mark_constants(gm: GraphModule, is_constant: Callable[[Node], bool]) -> None:
    """Write down which inputs are constants, also inside checkpoint bodies, where passes look for it."""
    for node in gm.graph.find_nodes(op="placeholder"):
        node.meta[CONSTANT] = is_constant(node) and not is_written(node)
    for call, body in bodies(gm):
        operands = dict(zip(body.graph.find_nodes(op="placeholder"), call.args[1:], strict=True))
        mark_constants(body, lambda inner, operands=operands: constant_view(operands[inner]) is not None)


def is_written(node: Node) -> bool:
    """Whether the graph writes into a tensor, directly or through a view of it."""
    return any(writes(user, node) or (_is_view(user) and is_written(user)) for user in node.users)


def _is_view(node: Node) -> bool:
    step = _step(node)
    return step is not None and not step.cast


def writes(user: Node, node: Node) -> bool:
    """Whether `user` writes into `node`: in-place methods and functions (`add_`, `inplace=True`, `+=`), and operators
    declared to write.
    """
    schema = getattr(user.target, "_schema", None)
    if isinstance(schema, torch._C.FunctionSchema):
        return schema.is_mutable
    name = user.target if isinstance(user.target, str) else getattr(user.target, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    first = bool(user.args) and user.args[0] is node
    return first and (in_place or user.kwargs.get("inplace") is True or user.target in _IN_PLACE)


def constant_view(node: Any) -> View | None:
    """How a node is made of a constant tensor by views and casts alone; None if it is not."""
    steps: list[Step] = []
    while isinstance(node, Node):
        if node.op == "get_attr" or (node.op == "placeholder" and node.meta.get(CONSTANT)):
            found = value(node)
            return View(node, tuple(reversed(steps))) if found is None or isinstance(found, Tensor) else None
        step = _step(node)
        if step is None or not node.args or is_written(node):
            return None
        steps.append(step)
        node = node.args[0]
    return None


def constant_shape(node: Any) -> tuple[int, ...] | None:
    """Shape of a constant, also in a graph without values; None if it is not known."""
    found = constant_view(node)
    base = value(found.base) if found is not None else None
    if shape_of(node) is not None or base is None:
        return shape_of(node)
    return tuple(found.of(torch.empty_like(base, device="meta")).shape)  # type: ignore[union-attr]


def _step(node: Node) -> Step | None:
    if any(isinstance(argument, Node) for argument in [*node.args[1:], *node.kwargs.values()]):
        return None
    args, kwargs = tuple(node.args[1:]), tuple(node.kwargs.items())
    if node.op == "call_method" and node.target in _VIEW_METHODS | _CAST_METHODS:
        return Step(str(node.target), args, kwargs, node.target in _CAST_METHODS)
    if node.op != "call_function":
        return None
    if node.target is getattr and args and args[0] in _VIEW_ATTRIBUTES:
        return Step(operator.attrgetter(args[0]), (), (), False)
    if node.target in _VIEW_FUNCTIONS or node.target in _CAST_FUNCTIONS:
        return Step(node.target, args, kwargs, node.target in _CAST_FUNCTIONS)  # type: ignore[arg-type]
    return None


def without_casts(node: Any) -> Any:
    """The node below the casts of a constant: a quantized weight is made of the parameter itself."""
    while constant_view(node) is not None and isinstance(node, Node):
        step = _step(node)
        if step is None or not step.cast:
            return node
        node = node.args[0]
    return node
