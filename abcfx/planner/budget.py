"""What a plan must keep to: any of a speed, a latency, a number of weight bits, and a loss of accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite

EXAMPLES = '{"speedup": 2.0}, {"latency_ms": 3.5}, {"bits": 2.5} or {"accuracy_drop": 1.0}'


class InfeasibleBudget(ValueError):
    """No choice among the options keeps to the budget; the message names the nearest value that can be kept."""


@dataclass(frozen=True)
class Budget:
    """speedup        predicted time of the float model over that of the planned one, at least
    latency_ms     predicted time of the planned model, at most
    bits           mean bits of a weight over the layers that have a choice, at most; a float weight has 32
    accuracy_drop  points of accuracy lost on held-out calibration data, at most: measured, not predicted

    Several may be given; all are kept. With accuracy_drop the fastest such plan is wanted, else the one of least loss.
    Raises ValueError if none is given, or one is no positive number (accuracy_drop may be 0).
    """

    speedup: float | None = None
    latency_ms: float | None = None
    bits: float | None = None
    accuracy_drop: float | None = None

    def __post_init__(self) -> None:
        given = self.to_dict()
        if not given:
            raise ValueError(f"a budget needs at least one limit, e.g. {EXAMPLES}")
        for name, value in given.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
            if not number or value < 0 or (value == 0 and name != "accuracy_drop"):
                raise ValueError(f"budget {name} must be a number above 0, got {value!r}")

    @classmethod
    def of(cls, given: Budget | Mapping[str, float]) -> Budget:
        """A budget from a mapping; ValueError naming the keys that exist."""
        if isinstance(given, Budget):
            return given
        if not isinstance(given, Mapping):
            raise TypeError(f"a budget is a mapping, e.g. {EXAMPLES}; got {type(given).__name__}")
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"a budget has no {unknown}; it takes {', '.join(known)}, e.g. {EXAMPLES}")
        return cls(**given)

    def to_dict(self) -> dict[str, float]:
        """What was given, in types that JSON has."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in self.to_dict().items())
