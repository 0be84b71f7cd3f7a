"""Evaluating the formulas: numbers for a choice in microseconds, or an expression where a dimension stays unknown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, fields
from functools import cache
from typing import NamedTuple

from sympy import Expr, Symbol, lambdify

from abcfx.cost.formulas import FORMULAS
from abcfx.cost.rates import Rates


class Dims(NamedTuple):
    """The size of a layer's work. Docs of the symbols: abcfx/cost/formulas.py.

    rows           output positions over the batch: pixels of all output images, or rows of a linear layer
    cols           output channels of a group      channels  input channels of a group     taps  of the window
    values         input values over the batch     element_bytes  of one of them
    M, N           weight and activation bases     run       planes whose scales double from one to the next
    vectors        32-byte vectors of weights that the lut form has for 8 channels of a group
    passes         elementwise passes that quantize the input of the dense form
    convolution    1, or 0 for a linear layer        weight_run  weight planes whose scales double from one to the next
    """

    rows: int
    cols: int
    channels: int
    taps: int = 1
    groups: int = 1
    values: int = 0
    M: int = 1
    N: int = 1
    run: int = 1
    vectors: int = 1
    passes: int = 1
    element_bytes: int = 4
    convolution: int = 0
    threads: int = 1
    weight_run: int = 1


RATE_NAMES = tuple(field.name for field in fields(Rates))


@cache
def _evaluator() -> Callable[..., tuple[float, ...]]:
    """All formulas as one Python function of dims and rates, shared terms computed once."""
    known = {symbol.name: symbol for expr in FORMULAS.values() for symbol in expr.free_symbols}
    names = [[known.get(name, Symbol(name)) for name in group] for group in (Dims._fields, RATE_NAMES)]
    return lambdify(names, tuple(FORMULAS.values()), modules="math", cse=True)


def predict(dims: Dims, rates: Rates) -> dict[str, float]:
    """Milliseconds of "xnor", "lut", "dense" and "float"; whether a form applies is not this function's business."""
    seconds = _evaluator()(dims, _rate_values(rates))
    return {form: 1e3 * value for form, value in zip(FORMULAS, seconds, strict=True)}


@cache
def _rate_values(rates: Rates) -> tuple[float, ...]:
    return astuple(rates)


def formula(form: str, rates: Rates | None = None, **known: int) -> Expr:
    """Seconds of a form with what is known put in; what is not stays a symbol, e.g. the batch of a dynamic shape.

    known  fields of `Dims`. Raises ValueError for an unknown form or dimension.
    """
    if form not in FORMULAS:
        raise ValueError(f"form must be one of {', '.join(FORMULAS)}, got {form!r}")
    if unknown := sorted(set(known) - set(Dims._fields)):
        raise ValueError(f"unknown dimensions {unknown}; there are {', '.join(Dims._fields)}")
    numbers = known | ({name: getattr(rates, name) for name in RATE_NAMES} if rates is not None else {})
    expr = FORMULAS[form]
    return expr.subs({symbol: numbers[symbol.name] for symbol in expr.free_symbols if symbol.name in numbers})
