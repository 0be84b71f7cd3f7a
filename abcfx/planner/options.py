"""What can be done with each layer and what each choice costs: all that was measured, in a form that JSON has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from abcfx.plan import LayerPlan

FLOAT_BITS = 32
FLOAT = "float"
KINDS = ("basis", "levels")


@dataclass(frozen=True)
class Option:
    """plan  None for the float layer      loss  rise of the model's loss when this layer alone is so quantized, in nats
    ms    predicted or measured time of the layer
    """

    plan: LayerPlan | None
    loss: float
    ms: float

    @property
    def label(self) -> str:
        return label(self.plan)

    @property
    def bits(self) -> int:
        """Of a weight."""
        return FLOAT_BITS if self.plan is None else self.plan.weight_bases

    def to_dict(self) -> dict[str, Any]:
        return {"label": self.label, "loss": self.loss, "ms": self.ms}


def label(plan: LayerPlan | None) -> str:
    """ "float", "2x3", "2x3 coded" (weights), "2x3 thermometer per-layer": M x N and what is not the default."""
    if plan is None:
        return FLOAT
    usual = LayerPlan()
    kinds = [getattr(plan, kind) for kind in KINDS if getattr(plan, kind) != getattr(usual, kind)]
    scale = [] if plan.per_channel else ["per-layer"]
    return " ".join([f"{plan.weight_bases}x{plan.activation_bases}", *kinds, *scale])


def plan_of_label(text: str) -> LayerPlan | None:
    """Inverse of `label`; ValueError if it is none."""
    if text == FLOAT:
        return None
    from abcfx.plan import BASES, LEVELS

    first, *rest = text.split()
    numbers = first.split("x")
    # "coded" is a kind of weights: levels are coded where nothing else is said
    words = {**dict.fromkeys(LEVELS, "levels"), **dict.fromkeys(BASES, "basis"), "per-layer": "per_channel"}
    if len(numbers) != 2 or not all(n.isdigit() for n in numbers) or not set(rest) <= words.keys():
        raise ValueError(f'{text!r} is no option: it is "float" or M x N and kinds, e.g. "2x3" or "2x3 thermometer"')
    kinds = {words[word]: False if word == "per-layer" else word for word in rest}
    return LayerPlan(int(numbers[0]), int(numbers[1]), **kinds)


@dataclass(frozen=True)
class LayerOptions:
    """A layer and its options, the float one first. A layer that must stay float has that one only, and a reason.

    weights   how many the layer has
    """

    name: str
    weights: int
    options: tuple[Option, ...]
    reason: str | None = None

    @cached_property
    def by_label(self) -> Mapping[str, Option]:
        return {option.label: option for option in self.options}

    def option(self, wanted: str) -> Option:
        """ValueError naming the layer and its options if there is none of this label."""
        if wanted not in self.by_label:
            raise ValueError(f"{self.name} has no option {wanted!r}; it has {', '.join(self.by_label)}")
        return self.by_label[wanted]


@dataclass(frozen=True)
class Measurements:
    """layers    in order of registration
    rest_ms   of everything between the layers, the same in every plan
    setup     what was measured and how, for the reader: model, input, threads, kernels, images ...
    """

    layers: tuple[LayerOptions, ...]
    rest_ms: float = 0.0
    setup: Mapping[str, Any] = field(default_factory=dict)

    @property
    def float_ms(self) -> float:
        """Of the float model."""
        return self.rest_ms + sum(layer.options[0].ms for layer in self.layers)

    @property
    def free(self) -> tuple[LayerOptions, ...]:
        """Layers that have a choice."""
        return tuple(layer for layer in self.layers if len(layer.options) > 1)

    def uniform(self) -> list[str]:
        """Labels that every layer with a choice has, in the order of the first such layer; float first."""
        shared = [set(layer.by_label) for layer in self.free]
        return [text for text in (self.free[0].by_label if self.free else ()) if all(text in has for has in shared)]

    def to_dict(self) -> dict[str, Any]:
        layers = [
            {"name": layer.name, "weights": layer.weights}
            | ({"reason": layer.reason} if layer.reason else {})
            | {"options": [option.to_dict() for option in layer.options]}
            for layer in self.layers
        ]
        return {"setup": dict(self.setup), "rest_ms": self.rest_ms, "layers": layers}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Measurements:
        """Raises ValueError naming the layer for an option that makes no sense."""
        layers = [_layer(entry) for entry in document["layers"]]
        return cls(tuple(layers), float(document["rest_ms"]), dict(document.get("setup", {})))


def _layer(entry: Mapping[str, Any]) -> LayerOptions:
    name = entry["name"]
    try:
        found = [Option(plan_of_label(o["label"]), float(o["loss"]), float(o["ms"])) for o in entry["options"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{name}: {error}") from None
    floats = [option for option in found if option.plan is None]
    if len(floats) != 1 or len({option.label for option in found}) != len(found):
        raise ValueError(f'{name} needs one option "float", and no option twice')
    rest = [option for option in found if option.plan is not None]
    return LayerOptions(name, int(entry["weights"]), (*floats, *rest), entry.get("reason"))
