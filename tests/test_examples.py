"""Every rule is run on its own docstring.

    Before::    traced on example tensors, the rule applied to it …
    After::     … gives this graph: same canonical text, same values; applying the rule again changes nothing
    Declines::  the rule leaves this alone, for a reason that contains the comment on its last line

Arguments are written `x: f32[4, 8]`, and `w: f32[16, 8].constant` for a parameter or buffer. Further arguments of an
After are graph inputs that the rule added; they get what the stage says they stand for.
"""

from __future__ import annotations

import inspect
import operator
import pkgutil
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import abcfx.passes
import pytest
import torch
import torch.nn.functional as F
from abcfx.passes import lower, rewrite_abc
from abcfx.passes._glue import NO_LIMIT
from abcfx.passes._rule import Rule, apply_rules
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Interpreter, Node

from abcfx.graph import CONSTANT, text
from abcfx.ops import library
from abcfx.plan import LayerPlan


@dataclass(frozen=True)
class Spec:
    """A tensor argument of an example."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    is_constant: bool = False

    @property
    def constant(self) -> Spec:
        return Spec(self.dtype, self.shape, True)

    def example(self) -> torch.Tensor:
        if self.dtype.is_floating_point:
            return torch.randn(self.shape).to(self.dtype)
        return torch.zeros(self.shape, dtype=self.dtype)


class DType:
    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __getitem__(self, shape: int | tuple[int, ...]) -> Spec:
        return Spec(self.dtype, shape if isinstance(shape, tuple) else (shape,))


def planned(layer: torch.fx.Proxy, scale: torch.fx.Proxy, shift: torch.fx.Proxy) -> torch.fx.Proxy:
    """What rewrite_abc writes into the node of a site that is in the plan."""
    layer.node.meta[rewrite_abc.PLAN] = (LayerPlan(), scale.node, shift.node)
    return layer


NAMESPACE = {
    "torch": torch, "F": F, "aten": torch.ops.aten, "abc": torch.ops.abc, "abc_k": torch.ops.abc_k, "sys": sys,
    "operator": operator, "planned": planned, "f32": DType(torch.float32), "f16": DType(torch.float16),
    "i64": DType(torch.int64), "LIMIT": NO_LIMIT,
}  # fmt: skip


def rules() -> list[Rule]:
    modules = [import_module(f"abcfx.passes.{m.name}") for m in pkgutil.iter_modules(abcfx.passes.__path__)]
    classes = {
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Rule) and value is not Rule
    }
    return sorted((rule() for rule in classes), key=lambda rule: rule.name)


def sections(rule: Rule) -> Iterator[tuple[str, str]]:
    """(heading, code) of each example in a rule's docstring, in order."""
    pattern = r"^(Before|After|Declines)::\n((?:[ ]{4}.*\n?|\n)+)"
    for match in re.finditer(pattern, inspect.cleandoc(rule.__doc__ or ""), re.MULTILINE):
        yield match[1], textwrap.dedent(match[2])


def examples(rule: Rule) -> Iterator[tuple[str, str]]:
    """(before, after) of each pair."""
    found = [section for section in sections(rule) if section[0] != "Declines"]
    for (first, before), (second, after) in zip(found[::2], found[1::2], strict=True):
        assert (first, second) == ("Before", "After")
        yield before, after


def declines(rule: Rule) -> Iterator[tuple[str, str]]:
    """(code, reason) of each case."""
    for heading, code in sections(rule):
        if heading == "Declines":
            comment = code.rstrip().rpartition("#")[2].strip()
            yield code, comment


