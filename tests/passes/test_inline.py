"""A torch function becomes aten ops inside a graph: same values, fake values on every node, nothing opaque."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from abcfx.passes._inline import inline
from graphs import Captured, Net, aten_level, dynamo, run
from torch import Tensor
from torch.fx import Node

from abcfx.graph import Builder, clone, value
from abcfx.quant import activations


def rewritten(captured: Captured, target: object, function) -> tuple[torch.fx.GraphModule, list[Node]]:
    """The graph with its call of `target` replaced by `function` of the same operands, and the new nodes."""
    gm = clone(captured.gm)
    (node,) = [n for n in gm.graph.nodes if n.op == "call_function" and n.target == target]
    b = Builder(node, "test")
    node.replace_all_uses_with(inline(b, function, *node.all_input_nodes))
    gm.graph.erase_node(node)
    gm.recompile()
    return gm, b.created


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("levels", ["coded", "thermometer"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_the_quantizer_is_written_out(levels: str, dtype: torch.dtype, dynamic: bool) -> None:
    def function(net: Net, x: Tensor) -> Tensor:
        return torch.ops.abc.quantize_activation(x.relu(), net.s, net.t, 3, levels)

    n = 1 if levels == "coded" else 3
    net = Net(function, s=(n,), t=(n,)).requires_grad_(False)
    x = torch.randn(7, 40, dtype=dtype)
    x[2, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    captured = dynamo(net, x, dynamic=dynamic)
    gm, created = rewritten(
        captured,
        torch.ops.abc.quantize_activation,
        lambda x, s, t: activations.quantize(x, s, t, 3, levels),
    )
    assert {node.target.namespace for node in created} == {"aten"}
    assert all(isinstance(value(node), Tensor) for node in created)
    assert torch.equal(run(gm, captured.inputs), net(x))


def test_a_function_with_a_tensor_of_its_own_is_refused() -> None:
    captured = aten_level(Net(lambda m, x: F.relu(x) + m.w, w=(4,)), torch.randn(4))
    table = torch.ones(4)
    with pytest.raises((ValueError, AssertionError), match="tensor of its own|FakeTensor"):
        rewritten(captured, torch.ops.aten.relu.default, lambda x: x * table)
