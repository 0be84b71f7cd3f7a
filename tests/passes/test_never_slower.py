"""never_slower: what stays float, the reason it gives, and what it does not ask about; then through torch.compile."""

from __future__ import annotations

import warnings

import pytest
import torch
from abcfx.passes.match_layers import GraphSite
from abcfx.passes.never_slower import never_slower
from abcfx.passes.plan_layers import plan_layers
from torch import Tensor, nn

from abcfx.config import Config
from abcfx.ops import choose as choosing
from abcfx.ops import library
from abcfx.plan import Plan

pytestmark = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")


class Net(nn.Module):
    """A layer that pays on bits, one that is too narrow for a kernel, and one without a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(256, 256, 3, padding=1, bias=False)
        self.narrow = nn.Conv2d(256, 8, 1, bias=False)
        self.few = nn.Conv2d(8, 8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.few(self.narrow(self.wide(x)))


def sites_and_plan(m: int, n: int) -> tuple[list[GraphSite], Plan]:
    seen: list[GraphSite] = []

    def backend(gm: torch.fx.GraphModule, inputs: list) -> torch.fx.GraphModule:
        from abcfx.backend import _constant_inputs
        from abcfx.pipeline import open_graph

        pipeline = open_graph(gm, _constant_inputs(gm, inputs))
        pipeline.canonicalize()
        seen.extend(pipeline.match())
        return gm

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(Net(), backend=backend)(torch.randn(1, 256, 14, 14))
    return seen, plan_layers([s.site for s in seen], Config(M=m, N=n, first_last_float=False))


def fake_times(monkeypatch: pytest.MonkeyPatch, **ms: float) -> None:
    import abcfx.passes.never_slower as module

    monkeypatch.setattr(module, "float_and_forms_ms", lambda *_: (ms, True))


def test_stays_float_exactly_where_the_ratio_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    sites, plan = sites_and_plan(2, 2)
    fake_times(monkeypatch, float=1.0, dense=1.2, xnor=0.5)
    assert never_slower(sites, plan, 2.0).layers == plan.layers
    slower = never_slower(sites, plan, 2.01)
    assert not slower.layers
    assert "measured 0.5 ms as xnor against 1 ms in float: 2.00 times as fast" in slower.reasons["wide"]
    assert "min_speedup=2.01" in slower.reasons["wide"]


def test_settled_layers_forced_forms_and_zero_are_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    sites, plan = sites_and_plan(2, 2)
    fake_times(monkeypatch, float=1.0, xnor=2.0)
    assert list(never_slower(sites, plan, 1.0, settled=["narrow"]).layers) == ["narrow"]
    assert never_slower(sites, plan, 0).layers == plan.layers
    with choosing.forcing("xnor"):
        assert never_slower(sites, plan, 1.0).layers == plan.layers


def test_by_the_cost_model() -> None:
    kept, plan = sites_and_plan(1, 1)
    assert "wide" in never_slower(kept, plan, 1.0).layers
    assert not never_slower(kept, plan, 1000.0).layers
    few = never_slower(kept, plan, 1.0).reasons["few"]
    assert few.startswith("predicted ")
    assert "as dense" in few
    assert "8 channels per group" in few


def test_a_layer_whose_work_is_not_known_stays_float_from_one_on() -> None:
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(32, 32, 2, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(x)

    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        torch._dynamo.reset()
        options = {"M": 1, "N": 1, "first_last_float": False, "then": "eager"}
        torch.compile(Up(), backend="abc", options=options)(torch.randn(1, 32, 4, 4))
    assert any("conv_transpose2d has no binary kernel, so it would not be faster" in str(w.message) for w in caught)


@pytest.mark.parametrize("autotune", [False, True])
def test_compiled_float_models_keep_slow_layers_in_float(
    autotune: bool, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setenv("ABCFX_CACHE", str(tmp_path))
    times = {"xnor": 0.5, "lut": 0.9, "dense": 1.0, "float": 0.8}
    monkeypatch.setattr("abcfx.autotune.race", lambda functions: {form: times[form] for form in functions})
    model, x = Net().eval(), torch.randn(1, 256, 14, 14)
    options = {"M": 1, "N": 1, "first_last_float": False, "then": "eager", "autotune": autotune}

    def count(**more: float) -> tuple[Tensor, list[str]]:
        from abcfx import backend

        kept: list[str] = []
        original = backend.Pipeline.rewrite

        def rewrite(self, sites, plan, levels):
            kept.extend(plan.layers)
            return original(self, sites, plan, levels)

        torch._dynamo.reset()
        with monkeypatch.context() as patch, torch.no_grad():
            patch.setattr(backend.Pipeline, "rewrite", rewrite)
            return torch.compile(model, backend="abc", options=options | more)(x), kept

    # by the cost model, narrow has no form that beats float; by the times above it has; few has none in either case
    assert count()[1] == (["wide", "narrow"] if autotune else ["wide"])
    assert count(min_speedup=0)[1] == ["wide", "narrow", "few"]
    with pytest.warns(UserWarning, match="quantized no layer of this graph: .*min_speedup=1000"):
        out, kept = count(min_speedup=1000)
    assert kept == []
    with torch.no_grad():
        assert torch.equal(out, model(x))


def test_what_was_trained_quantized_stays_quantized() -> None:
    model, x = Net(), torch.randn(1, 256, 14, 14)
    options = {"M": 1, "N": 1, "first_last_float": False, "then": "aot_eager"}
    compiled = torch.compile(model, backend="abc", options=options)
    torch._dynamo.reset()
    compiled(x).sum().backward()
    with torch.no_grad():
        after = compiled(x)
        torch._dynamo.reset()
        all_quantized = torch.compile(model, backend="abc", options=options | {"min_speedup": 0})(x)
    assert torch.allclose(after, all_quantized, atol=1e-5)


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "1", True])
def test_bad_values_are_refused(value: object) -> None:
    from abcfx.options import Options

    with pytest.raises(ValueError, match="'min_speedup' must be a number from 0 on"):
        Options.parse({"M": 1, "N": 1, "min_speedup": value})
