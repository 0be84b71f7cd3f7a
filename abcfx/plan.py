"""What is decided for each layer: a frozen `Plan`, the same for the same inputs, that can be saved and reloaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

MAX_BASES = 8
BASES = ("alternating", "coded", "greedy", "abc")
SEARCHED = ("alternating", "coded")  # kinds whose fit is a search: it can start from an earlier one, or from data
LEVELS = ("coded", "thermometer")
PRODUCTS = ("output", "grad_input", "grad_weight")
RULES = ("identity", "abc", "triangle")


@dataclass(frozen=True)
class LayerPlan:
    """How one layer is quantized: W ≈ Σ_p α_p B_p with `weight_bases` terms, A ≈ Σ_q β_q A_q with `activation_bases`.

    grad_bases   planes of the stochastically rounded output gradient in the backward products; 0 keeps it in float
    binary       which of the three products of a training step run on bits (those of gradients only if grad_bases > 0)
    ste          straight-through rule (docs/adjoints.md): "identity"; "abc" as in the paper, of weights and thermometer
                 levels; "triangle" of coded levels, in simulated training

    Raises ValueError if a count is not an integer in its range or a kind is unknown.
    """

    weight_bases: int = 2
    activation_bases: int = 2
    basis: str = "alternating"
    levels: str = "coded"
    per_channel: bool = True
    grad_bases: int = 0
    binary: tuple[str, ...] = PRODUCTS
    ste: str = "identity"

    def __post_init__(self) -> None:
        for name, public, least in (("weight_bases", "M", 1), ("activation_bases", "N", 1), ("grad_bases", "K", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_BASES:
                raise ValueError(f"{public} ({name}) must be an integer from {least} to {MAX_BASES}, got {value!r}")
        for name, known in (("basis", BASES), ("levels", LEVELS), ("ste", RULES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.ste == "triangle" and self.levels != "coded":
            raise ValueError(f"ste='triangle' is a rule of coded levels, got levels={self.levels!r}")
        wanted = (self.binary,) if isinstance(self.binary, str) else tuple(self.binary)
        if unknown := set(wanted) - set(PRODUCTS):
            raise ValueError(f"binary takes products among {', '.join(PRODUCTS)}, got {sorted(unknown)}")
        object.__setattr__(self, "binary", tuple(product for product in PRODUCTS if product in wanted))

    def op_arguments(self) -> tuple:
        """The trailing arguments of every `abc::` layer op, in schema order, without those that have their defaults."""
        required = self.weight_bases, self.activation_bases, self.basis, self.levels, self.per_channel
        optional = self.grad_bases, *(product in self.binary for product in PRODUCTS), self.ste
        return required if optional == DEFAULTS else (*required, *optional)

    @classmethod
    def of_arguments(cls, *arguments: Any) -> LayerPlan:
        """Inverse of `op_arguments`; trailing arguments may be left out."""
        required, optional = arguments[:5], arguments[5:]
        grad_bases, *switches, ste = (*optional, *DEFAULTS[len(optional) :])
        binary = tuple(product for product, on in zip(PRODUCTS, switches, strict=True) if on)
        return cls(*required, grad_bases, binary, ste)


DEFAULTS = (0, True, True, True, "identity")  # of what op_arguments may leave out


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
