"""What the user asks for: default bases, which layers, and exceptions by name. Goes to JSON and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from abcfx.plan import PRODUCTS, LayerPlan

_PLAN_KEYS = {
    "M": "weight_bases",
    "N": "activation_bases",
    "basis": "basis",
    "levels": "levels",
    "per_channel": "per_channel",
    "grad_bases": "grad_bases",
    "binary": "binary",
    "ste": "ste",
}


@dataclass(frozen=True)
class Config:
    """How to quantize a model.

    M, N             weight and activation bases of every layer, 1 to 8 (the paper's names)
    basis, levels    see docs/levels.md                per_channel   α per output channel, else one per layer
    include          globs over fully qualified layer names; only these are quantized (empty: all)
    exclude          globs of layers that stay float
    grad_bases, binary, ste   how it trains (LayerPlan, docs/adjoints.md)
    overrides        glob → {"M": ..., "N": ..., "basis": ..., "grad_bases": ... (any of the above)}; later rules win
    first_last_float the first and the last layer stay float unless `include` or `overrides` names them

    A glob that matches no layer is an error. Raises ValueError with the field's name for a bad value.
    """

    M: int = 2
    N: int = 2
    basis: str = "alternating"
    levels: str = "coded"
    per_channel: bool = True
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    first_last_float: bool = True
    grad_bases: int = 0
    binary: tuple[str, ...] = PRODUCTS
    ste: str = "identity"

    def __post_init__(self) -> None:
        object.__setattr__(self, "include", _globs("include", self.include))
        object.__setattr__(self, "exclude", _globs("exclude", self.exclude))
        object.__setattr__(self, "binary", _globs("binary", self.binary))
        object.__setattr__(self, "overrides", {glob: dict(rule) for glob, rule in self.overrides.items()})
        default = self.default_plan()
        for glob, rule in self.overrides.items():
            _override(default, glob, rule)

    def default_plan(self) -> LayerPlan:
        return LayerPlan(
            self.M, self.N, self.basis, self.levels, self.per_channel, self.grad_bases, self.binary, self.ste
        )

    def plan_for(self, name: str) -> LayerPlan:
        """The plan of the layer `name`: the defaults, then every override whose glob matches, in order."""
        plan = self.default_plan()
        for glob, rule in self.overrides.items():
            if fnmatchcase(name, glob):
                plan = _override(plan, glob, rule)
        return plan

    def names(self, name: str) -> bool:
        """Does an include or override rule name this layer?"""
        return any(fnmatchcase(name, glob) for glob in (*self.include, *self.overrides))

    def reason_to_skip(self, name: str) -> str | None:
        for glob in self.exclude:
            if fnmatchcase(name, glob):
                return f"excluded by '{glob}'"
        if self.include and not any(fnmatchcase(name, glob) for glob in self.include):
            return "not in include"
        return None

    def check_globs(self, names: Iterable[str]) -> None:
        """ValueError if a rule matches none of the layers: a typo must not pass silently."""
        names = list(names)
        for rule in ("include", "exclude", "overrides"):
            for glob in getattr(self, rule):
                if not any(fnmatchcase(name, glob) for name in names):
                    shown = ", ".join(names[:8]) + (f", ... ({len(names)} layers)" if len(names) > 8 else "")
                    raise ValueError(f"{rule} rule '{glob}' matches no layer; the layers are: {shown or 'none'}")

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Config:
        document = json.loads(text)
        if not isinstance(document, dict):
            raise ValueError(f"a config is a JSON object, got {type(document).__name__}")
        unknown = set(document) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown config fields: {', '.join(sorted(unknown))}")
        return cls(**document)


def _globs(name: str, value: str | Iterable[str]) -> tuple[str, ...]:
    globs = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(glob, str) for glob in globs):
        raise ValueError(f"{name} takes globs (strings), got {value!r}")
    return globs


def _override(plan: LayerPlan, glob: str, rule: Mapping[str, Any]) -> LayerPlan:
    unknown = set(rule) - set(_PLAN_KEYS)
    if unknown:
        raise ValueError(f"overrides['{glob}'] has unknown keys {sorted(unknown)}; it takes {', '.join(_PLAN_KEYS)}")
    try:
        return replace(plan, **{_PLAN_KEYS[key]: value for key, value in rule.items()})
    except ValueError as error:
        raise ValueError(f"overrides['{glob}']: {error}") from None
