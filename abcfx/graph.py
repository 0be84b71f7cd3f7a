"""What every pass needs of an fx graph: values, constants, named views of layers, a Builder, canonical text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.utils._pytree import tree_leaves

try:
    from torch.fx.experimental.symbolic_shapes import optimization_hint
except ImportError:  # its name before torch 2.12
    from torch.fx.experimental.symbolic_shapes import hint_int as optimization_hint  # noqa: F401

aten = torch.ops.aten
VALUE_KEYS = ("val", "example_value")  # make_fx and export write the first, Dynamo the second
CONSTANT = "abcfx_constant"  # node.meta of a placeholder: whether it is a parameter or buffer that the graph only reads
SITE = "abcfx_site"  # node.meta of a layer: its name in the plan


def value(node: Any) -> Any:
    """The fake value of a node (a constant argument is its own value), or None if the graph carries none."""
    if not isinstance(node, Node):
        return node
    for key in VALUE_KEYS:
        if key in node.meta:
            return node.meta[key]
    if node.op == "get_attr":
        return attribute(node.graph.owning_module, str(node.target))
    return None


def attribute(module: torch.nn.Module, target: str) -> Any:
    """What a get_attr node with this target reads."""
    found: Any = module
    for part in target.split("."):
        found = getattr(found, part)
    return found


def shape_of(node: Any) -> tuple | None:
    """Shape of a tensor node, or None if it is not known."""
    found = value(node)
    return tuple(found.shape) if isinstance(found, torch.Tensor) else None


def dtype_of(node: Any) -> torch.dtype | None:
    found = value(node)
    return found.dtype if isinstance(found, torch.Tensor) else None


class LinearView(NamedTuple):
    """aten.linear: y = x·wᵀ + bias."""

    input: Node
    weight: Node
    bias: Node | None


class ConvView(NamedTuple):
    """aten.convolution, in schema order."""

    input: Node
    weight: Node
    bias: Node | None
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    transposed: bool
    output_padding: list[int]
    groups: int


class AbcLinearView(NamedTuple):
    """abc.linear, in schema order; `plan` holds the trailing arguments (LayerPlan.op_arguments)."""

    input: Node
    weight: Node
    bias: Node | None
    scale: Node
    shift: Node
    plan: tuple


class AbcConvView(NamedTuple):
    """abc.convolution, in schema order; `geometry` is stride … groups, `plan` the trailing arguments."""

    input: Node
    weight: Node
    bias: Node | None
    scale: Node
    shift: Node
    geometry: tuple
    plan: tuple


FIRST_PLAN = 11  # of abc.convolution: five tensors and the six arguments of its geometry stand before its plan


def view(node: Node) -> LinearView | ConvView | AbcLinearView | AbcConvView | None:
    """The named arguments of a layer node in canonical form; None for any other node."""
    if node.op != "call_function":
        return None
    args = list(node.args)
    match str(node.target):
        case "aten.linear.default":
            return LinearView(*args, *([None] * (3 - len(args))))
        case "aten.convolution.default":
            return ConvView(*args)
        case "abc.linear.default":
            return AbcLinearView(*args[:5], tuple(args[5:]))
        case "abc.convolution.default":
            return AbcConvView(*args[:5], tuple(args[5:FIRST_PLAN]), tuple(args[FIRST_PLAN:]))
    return None


_KEPT_META = ("nn_module_stack", "stack_trace", "source_fn_stack", SITE)


class Builder:
    """Inserts call_function nodes before `root`, each with its fake value and a note of where it comes from."""

    def __init__(self, root: Node, rule: str) -> None:
        self.graph, self.root, self.created = root.graph, root, list[Node]()
        self.meta = {k: root.meta[k] for k in _KEPT_META if k in root.meta}
        self.meta["abcfx"] = {"rule": rule, "replaces": root.name}

    def __call__(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        with self.graph.inserting_before(self.root):
            node = self.graph.call_function(target, args, kwargs)
        node.meta.update(self.meta)
        set_value(node, next((k for k in VALUE_KEYS if k in self.root.meta), None))
        self.created.append(node)
        return node

    def undo(self) -> None:
        for node in reversed(self.created):
            self.graph.erase_node(node)


def made_by(node: Node) -> str | None:
    """The rule whose Builder made a node."""
    return node.meta.get("abcfx", {}).get("rule")


def set_value(node: Node, key: str | None) -> None:
    """Give a call_function or call_method node its fake value by running it on the fake values of its arguments."""
    known = {n: value(n) for n in node.all_input_nodes}
    mode = fake_mode(known.values())
    if key is None or mode is None or any(v is None for v in known.values()):
        return
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), known.__getitem__)  # type: ignore[misc]
    # the dispatcher of Python, since some ops (addcmul) have no symbolic shapes without it
    with mode, enable_python_dispatcher(), torch.no_grad() if not torch.is_grad_enabled() else nullcontext():
        if node.op == "call_method":
            node.meta[key] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            node.meta[key] = node.target(*args, **kwargs)  # type: ignore[operator]


def fake_mode(values: Iterable[Any]) -> FakeTensorMode | None:
    """The mode that fake values belong to. (While a backend runs, Dynamo's tracing context holds another one.)"""
    return next((v.fake_mode for v in tree_leaves(list(values)) if isinstance(v, FakeTensor)), None)


def same_value(old: Any, new: Any) -> str | None:
    """None if `new` may stand where `old` stood, else what differs: shape, dtype or device."""
    if not isinstance(old, torch.Tensor) or not isinstance(new, torch.Tensor):
        return None
    if old.dtype != new.dtype:
        return f"dtype {old.dtype} would become {new.dtype}"
    if old.device != new.device:
        return f"device {old.device} would become {new.device}"
    if old.dim() != new.dim() or any(statically_known_true(a != b) for a, b in zip(old.shape, new.shape, strict=True)):
        return f"shape {list(old.shape)} would become {list(new.shape)}"
    return None


def clone(gm: GraphModule) -> GraphModule:
    """A copy whose graph may gain placeholders: Dynamo keeps a hand on its own graph and fails on foreign ones."""
    graph = Graph()
    mapping: dict[Node, Node] = {}
    output = graph.graph_copy(gm.graph, mapping, return_output_node=True)
    assert output is not None, "a graph without an output"
    new_output = graph.output(output[0])
    new_output.meta = dict(output[1].meta)
    for old, new in mapping.items():
        new.meta = dict(old.meta)
        if hasattr(old, "_dynamo_source"):
            new._dynamo_source = old._dynamo_source  # type: ignore[attr-defined]
    graph.set_codegen(gm.graph._codegen)
    new_gm = GraphModule(gm, graph)
    new_gm.meta = dict(gm.meta)
    if hasattr(gm, "_param_name_to_source"):
        new_gm._param_name_to_source = gm._param_name_to_source
    for call, body in bodies(new_gm):  # shared with the original so far
        new_gm.set_submodule(str(call.args[0].target), clone(body))  # type: ignore[union-attr]
    return new_gm


def add_placeholder(gm: GraphModule, name: str, like: torch.Tensor) -> Node:
    """A new last input with the shape, dtype and device of `like`; its values are never read."""
    placeholders = gm.graph.find_nodes(op="placeholder")
    key = next((k for p in placeholders for k in VALUE_KEYS if k in p.meta), None)
    mode = fake_mode(value(p) for p in placeholders)
    after = placeholders[-1] if placeholders else gm.graph._root
    with gm.graph.inserting_after(after):
        node = gm.graph.placeholder(name)
    if key is not None and mode is not None:
        node.meta[key] = mode.from_tensor(like, static_shapes=True)
    node.meta["tensor_dict"] = {}
    node._dynamo_source = None  # type: ignore[attr-defined]
    return node


def bodies(gm: GraphModule) -> Iterator[tuple[Node, GraphModule]]:
    """Calls of checkpoint-like operators, `op(body, *operands)`: operands are the body's placeholders in order."""
    for node in gm.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.HigherOrderOperator) or not node.args:
            continue
        body = node.args[0]
        if isinstance(body, Node) and body.op == "get_attr":
            inner = attribute(gm, str(body.target))
            if isinstance(inner, GraphModule) and len(inner.graph.find_nodes(op="placeholder")) == len(node.args) - 1:
                yield node, inner


