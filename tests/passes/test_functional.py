"""Functional layers in a module's own forward: found, replaced, and everything else of the module as it was."""

from __future__ import annotations

import copy
import io
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from abcfx.passes.functional import trace_functional
from torch import nn

from abcfx.layers import ABCLayer
from abcfx.layers.functional_module import build_functional
from abcfx.plan import LayerPlan

LEVELS = torch.tensor([0.3]), torch.tensor([-1.2])


class Block(nn.Module):
    """Two functional layers with a child between them, dropout, an optional argument and a bias that may be missing."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4, 4, 4))
        self.bias = nn.Parameter(torch.randn(6)) if bias else None
        self.child = nn.Linear(6, 5)
        self.register_buffer("matrix", torch.randn(5, 3))

    def width(self) -> int:
        return self.weight.shape[0]

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, *, flat: bool = True) -> torch.Tensor:
        y = F.conv2d(x, self.weight, self.bias, padding="same")
        if mask is not None:
            y = y * mask
        y = self.child(y.mean((-1, -2)))
        y = F.dropout(y, 0.5, self.training) @ self.matrix
        return y if flat else y[:, None]


def built(module: nn.Module, name: str = "block") -> nn.Module:
    traced = trace_functional(module, name)
    new = build_functional(traced, {site.name: LayerPlan(3, 3) for site in traced.sites if site.reason is None})
    for layer in new.modules():
        if isinstance(layer, ABCLayer):
            layer.set_levels(*LEVELS)
    return new


def reference(module: Block, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Block.forward in eval mode with the float ops on dequantized operands."""

    def on_dequantized(op, x, w, *arguments, **named):
        x = torch.ops.abc.quantize_activation(x, *LEVELS, 3, "coded")
        return op(x, torch.ops.abc.quantize_weight(w, False, 1, 3, "alternating", True), *arguments, **named)

    y = on_dequantized(F.conv2d, x, module.weight, module.bias, padding="same")
    y = module.child((y if mask is None else y * mask).mean((-1, -2)))
    return on_dequantized(F.linear, y, module.matrix.t())


@pytest.fixture
def block() -> Block:
    return Block().eval()


pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def test_sites(block: Block) -> None:
    sites = trace_functional(block, "net.block").sites
    assert [(s.name, s.kind, s.weight, s.reason) for s in sites] == [
        ("net.block", "conv2d", (6, 4, 4, 4), None),
        ("net.block.matrix", "linear", (3, 5), None),
    ]
    assert [s.name for s in trace_functional(block).sites] == ["weight", "matrix"]


@pytest.mark.parametrize("bias", [True, False])
def test_values(bias: bool) -> None:
    block = Block(bias).eval()
    new, x = built(block), torch.randn(2, 4, 7, 7)
    # the same float ops; the packed kernel sums in another order where it is loaded
    torch.testing.assert_close(new(x), reference(block, x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(new(x[0]), reference(block, x[:1])[0], rtol=1e-4, atol=1e-4)


def test_other_paths_are_traced_when_needed(block: Block) -> None:
    new, x, mask = built(block), torch.randn(2, 4, 7, 7), torch.rand(2, 6, 7, 7)
    assert len(new._abc_paths) == 2
    torch.testing.assert_close(new(x, mask), reference(block, x, mask), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(new(x, mask=mask, flat=False), reference(block, x, mask)[:, None], rtol=1e-4, atol=1e-4)
    new(x, None, flat=True)  # what the defaults say: no further path
    assert len(new._abc_paths) == 4
    assert None not in new._abc_paths.values()


def test_training_mode_has_its_own_path(block: Block) -> None:
    new, x = built(block).train(), torch.randn(64, 4, 5, 5)
    outputs = new(x), new(x)
    assert not torch.equal(*outputs), "dropout is off"
    outputs[0].sum().backward()
    assert new.weight.grad is not None
    assert torch.equal(new.eval()(x), new(x))


def test_the_module_is_still_what_it_was(block: Block) -> None:
    before = dict(block.__dict__)
    new = built(block)
    assert block.__dict__ == before
    assert isinstance(new, Block)
    assert new.weight is block.weight
    assert new.child is block.child
    assert new.width() == 6
    assert set(block.state_dict()) <= set(new.state_dict())
    added = {key.rpartition(".")[2] for key in new.state_dict().keys() - block.state_dict().keys()}
    assert added == {"activation_scale", "activation_shift"}


def test_a_float_checkpoint_loads(block: Block) -> None:
    new = built(block)
    new.load_state_dict(Block().state_dict())
    x = torch.randn(2, 4, 7, 7)
    torch.testing.assert_close(new(x), reference(new, x), rtol=1e-4, atol=1e-4)


def test_copies_and_pickles(block: Block) -> None:
    new, x = built(block), torch.randn(2, 4, 7, 7)
    buffer = io.BytesIO()
    torch.save(new, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(new), torch.load(buffer, weights_only=False)):
        assert type(other) is type(new)
        assert torch.equal(other(x), new(x))
        with torch.no_grad():
            other.weight.zero_()
        assert not torch.equal(other(x), new(x))


def test_compiles_in_one_graph(block: Block) -> None:
    new, x = built(block), torch.randn(2, 4, 7, 7)
    torch._dynamo.reset()
    compiled = torch.compile(new, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), new(x), rtol=1e-4, atol=1e-4)


def test_children_are_looked_up_when_called(block: Block) -> None:
    new, x = built(block), torch.randn(2, 4, 7, 7)
    before = new(x)
    new.child = nn.Linear(6, 5)
    assert not torch.equal(new(x), before)


class DataDependent(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.matrix if x.sum() > 0 else x


class Storing(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = x
        return x @ self.matrix


class Drawing(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.matrix + torch.rand(3)


class Wrapping(Block):
    def forward(self, x: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(value=x @ self.matrix)


class Anonymous(Block):
    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return inputs[0] @ self.matrix


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (DataDependent, "cannot be traced (symbolically traced variables cannot be used as inputs to control flow"),
        (Storing, "stores values on the module (last)"),
        (Drawing, "makes a tensor of its own"),
        (Wrapping, "returns a SimpleNamespace"),
        (Anonymous, "arguments without names"),
    ],
)
def test_what_cannot_be_traced_has_a_reason_and_no_trace_is_left(kind: type[Block], reason: str) -> None:
    module = kind()
    before = dict(module.__dict__)
    (site,) = trace_functional(module, "block").sites
    assert site.name == "block"
    assert reason in site.reason
    assert module.__dict__ == before
    assert module.training


class Sometimes(Block):
    def forward(self, x: torch.Tensor, flip: torch.Tensor | None = None) -> torch.Tensor:
        y = x @ self.matrix
        return -y if flip is not None and flip.any() else y


def test_a_path_that_cannot_be_traced_runs_in_float_with_a_warning() -> None:
    new, x = built(Sometimes()), torch.randn(2, 5)
    with pytest.warns(UserWarning, match=r"called as forward\(x, flip\), its functional layers run in float"):
        result = new(x, torch.ones(1))
    assert torch.equal(result, -(x @ new.matrix))
    assert not torch.equal(new(x), x @ new.matrix)


def test_untouched_if_nothing_is_functional() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.position

    assert trace_functional(Plain(), "plain").sites == []
