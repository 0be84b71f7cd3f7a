"""Planned layers become abc ops with the value of the float op on dequantized operands; all others are not touched."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from abcfx.passes._rule import apply_rules
from abcfx.passes.rewrite_abc import REWRITE
from graphs import CAPTURES, LEVELS, Net, dynamo, level_tensors, run, targets
from test_match_layers import Checkpointed
from torch import nn

from abcfx.graph import text, view, with_bodies
from abcfx.pipeline import Pipeline
from abcfx.plan import LayerPlan, Plan

aten, abc = torch.ops.aten, torch.ops.abc


def rewritten(pipeline: Pipeline, *names: str, plan: LayerPlan | None = None) -> list[torch.Tensor]:
    """Rewrite the sites named (all by default); what to pass for the new inputs."""
    pipeline.canonicalize()
    sites = pipeline.match()
    chosen = {s.site.name: plan or LayerPlan() for s in sites if not names or s.site.name in names}
    return level_tensors(pipeline.rewrite(sites, Plan(chosen), lambda site: LEVELS))


def on_dequantized(op, x: torch.Tensor, w: torch.Tensor, *others, groups: int = 1) -> torch.Tensor:
    x = abc.quantize_activation(x, *LEVELS, 2, "coded")
    return op(x, abc.quantize_weight(w, False, groups, 2, "alternating", True), *others)


@pytest.mark.parametrize("capture", CAPTURES.values(), ids=CAPTURES)
def test_values_are_those_of_the_planned_approximation(capture) -> None:
    net = Net(lambda m, x: F.conv1d(F.linear(x, m.w, m.b), m.k, padding=1, groups=2), w=(8, 8), b=(8,), k=(6, 2, 3))
    x = torch.randn(2, 4, 8)
    captured = capture(net, x)
    pipeline = captured.pipeline()
    added = rewritten(pipeline)
    ops = targets(pipeline.gm)
    assert ops.count("abc.linear.default") == ops.count("abc.convolution.default") == 1
    assert not {"aten.linear.default", "aten.convolution.default"} & set(ops)
    with torch.no_grad():
        y = on_dequantized(F.linear, x, net.w, net.b)
        y = on_dequantized(F.conv1d, y, net.k, None, 1, 1, 1, 2, groups=2)
    # sums of few products in another order; one that moved a value across a level boundary would show as a step
    torch.testing.assert_close(run(pipeline.gm, captured.inputs, *added), y, rtol=1e-4, atol=1e-4)


def test_only_planned_layers_change() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 3))
    pipeline = dynamo(model, torch.randn(2, 4)).pipeline()
    added = rewritten(pipeline, "2")
    assert targets(pipeline.gm) == ["aten.linear.default", "relu", "abc.linear.default", "aten.linear.default"]
    assert len(added) == 2


def test_new_inputs_come_last_and_are_ready_for_aot() -> None:
    captured = dynamo(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(2, 4))
    pipeline = captured.pipeline()
    rewritten(pipeline)
    placeholders = pipeline.gm.graph.find_nodes(op="placeholder")
    new = placeholders[len(captured.inputs) :]
    assert [p.name for p in new] == ["abc_scale_0", "abc_shift_0", "abc_scale_1", "abc_shift_1"]
    assert all(p._dynamo_source is None and p.meta["tensor_dict"] == {} for p in new)
    assert all(p.meta["example_value"].shape == (1,) for p in new)


def test_a_second_application_changes_nothing() -> None:
    pipeline = dynamo(nn.Sequential(nn.Linear(4, 4)), torch.randn(2, 4)).pipeline()
    rewritten(pipeline)
    before = text(pipeline.gm)
    assert not apply_rules(pipeline.gm, REWRITE).applied
    assert text(pipeline.gm) == before


def test_unplanned_layers_say_so() -> None:
    pipeline = dynamo(nn.Sequential(nn.Linear(4, 4)), torch.randn(2, 4)).pipeline()
    pipeline.canonicalize()
    report = apply_rules(pipeline.gm, REWRITE)
    assert set(report.declined.values()) == {"not in the plan"}


def test_plan_arguments_arrive() -> None:
    pipeline = dynamo(nn.Sequential(nn.Linear(4, 4)), torch.randn(2, 4)).pipeline()
    rewritten(pipeline, plan=LayerPlan(3, 5, "greedy", "coded", False))
    (layer,) = [view(n) for n in pipeline.gm.graph.nodes if n.target is abc.linear.default]
    assert layer.plan == (3, 5, "greedy", "coded", False)


def test_inside_a_checkpoint() -> None:
    model, x = Checkpointed(), torch.randn(2, 4)
    captured = dynamo(model, x)
    originals = {part: text(part) for part in with_bodies(captured.gm)}
    pipeline = captured.pipeline()
    added = rewritten(pipeline)
    _outer, body = with_bodies(pipeline.gm)
    assert "abc.linear.default" in targets(body)
    assert len(originals) == 2
    assert {part: text(part) for part in originals} == originals
    with torch.no_grad():
        y = on_dequantized(F.linear, x, model.inner.weight, model.inner.bias).relu()
        y = on_dequantized(F.linear, y, model.outer.weight, model.outer.bias)
    torch.testing.assert_close(run(pipeline.gm, captured.inputs, *added), y, rtol=1e-5, atol=1e-5)


def test_autocast_keeps_the_parameter_itself() -> None:
    net = Net(lambda m, x: F.linear(x, m.w, m.b), w=(8, 8), b=(8,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pipeline = dynamo(net, torch.randn(2, 8)).pipeline()
    rewritten(pipeline)
    (layer,) = [view(n) for n in pipeline.gm.graph.nodes if n.target is abc.linear.default]
    assert layer.weight.op == layer.bias.op == "placeholder"
    assert layer.input.target is aten.to.dtype


def test_gradients_reach_the_float_weight() -> None:
    net = Net(lambda m, x: F.linear(x, m.w, m.b), w=(8, 8), b=(8,))
    captured = dynamo(net, torch.randn(2, 8))
    pipeline = captured.pipeline()
    added = rewritten(pipeline)
    pipeline.gm(*captured.inputs, *added)[0].sum().backward()
    assert net.w.grad is not None
    assert net.w.grad.abs().sum() > 0
