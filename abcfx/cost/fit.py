"""Rates from timings: what to run when a kernel gets faster or a machine is new."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from abcfx.cost.formulas import FORMULAS
from abcfx.cost.predict import RATE_NAMES, Dims, predict
from abcfx.cost.rates import Rates

STEPS, NUDGE = 30, 1e-4
PRIOR = 0.03  # weight of a factor e away from the start, beside an error of a factor e in one timing


class Timing(NamedTuple):
    """form "xnor", "lut", "dense" or "float" of a layer of this size took `ms`."""

    form: str
    dims: Dims
    ms: float


def fit(start: Rates, timings: Iterable[Timing], free: Iterable[str] | None = None) -> Rates:
    """The rates that explain the timings: Gauss-Newton with halving steps on log rates.

    minimize over r   Σ_i (ln predicted_i(r) - ln ms_i)²  +  PRIOR²·Σ_j (ln r_j - ln start_j)²

    Errors are relative, so that small layers count as much as large ones; the second term keeps what no timing tells.
    free  names of the rates that may change; by default all that the timings depend on but `ghz`, the unit of the rest,
          and `digit` and `weight_digit`, counts; what is 0, a cost that there is not, stays so

    Raises ValueError for no timings, an unknown form, or a time that is not positive.
    """
    timings = list(timings)
    _check(timings)
    names = sorted(set(free) if free is not None else _rates_of(timings) - {"ghz", "digit", "weight_digit"})
    names = [name for name in names if getattr(start, name) > 0]
    origin = np.log([getattr(start, name) for name in names])

    def residuals(logs: np.ndarray) -> np.ndarray:
        rates = _with(start, names, logs)
        errors = [np.log(predict(t.dims, rates)[t.form] / t.ms) for t in timings]
        return np.concatenate([errors, PRIOR * (logs - origin)])

    logs, now = origin, residuals(origin)
    for _ in range(STEPS):
        jacobian = np.stack([(residuals(logs + nudge) - now) / NUDGE for nudge in NUDGE * np.eye(len(names))], axis=1)
        step = np.linalg.lstsq(jacobian, -now, rcond=None)[0]
        for factor in (1.0, 0.5, 0.25, 0.1, 0.02):
            tried = residuals(logs + factor * step)
            if tried @ tried < now @ now:
                logs, now = logs + factor * step, tried
                break
        else:
            break
    return _with(start, names, logs)


def _check(timings: Sequence[Timing]) -> None:
    if not timings:
        raise ValueError("fit needs timings, got none")
    for timing in timings:
        if timing.form not in FORMULAS or not timing.ms > 0:
            raise ValueError(f"a timing has a form of {', '.join(FORMULAS)} and a time above 0 ms, got {timing}")


def _rates_of(timings: Sequence[Timing]) -> set[str]:
    """Rates that the formulas of these timings have in them."""
    used = {symbol.name for form in {t.form for t in timings} for symbol in FORMULAS[form].free_symbols}
    return used & set(RATE_NAMES)


def _with(start: Rates, names: Sequence[str], logs: np.ndarray) -> Rates:
    return replace(start, **{name: float(np.exp(value)) for name, value in zip(names, logs, strict=True)})
