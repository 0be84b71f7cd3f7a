"""One option for each layer: a multiple-choice knapsack, solved exactly by HiGHS through scipy.optimize.milp.

    minimize  Σ_l Σ_o cost[l][o]·x[l][o]      x[l][o] ∈ {0, 1},   Σ_o x[l][o] = 1 for each l
    subject to  Σ_l Σ_o used_k[l][o]·x[l][o] ≤ bound_k for each limit k

The same numbers give the same answer: HiGHS is deterministic.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

Table = Sequence[Sequence[float]]  # a number for each option of each layer
SCALE = 1e4  # of the largest cost: HiGHS stops at an absolute gap of 1e-6, whatever the unit
TIME_LIMIT_S = 60.0
SLACK = 1e-9  # of a bound, for rounding: what a plan uses is a sum of floats


class Limit(NamedTuple):
    """Σ used ≤ bound; `used` has the shape of the costs."""

    used: Table
    bound: float


class Choice(NamedTuple):
    """options  index of the chosen option of each layer
    gap      proven relative distance from the optimum; 0 unless HiGHS ran out of time
    """

    options: tuple[int, ...]
    gap: float


def choose(cost: Table, limits: Sequence[Limit]) -> Choice | None:
    """The cheapest choice within the limits; None if there is none.

    Raises RuntimeError if HiGHS gives up without any answer.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # takes half a second to import
    from scipy.sparse import block_diag

    if not cost:
        return Choice((), 0.0) if all(limit.bound >= 0 for limit in limits) else None
    flat = _flat(cost)
    one_each = block_diag([np.ones((1, len(row))) for row in cost], format="csr")
    constraints = [LinearConstraint(one_each, 1, 1)]
    for used, bound in limits:
        row = _flat(used)
        unit = max(abs(bound), np.abs(row).max(), 1e-300)
        constraints.append(LinearConstraint(row[None] / unit, -np.inf, (bound + SLACK * abs(bound)) / unit))
    size = np.abs(flat).max()
    with _silent():
        found = milp(
            flat * (SCALE / size if size > 0 else 1.0),
            integrality=np.ones(len(flat)),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0.0, "time_limit": TIME_LIMIT_S},
        )
    if found.status == 2:  # infeasible
        return None
    if found.x is None:
        raise RuntimeError(f"the solver gave up: {found.message}")
    ends = np.cumsum([len(row) for row in cost])[:-1]
    return Choice(tuple(int(part.argmax()) for part in np.split(found.x, ends)), float(found.mip_gap or 0.0))


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing is printed inside, by C code either: HiGHS of scipy 1.17 leaves lines for its developers on stdout."""
    if os.name != "posix":
        yield
        return
    flush = ctypes.CDLL(None).fflush
    sys.stdout.flush()
    flush(None)
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 1)
        yield
    finally:
        flush(None)  # into nothing, before the old stdout is back
        os.dup2(kept, 1)
        os.close(kept)


def total(table: Table, options: Sequence[int]) -> float:
    """Σ_l table[l][options[l]]."""
    return float(sum(row[option] for row, option in zip(table, options, strict=True)))


def _flat(table: Table) -> np.ndarray:
    return np.array([value for row in table for value in row], dtype=np.float64)
