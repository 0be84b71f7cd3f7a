"""Budgets on measurements made by hand: what each kind does, infeasible ones, fixed layers, JSON, and solving again."""

from __future__ import annotations

import json
from itertools import pairwise, product

import pytest

from abcfx.plan import LayerPlan
from abcfx.planner import Budget, BudgetPlan, InfeasibleBudget, LayerOptions, Measurements, Option
from abcfx.planner.options import label, plan_of_label
from abcfx.planner.picture import draw, pareto

# a and b have 100 and 300 weights; in float they take 4 and 6 ms, the rest of the model 2 ms: 12 ms in all
MEASURED = Measurements(
    (
        LayerOptions("stem", 10, (Option(None, 0.0, 0.0),), "the first layer stays float"),
        LayerOptions(
            "a", 100, (Option(None, 0.0, 4.0), Option(LayerPlan(1, 1), 0.9, 1.0), Option(LayerPlan(2, 3), 0.1, 2.0))
        ),
        LayerOptions(
            "b", 300, (Option(None, 0.0, 6.0), Option(LayerPlan(1, 1), 0.2, 2.0), Option(LayerPlan(2, 3), 0.05, 3.0))
        ),
    ),
    rest_ms=2.0,
    setup={"model": "Net", "cost": "predicted"},
)  # fmt: skip
START = BudgetPlan(MEASURED, {"stem": "float", "a": "float", "b": "float"}, Budget(speedup=1))


def choices(plan: BudgetPlan) -> tuple[str, str]:
    return plan.choices["a"], plan.choices["b"]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ({"latency_ms": 12}, ("float", "float")),
        ({"latency_ms": 9}, ("float", "2x3")),  # b saves 3 ms for 0.05; a would save 2 for 0.1
        ({"speedup": 12 / 7}, ("2x3", "2x3")),
        ({"speedup": 2}, ("2x3", "1x1")),
        ({"speedup": 2.4}, ("1x1", "1x1")),
        ({"bits": 9.5}, ("float", "2x3")),  # (100·32 + 300·2) / 400 = 9.5
        ({"bits": 2}, ("2x3", "2x3")),
        ({"bits": 1}, ("1x1", "1x1")),
        ({"bits": 2, "latency_ms": 6}, ("2x3", "1x1")),
    ],
)
def test_each_kind_of_budget(budget: dict, expected: tuple[str, str]):
    plan = START.solve(budget)
    assert choices(plan) == expected
    assert plan.gap == 0
    assert plan.budget == Budget.of(budget)


def test_totals_by_hand():
    plan = START.solve({"bits": 9.5})
    assert (plan.ms, plan.speedup, plan.loss, plan.bits) == pytest.approx((9.0, 12 / 9, 0.05, 9.5))
    assert plan.plan.layers == {"b": LayerPlan(2, 3)}
    assert plan.plan.reasons["stem"] == "the first layer stays float"
    assert "planner keeps it in float for bits 9.5" in plan.plan.reasons["a"]


@pytest.mark.parametrize(
    ("budget", "message", "nearest"),
    [
        ({"speedup": 5}, "speedup=5 cannot be kept, the most is 2.4 ", {"speedup": 2.4}),
        ({"latency_ms": 4}, "latency_ms=4 cannot be kept, the least is 5", {"latency_ms": 5}),
        ({"bits": 0.5}, "bits=0.5 cannot be kept, the least is 1", {"bits": 1}),
        ({"bits": 0.5, "speedup": 2}, "bits=0.5 cannot be kept, the least is 1", {"bits": 1, "speedup": 2}),
    ],
)
def test_an_infeasible_budget_names_the_nearest_that_is_not(budget: dict, message: str, nearest: dict):
    with pytest.raises(InfeasibleBudget, match=message):
        START.solve(budget)
    assert choices(START.solve(nearest)) == ("1x1", "1x1")


def test_the_nearest_value_is_rounded_to_the_side_that_can_be_kept():
    odd = Measurements((LayerOptions("a", 7, (Option(None, 0.0, 1.0), Option(LayerPlan(1, 1), 1.0, 1 / 3))),), 1 / 7)
    plan = BudgetPlan(odd, {"a": "float"}, Budget(speedup=1))
    for name, word in (("speedup", 9.0), ("latency_ms", 0.01)):
        with pytest.raises(InfeasibleBudget) as raised:
            plan.solve({name: word})
        nearest = str(raised.value).split(" is ")[1].split()[0]
        assert plan.solve({name: float(nearest)}).choices == {"a": "1x1"}


