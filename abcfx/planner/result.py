"""A plan that keeps to a budget, with all that was measured for it: read it, edit it, solve it again, apply it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from glob import escape as glob_escape
from pathlib import Path
from typing import Any

from abcfx.config import Config
from abcfx.plan import Plan
from abcfx.planner.budget import Budget
from abcfx.planner.options import FLOAT, Measurements
from abcfx.planner.solve import mean_bits, solve

FORMAT = 1


@dataclass(frozen=True)
class BudgetPlan:
    """measured   options of every layer           choices   layer → label of its option, e.g. "2x3" or "float"
    fixed      layers whose choice stays when the plan is solved again
    budget     what was asked for               gap       proven relative distance of the choice from the optimum
    accuracy   {"float", "planned", "drop", "images", ...} if an accuracy was measured, in percent

    Totals (`ms`, `speedup`, `loss`, `bits`) follow from the choices. ValueError for choices that are no options.
    """

    measured: Measurements
    choices: Mapping[str, str]
    budget: Budget
    gap: float = 0.0
    fixed: frozenset[str] = frozenset()
    accuracy: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = {layer.name for layer in self.measured.layers}
        if unlike := sorted(names ^ set(self.choices)):
            raise ValueError(f"a plan has one choice for each measured layer; look at {', '.join(unlike)}")
        if unknown := sorted(set(self.fixed) - names):
            raise ValueError(f"no layer {', '.join(unknown)} to fix")
        for layer in self.measured.layers:
            layer.option(self.choices[layer.name])

    def _sum(self, attribute: str) -> float:
        chosen = (layer.option(self.choices[layer.name]) for layer in self.measured.layers)
        return float(sum(getattr(option, attribute) for option in chosen))

    @property
    def ms(self) -> float:
        """Predicted (or measured layer by layer) time of the whole model."""
        return self.measured.rest_ms + self._sum("ms")

    @property
    def speedup(self) -> float:
        """Over the float model, predicted."""
        return self.measured.float_ms / self.ms

    @property
    def loss(self) -> float:
        """Estimated rise of the loss: the sum over the layers."""
        return self._sum("loss")

    @property
    def bits(self) -> float:
        """Mean bits of a weight over the layers that have a choice."""
        return mean_bits(self.measured.free, self.choices)

    @property
    def plan(self) -> Plan:
        """What quantize_model takes: the LayerPlan of each quantized layer, a reason for each other one."""
        layers, reasons = {}, {}
        for layer in self.measured.layers:
            option = layer.option(self.choices[layer.name])
            if option.plan is not None:
                layers[layer.name] = option.plan
            else:
                reasons[layer.name] = layer.reason or f"the planner keeps it in float for {self.budget}"
        return Plan(layers, reasons)

    def config(self, **training: Any) -> Config:
        """The plan as rules by name, for what takes a Config: the trainer, `quantize_`. training: grad_bases, ste ..."""
        names = {glob_escape(name): plan for name, plan in self.plan.layers.items()}
        rules = {
            name: {"M": p.weight_bases, "N": p.activation_bases, "basis": p.basis, "levels": p.levels}
            | {"per_channel": p.per_channel}
            for name, p in names.items()
        }
        return Config(include=tuple(rules), overrides=rules, **training)

    def solve(self, budget: Budget | Mapping[str, float]) -> BudgetPlan:
        """The best plan under another budget, nothing measured again; fixed layers keep their choice.

        Raises InfeasibleBudget with the nearest value; ValueError for accuracy_drop, which takes measuring.
        """
        wanted = Budget.of(budget)
        if wanted.accuracy_drop is not None:
            raise ValueError(
                "accuracy_drop is measured, not predicted: call abcfx.plan(model, loader, budget, measured=this plan), "
                "which evaluates plans and measures no layer again"
            )
        found = solve(self.measured, wanted, self.fixed_choices)
        return replace(self, choices=found.choices, gap=found.gap, budget=wanted, accuracy={})

    def uniform(self, label: str) -> BudgetPlan:
        """The same option for every layer that has a choice: what the planner is to be compared with."""
        free = {layer.name for layer in self.measured.free}
        return replace(self, choices={name: label if name in free else FLOAT for name in self.choices}, accuracy={})

    @property
    def fixed_choices(self) -> dict[str, str]:
        return {name: self.choices[name] for name in sorted(self.fixed)}

    def to_json(self) -> str:
        """All of it. In each layer "choice" and "fixed" are there to be edited, and options may be taken out."""
        document = self.measured.to_dict()
        for entry in document["layers"]:
            name, options = entry["name"], entry.pop("options")
            entry |= {"choice": self.choices[name], "fixed": name in self.fixed, "options": options}
        head = {
            "format": FORMAT,
            "budget": self.budget.to_dict(),
            "totals": {"ms": self.ms, "float_ms": self.measured.float_ms, "speedup": self.speedup}
            | {"loss": self.loss, "bits": self.bits, "gap": self.gap},
            "accuracy": dict(self.accuracy),
        }
        return _compact(head | document)

    @classmethod
    def from_json(cls, text: str) -> BudgetPlan:
        """Inverse of `to_json`; totals are taken from the choices, so an edited plan tells its own.

        Raises ValueError with one sentence for text that is no plan, or an edit that makes no sense.
        """
        try:
            document = json.loads(text)
            if not isinstance(document, dict) or document.get("format") != FORMAT:
                raise ValueError(f'it has no "format": {FORMAT}')
            measured = Measurements.from_dict(document)
            choices = {entry["name"]: entry["choice"] for entry in document["layers"]}
            fixed = frozenset(entry["name"] for entry in document["layers"] if entry.get("fixed"))
            gap = float(document["totals"]["gap"])
            return cls(measured, choices, Budget.of(document["budget"]), gap, fixed, document.get("accuracy", {}))
        except (ValueError, KeyError, TypeError) as error:
            detail = f"{error} is missing" if isinstance(error, KeyError) else error
            raise ValueError(f"not a plan that abcfx.plan wrote: {detail}") from None

    def save(self, path: str | Path) -> None:
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> BudgetPlan:
        """Raises ValueError as from_json does, OSError if the file cannot be read."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"))


def _compact(document: dict[str, Any]) -> str:
    """JSON with a line for each option."""
    layers = document.pop("layers")
    rows = []
    for entry in layers:
        options = ",\n".join(f"     {json.dumps(option)}" for option in entry.pop("options"))
        rows.append(f'  {json.dumps(entry)[:-1]}, "options": [\n{options}\n  ]}}')
    return json.dumps(document, indent=1)[:-2] + ',\n "layers": [\n' + ",\n".join(rows) + "\n ]\n}"