def with_bodies(gm: GraphModule) -> Iterator[GraphModule]:
    """The graph itself and every checkpoint body inside it, outermost first."""
    yield gm
    for _, body in bodies(gm):
        yield from with_bodies(body)


def text(gm: GraphModule) -> str:
    """Canonical text: names replaced by numbers in dependency order, so equal text means the same graph."""
    numbers: dict[Node, int] = {}
    lines: list[str] = []

    def show(argument: Any) -> str:
        if isinstance(argument, Node):
            return visit(argument)
        if isinstance(argument, (list, tuple)):
            return f"[{', '.join(show(a) for a in argument)}]"
        return repr(argument)

    def visit(node: Node) -> str:
        if node not in numbers:
            named = [f"{k}={show(v)}" for k, v in sorted(node.kwargs.items())]
            arguments = ", ".join([show(a) for a in node.args] + named)
            numbers[node] = len(numbers)
            target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
            label = "" if node.op in ("placeholder", "output") else f" {target}"
            lines.append(f"%{numbers[node]} = {node.op}{label}({arguments})")
        return f"%{numbers[node]}"

    for placeholder in gm.graph.find_nodes(op="placeholder"):
        visit(placeholder)
    for node in gm.graph.nodes:
        if node.op == "output":
            visit(node)
    return "\n".join(lines)