def test_the_plan_is_optimal_among_all():
    for ms in (5, 6, 7, 8, 9, 10, 11):
        losses = []
        for a, b in product(*(layer.options for layer in MEASURED.layers[1:])):
            if a.ms + b.ms + 2 <= ms:
                losses.append(a.loss + b.loss)
        assert START.solve({"latency_ms": ms}).loss == pytest.approx(min(losses))


def test_fixed_layers_keep_their_choice():
    plan = BudgetPlan(MEASURED, {**START.choices, "b": "1x1"}, Budget(speedup=1), fixed=frozenset({"b"}))
    assert choices(plan.solve({"latency_ms": 12})) == ("float", "1x1")
    with pytest.raises(InfeasibleBudget, match="the most is"):
        BudgetPlan(MEASURED, START.choices, Budget(speedup=1), fixed=frozenset({"a", "b"})).solve({"speedup": 1.5})


def test_json_holds_everything_and_solves_again():
    plan = START.solve({"speedup": 2})
    again = BudgetPlan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()
    assert again.solve({"bits": 9.5}) == START.solve({"bits": 9.5})


def test_a_file_can_be_edited(tmp_path):
    START.solve({"speedup": 2}).save(tmp_path / "plan.json")
    document = json.loads((tmp_path / "plan.json").read_text())
    document["layers"][1] |= {"choice": "float", "fixed": True}
    (tmp_path / "plan.json").write_text(json.dumps(document))
    edited = BudgetPlan.load(tmp_path / "plan.json")
    assert (edited.ms, edited.fixed) == (8.0, {"a"})  # totals are those of the choices, not those of the file
    assert choices(edited.solve({"speedup": 1.5})) == ("float", "1x1")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["layers"][1].update(choice="7x7"), r"a has no option '7x7'; it has float, 1x1, 2x3"),
        (lambda d: d["layers"][1]["options"].pop(0), r'a needs one option "float"'),
        (lambda d: d["layers"][1]["options"][1].update(label="9x1"), r"a: M \(weight_bases\) must be an int"),
        (lambda d: d["layers"][1]["options"][1].update(label="two"), r"a: 'two' is no option"),
        (lambda d: d["layers"][1].pop("choice"), r"'choice' is missing"),
        (lambda d: d.update(format=7), r"it has no \"format\": 1"),
        (lambda d: d["budget"].clear(), r"a budget needs at least one limit"),
    ],
)  # fmt: skip
def test_an_edit_that_makes_no_sense_is_named(edit, message: str):
    document = json.loads(START.to_json())
    edit(document)
    with pytest.raises(ValueError, match=f"not a plan that abcfx.plan wrote: .*{message}"):
        BudgetPlan.from_json(json.dumps(document))


@pytest.mark.parametrize(
    "plan",
    [
        None, LayerPlan(1, 8), LayerPlan(2, 3, "abc", "thermometer"), LayerPlan(4, 4, per_channel=False), LayerPlan(),
        LayerPlan(3, 2, "coded"), LayerPlan(3, 2, "coded", "thermometer", per_channel=False),
    ],
)  # fmt: skip
def test_labels_go_both_ways(plan: LayerPlan | None):
    assert plan_of_label(label(plan)) == plan


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "at least one limit"),
        ({"speed": 2}, r"a budget has no \['speed'\]; it takes speedup, latency_ms, bits, accuracy_drop"),
        ({"speedup": 0}, "budget speedup must be a number above 0, got 0"),
        ({"bits": "2"}, "budget bits must be a number above 0, got '2'"),
        ({"latency_ms": float("nan")}, "budget latency_ms must be a number above 0"),
    ],
)
def test_a_bad_budget_says_what_is_wrong(given: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Budget.of(given)


def test_accuracy_drop_is_not_solved_from_measurements():
    with pytest.raises(ValueError, match="measured=this plan"):
        START.solve({"accuracy_drop": 1})


def test_uniform_plans():
    assert MEASURED.uniform() == ["float", "1x1", "2x3"]
    plan = START.uniform("2x3")
    assert plan.choices == {"stem": "float", "a": "2x3", "b": "2x3"}


def test_the_pareto_front_is_one_and_is_drawn(tmp_path):
    front = pareto(START)
    assert (front[0].ms, front[-1].loss) == (5.0, 0.0)
    assert all(a.ms < b.ms and a.loss > b.loss for a, b in pairwise(front))
    draw(START.solve({"speedup": 2}), tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
