"""The accuracy of planned models, measured on held-out data, and the fastest plan that loses no more than allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from abcfx.calibrate import run_batch
from abcfx.planner.budget import Budget, InfeasibleBudget
from abcfx.planner.options import Measurements
from abcfx.planner.probes import logits_of
from abcfx.planner.result import BudgetPlan
from abcfx.planner.solve import solve
from abcfx.planner.watch import Forward

STEPS = 8  # of the bisection over the estimated loss, after the two ends
LEAST = 1e-5  # of the loss of the fastest plan: where the bisection ends, below it there is only float

Build = Callable[[BudgetPlan], nn.Module]


@dataclass(frozen=True)
class Answers:
    """right  bool[n], answer by answer      against  what right means: the labels, or the float model's own answers"""

    right: Tensor
    against: str


def labels_of(batch: Any) -> Tensor | None:
    """Classes in a batch: the second of (input, classes), or "labels" of a mapping; None if there are none."""
    if hasattr(batch, "keys"):
        found = batch["labels"] if "labels" in batch.keys() else None
    else:
        found = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    return found if isinstance(found, Tensor) and not found.is_floating_point() else None


class Judge:
    """Measures the drop of accuracy against the float model, on the same held-out batches each time.

    Places with a negative label (padding of token tasks) do not count. Without labels, agreement with the float model
    takes the place of accuracy.
    """

    def __init__(self, model: nn.Module, held_out: Sequence[Any], forward: Forward | None) -> None:
        self.batches, self.forward = held_out, forward or run_batch
        answers = self._answers(model)
        labels = [labels_of(batch) for batch in held_out]
        labeled = all(y is not None and y.shape == a.shape for y, a in zip(labels, answers, strict=True))
        self.against = "labels" if labeled else "answers of the float model"
        self.wanted = labels if labeled else answers
        self.float_right = self._right(answers)
        if not len(self.float_right):
            raise ValueError("the held-out batches have no sample with a label to judge by")

    def measure(self, model: nn.Module) -> dict[str, Any]:
        """Percent right in float and planned, the drop in points, and its standard error (paired, over the samples)."""
        right = self._right(self._answers(model))
        change = (self.float_right.double() - right.double()) * 100
        return {
            "float": 100 * float(self.float_right.double().mean()),
            "planned": 100 * float(right.double().mean()),
            "drop": float(change.mean()),
            "standard_error": float(change.std(correction=0)) / sqrt(len(change)),
            "images": len(change),
            "against": self.against,
        }

    def _answers(self, model: nn.Module) -> list[Tensor]:
        with torch.no_grad():
            return [logits_of(self.forward(model, batch)).argmax(-1).cpu() for batch in self.batches]

    def _right(self, answers: Sequence[Tensor]) -> Tensor:
        pairs = [(a.flatten(), y.cpu().flatten()) for a, y in zip(answers, self.wanted, strict=True)]
        return torch.cat([(a == y)[y >= 0] for a, y in pairs])


def within_drop(
    measured: Measurements, budget: Budget, fixed: Mapping[str, str], judge: Judge, build: Build,
    tick: Callable[[], None] = lambda: None,
) -> BudgetPlan:  # fmt: skip
    """The fastest plan found whose measured drop is within budget.accuracy_drop, and the other limits.

    Bisects over the estimated loss, whose order of plans is trusted and whose values are not: every plan on the way is
    built, calibrated and judged. Among STEPS + 2 plans the fastest that passes is taken; a faster one may exist.

    Raises InfeasibleBudget with the drop that was measured for the plan of least loss, if that is too large.
    """
    judged: dict[tuple[str, ...], BudgetPlan] = {}

    def at(most_loss: float | None) -> BudgetPlan:
        solution = solve(measured, budget, fixed, most_loss)
        key = tuple(solution.choices.values())
        if key not in judged:
            found = BudgetPlan(measured, solution.choices, budget, solution.gap, frozenset(fixed))
            judged[key] = replace(found, accuracy=judge.measure(build(found)))
        tick()
        return judged[key]

    def passes(plan: BudgetPlan) -> bool:
        return plan.accuracy["drop"] <= budget.accuracy_drop

    everything = sum(max(option.loss for option in layer.options) for layer in measured.layers)
    fastest, safest = at(everything), at(None)
    if not passes(safest):
        raise InfeasibleBudget(
            f"accuracy_drop={budget.accuracy_drop:g} cannot be kept together with the other limits: the plan of least "
            f"loss lost {safest.accuracy['drop']:.2f} points of {safest.accuracy['images']} samples; the nearest "
            f"feasible value is {safest.accuracy['drop']:.2f}"
        )
    if not passes(fastest):
        high, low = fastest.loss, max(safest.loss, LEAST * fastest.loss)
        for _ in range(STEPS):
            middle = sqrt(high * low)
            if passes(at(middle)):
                low = middle
            else:
                high = middle
    best = min(filter(passes, judged.values()), key=lambda plan: (plan.ms, plan.loss))
    tried = sorted(judged.values(), key=lambda plan: plan.ms)
    table = [{"ms": p.ms, "loss": p.loss, "drop": p.accuracy["drop"]} for p in tried]
    return replace(best, accuracy={**best.accuracy, "tried": table})
