"""Capturing small functions in the three ways that graphs reach the passes: Dynamo, make_fx, symbolic_trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from abcfx.passes.lower import Lowered
from abcfx.passes.rewrite_abc import LevelInputs
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from abcfx.pipeline import Pipeline, open_graph

LEVELS = torch.tensor([0.7]), torch.tensor([-1.0])  # scale and shift of every quantized layer of the tests


class Net(nn.Module):
    """Parameters by name, and a function of (net, *inputs) as the forward."""

    def __init__(self, function: Callable[..., Any], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


@dataclass
class Captured:
    """A graph, example values of its inputs in order, and the names of those that are parameters."""

    gm: GraphModule
    inputs: list[Any]
    constants: set[str]

    def pipeline(self) -> Pipeline:
        return open_graph(self.gm, lambda node: node.name in self.constants)

    def live(self, name: str) -> Tensor:
        names = [node.name for node in self.gm.graph.find_nodes(op="placeholder")]
        return self.inputs[names.index(name)]


def dynamo(module: nn.Module, *inputs: Tensor, dynamic: bool = False) -> Captured:
    """What a torch.compile backend is given."""
    found: list[Captured] = []

    def backend(gm: GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        nodes = zip(gm.graph.find_nodes(op="placeholder"), example_inputs, strict=True)
        constants = {n.name for n, value in nodes if isinstance(value, nn.Parameter)}
        found.append(Captured(gm, list(example_inputs), constants))
        return gm.forward

    torch._dynamo.reset()
    torch.compile(module, backend=backend, fullgraph=True, dynamic=dynamic)(*inputs)
    (captured,) = found
    return captured


def aten_level(module: nn.Module, *inputs: Tensor) -> Captured:
    """make_fx: aten ops, parameters as inputs."""
    names, values = zip(*module.named_parameters(), strict=True)

    def function(*everything: Tensor) -> Any:
        parameters = dict(zip(names, everything, strict=False))
        return torch.func.functional_call(module, parameters, everything[len(names) :])

    values = tuple(value.detach() for value in values)
    gm = make_fx(function, tracing_mode="fake")(*values, *inputs)
    placeholders = gm.graph.find_nodes(op="placeholder")
    return Captured(gm, [*values, *inputs], {node.name for node in placeholders[: len(names)]})


def symbolic(module: Net, *inputs: Tensor) -> Captured:
    """symbolic_trace of the function: parameters as get_attr, no shapes."""

    class Function(torch.fx.Tracer):
        def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple:
            proxies = [self.create_proxy("placeholder", f"x{i}", (), {}) for i in range(len(inputs))]
            return lambda root: root.function(root, *proxies), [self.root]

    return Captured(GraphModule(module, Function().trace(module)), list(inputs), set())


CAPTURES = {"dynamo": dynamo, "make_fx": aten_level, "symbolic_trace": symbolic}


def run(gm: GraphModule, inputs: list[Any], *added: Tensor) -> Any:
    """The first (or only) result of a graph."""
    with torch.no_grad():
        result = gm(*inputs, *added)
    return result[0] if isinstance(result, (tuple, list)) else result


def targets(gm: GraphModule) -> list[str]:
    """Names of all ops called, in order."""
    called = [node for node in gm.graph.nodes if node.op in ("call_function", "call_method")]
    return [str(node.target) if not callable(node.target) else _name(node) for node in called]


def _name(node: Node) -> str:
    return str(node.target) if isinstance(node.target, torch._ops.OpOverload) else node.target.__name__  # type: ignore[union-attr]


def level_tensors(added: list[LevelInputs]) -> list[Tensor]:
    return [tensor for pair in added for tensor in (pair.scale, pair.shift)]


def weight_tensors(captured: Captured, lowered: Lowered) -> list[Tensor]:
    return [t for made in lowered.inputs for t in made.tensors(captured.live(made.view.base.name))]


def kept_by_step(model: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """What a step keeps between its forward and its backward pass; both are run, so that parameters have gradients."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = model(x).square().mean()
    loss.backward()
    return kept


def assert_gradients_of_eager(model: nn.Module, x: Tensor) -> None:
    """The gradients that the parameters have, of a compiled step, are those of the same step in eager mode."""
    got = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    model(x).square().mean().backward()
    for name, p in model.named_parameters():
        assert torch.allclose(got[name], p.grad, rtol=2e-2, atol=2e-2 * float(p.grad.abs().max())), name
