"""What is decided for each layer: a frozen `Plan`, the same for the same inputs, that can be saved and reloaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

MAX_BASES = 8
BASES = ("alternating", "greedy", "abc")
LEVELS = ("coded", "thermometer")


@dataclass(frozen=True)
class LayerPlan:
    """How one layer is quantized: W ≈ Σ_p α_p B_p with `weight_bases` terms, A ≈ Σ_q β_q A_q with `activation_bases`.

    Raises ValueError if a count is not an integer from 1 to 8 or a kind is unknown.
    """

    weight_bases: int = 2
    activation_bases: int = 2
    basis: str = "alternating"
    levels: str = "coded"
    per_channel: bool = True

    def __post_init__(self) -> None:
        for name, public in (("weight_bases", "M"), ("activation_bases", "N")):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_BASES:
                raise ValueError(f"{public} ({name}) must be an integer from 1 to {MAX_BASES}, got {value!r}")
        if self.basis not in BASES:
            raise ValueError(f"basis must be one of {', '.join(BASES)}, got {self.basis!r}")
        if self.levels not in LEVELS:
            raise ValueError(f"levels must be one of {', '.join(LEVELS)}, got {self.levels!r}")

    def op_arguments(self) -> tuple[int, int, str, str, bool]:
        """The trailing arguments of every `abc::` layer op, in schema order."""
        return self.weight_bases, self.activation_bases, self.basis, self.levels, self.per_channel


@dataclass(frozen=True)
class LayerSite:
    """A layer that was found: where it is, what it computes, and, if it must stay float, why.

    name     fully qualified name of the layer, or of its weight for a functional layer
    kind     "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d" ... as in torch.nn.functional
    weight   shape of the weight as the float layer stores it
    reason   None if the layer can be quantized, else one sentence that the user can act on
    """

    name: str
    kind: str
    weight: tuple[int, ...]
    groups: int = 1
    reason: str | None = None


@dataclass(frozen=True)
class Plan:
    """layers: what each quantized layer gets; reasons: why each other one stays float. Keys are site names."""

    layers: Mapping[str, LayerPlan] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        document = {"layers": {name: asdict(plan) for name, plan in self.layers.items()}, "reasons": dict(self.reasons)}
        return json.dumps(document, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        document: dict[str, Any] = json.loads(text)
        return cls(
            {name: LayerPlan(**fields) for name, fields in document.get("layers", {}).items()},
            dict(document.get("reasons", {})),
        )
