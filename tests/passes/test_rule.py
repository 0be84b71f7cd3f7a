"""The driver: refuses a change of shape, dtype or device, stops rules that never end, leaves no litter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from abcfx.passes._rule import Report, Rule, apply_rules, decline
from graphs import Net, dynamo, targets
from torch import nn
from torch.fx import Node, symbolic_trace

from abcfx.graph import Builder, text
from abcfx.pipeline import Pipeline


def graph():
    return dynamo(Net(lambda m, x: torch.relu(x) + m.w, w=(4,)), torch.randn(2, 4)).pipeline().gm


class Wrong(Rule):
    """relu(x) → something with another shape or dtype."""

    root = (torch.relu,)

    def __init__(self, target: Any, *args: Any) -> None:
        self.target, self.args = target, args

    def match(self, node: Node) -> tuple:
        return (node.args[0],)

    def rewrite(self, b: Builder, x: Node) -> Node:
        return b(self.target, b(torch.neg, x), *self.args)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (Wrong(torch.t), r"shape [2, 4] would become [4, 2]"),
        (Wrong(torch.ops.aten.to.dtype, torch.float64), "dtype torch.float32 would become torch.float64"),
        (Wrong(torch.ops.aten.to.device, "meta", torch.float32), "device cpu would become meta"),
    ],
    ids=["shape", "dtype", "device"],
)
def test_refused(rule: Rule, reason: str) -> None:
    gm = graph()
    before = text(gm)
    report = apply_rules(gm, (rule,))
    assert report.declined == {"relu": f"Wrong was refused: {reason}"}
    assert not report.applied
    assert text(gm) == before


class Endless(Rule):
    root = (torch.relu,)

    def match(self, node: Node) -> tuple:
        return (node.args[0],)

    def rewrite(self, b: Builder, x: Node) -> Node:
        return b(torch.relu, x)


def test_rules_that_never_end_are_stopped() -> None:
    with pytest.raises(RuntimeError, match="still apply after 20 sweeps"):
        apply_rules(graph(), (Endless(),))


class Late(Rule):
    root = (torch.relu,)

    def match(self, node: Node) -> tuple:
        return (node.args[0],)

    def rewrite(self, b: Builder, x: Node) -> Node:
        b(torch.neg, x)
        decline("found out too late")


def test_a_late_decline_leaves_nothing_behind() -> None:
    gm = graph()
    report = apply_rules(gm, (Late(),))
    assert report.declined == {"relu": "found out too late"}
    assert targets(gm) == ["relu", "add"]


def test_only_limits_the_roots() -> None:
    assert not apply_rules(graph(), (Endless(),), only=lambda node: False).applied


def test_arguments_recorded_for_the_old_node_are_dropped() -> None:
    class Negated(Endless):
        def rewrite(self, b: Builder, x: Node) -> Node:
            return b(torch.neg, x)

    gm = graph()
    (add,) = [node for node in gm.graph.nodes if node.name == "add"]
    add.meta["eager_input_vals"] = ((), {})
    apply_rules(gm, (Negated(),))
    assert "eager_input_vals" not in add.meta


def test_a_node_that_several_stages_leave_alone_has_all_their_reasons() -> None:
    pipeline = Pipeline(symbolic_trace(nn.ReLU()))
    for reason in ("no kernel", "two users", "no kernel"):
        pipeline._stage("fuse", lambda reason=reason: Report(declined={"relu": reason}), {})
    assert pipeline.declined == {"relu": "no kernel; two users"}