def trace(code: str) -> tuple[GraphModule, dict[str, torch.Tensor]]:
    """The graph of an example with fake values, and example tensors by argument name."""
    namespace: dict[str, Any] = dict(NAMESPACE)
    exec(compile(code, "<example>", "exec", dont_inherit=True), namespace)  # annotations are to be evaluated
    function: Callable[..., Any] = namespace["f"]
    specs: dict[str, Spec] = function.__annotations__
    gm = torch.fx.symbolic_trace(function)
    tensors = {name: spec.example() for name, spec in specs.items()}
    tensors |= {name: tensors[name].abs() for name in ("s", "scale") if name in tensors}
    mode = FakeTensorMode()
    for node in gm.graph.find_nodes(op="placeholder"):
        node.meta["val"] = mode.from_tensor(tensors[node.name])
        node.meta[CONSTANT] = specs[node.name].is_constant

    class Values(Interpreter):
        def run_node(self, n: Node) -> Any:
            result = super().run_node(n)
            n.meta["val"] = result
            return result

    with mode:
        Values(gm).run(*[node.meta["val"] for node in gm.graph.find_nodes(op="placeholder")])
    return gm, tensors


def prepare(rule: Rule, gm: GraphModule) -> list[lower.WeightInput]:
    """What the stage of a rule decides for the whole graph before its rules run."""
    return lower.decide_forms(gm).inputs if rule.root and type(rule).__module__ == lower.__name__ else []


@pytest.fixture(autouse=True)
def _a_variant_with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples of lower are about layers, however tiny, that run on the kernels where these apply."""
    monkeypatch.setattr(library, "kernel_variant", lambda op="bgemm": {"lut": "reference"}.get(op, "avx512vpopcnt"))
    monkeypatch.setenv("ABCFX_FORM", "xnor")


PAIRS = [(f"{rule.name}-{i}", rule, *pair) for rule in rules() for i, pair in enumerate(examples(rule))]
DECLINES = [(f"{rule.name}-{i}", rule, *case) for rule in rules() for i, case in enumerate(declines(rule))]


class OnDequantizedOperands(Interpreter):
    """Runs an example; a planned layer is run as what it is to become, the float op on dequantized operands."""

    def run_node(self, n: Node) -> Any:
        if rewrite_abc.PLAN not in n.meta:
            return super().run_node(n)
        plan, scale, shift = n.meta[rewrite_abc.PLAN]
        (x, w, *others), _ = self.fetch_args_kwargs_from_env(n)
        levels = self.env[scale], self.env[shift]
        x = torch.ops.abc.quantize_activation(x, *levels, plan.activation_bases, plan.levels)
        w = torch.ops.abc.quantize_weight(w, False, 1, plan.weight_bases, plan.basis, plan.per_channel)
        return n.target(x, w, *others)


def test_every_rule_has_examples() -> None:
    assert rules()
    for rule in rules():
        headings = [heading for heading, _ in sections(rule)]
        assert {"Before", "After", "Declines"} <= set(headings), f"{rule.name} lacks an example"
        assert all(reason for _, reason in declines(rule)), f"a Declines of {rule.name} has no comment"


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("rule", "before", "after"), [p[1:] for p in PAIRS], ids=[p[0] for p in PAIRS])
def test_before_becomes_after(rule: Rule, before: str, after: str) -> None:
    gm, tensors = trace(before)
    expected, _ = trace(after)
    added = prepare(rule, gm)
    report = apply_rules(gm, (rule,))
    assert report.applied[rule.name] >= 1, report.declined
    assert text(gm) == text(expected)

    inputs = list(tensors.values())
    wanted = OnDequantizedOperands(trace(before)[0]).run(*inputs)
    made = [t for weight in added for t in weight.tensors(tensors[weight.view.base.name])]
    # f32 sums in another order: a few ulp of the sum of magnitudes, which random operands keep near 1e1
    torch.testing.assert_close(gm(*inputs, *made), wanted, rtol=rule.rounding, atol=rule.rounding)

    assert not apply_rules(gm, (rule,)).applied, "a second application changed something"


@pytest.mark.parametrize(("rule", "code", "reason"), [d[1:] for d in DECLINES], ids=[d[0] for d in DECLINES])
def test_declines(rule: Rule, code: str, reason: str) -> None:
    gm, _ = trace(code)
    prepare(rule, gm)
    before = text(gm)
    report = apply_rules(gm, (rule,))
    assert not report.applied
    assert text(gm) == before
    assert any(reason in said for said in report.declined.values()), report.declined
