"""Losses of a grid of (M, N) from those on its margins: errors of weights and of activations add up.

With E_M the error of the weights, e_N that of the inputs:  δy = W·e_N + E_M·x + E_M·e_N. The first two come from
different sources and do not correlate, so that losses, which grow with |δy|², add:

    L(M, N) ≈ L(M, N*) + L(M*, N) - L(M*, N*) + c·u(M)·v(N)         M*, N*: the most bases

    u(M) = (L(M, N*) - L(M*, N*)) / (L(m, N*) - L(M*, N*))  in [0, 1], v(N) alike           m, n: the fewest bases
    c makes it right at (m, n), where the product E_m·e_n counts

So the last row, the last column and one corner are measured, 10 of 25 candidates, and the others follow. On the
CIFAR-10 ResNet-20 the 15 others come within 24 % (root mean square of the logarithm) of what measuring them gives;
the estimate itself is within a factor of 0.3 to 1.7 of the loss (docs/planner.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from abcfx.plan import LayerPlan


def margins(plans: Sequence[LayerPlan]) -> list[LayerPlan]:
    """The plans to measure: of each full grid its margins and its corner, and all that are in no full grid."""
    chosen = set()
    for kind in _kinds(plans).values():
        (least_m, most_m), (least_n, most_n) = _ends(kind)
        on = {(m, n) for m, n in kind if m == most_m or n == most_n} | {(least_m, least_n)}
        chosen |= {kind[at] for at in (on if _is_grid(kind) else kind)}
    return [plan for plan in plans if plan in chosen]


def filled(losses: Mapping[LayerPlan, float], plans: Sequence[LayerPlan]) -> dict[LayerPlan, float]:
    """Losses of one layer for all `plans`, from those of margins(plans)."""
    found = dict(losses)
    for kind in _kinds(plans).values():
        (least_m, most_m), (least_n, most_n) = _ends(kind)
        for (m, n), plan in kind.items():
            if plan in losses:
                continue
            row, column, both = losses[kind[m, most_n]], losses[kind[most_m, n]], losses[kind[most_m, most_n]]
            first_row, first_column = losses[kind[least_m, most_n]], losses[kind[most_m, least_n]]
            product = losses[kind[least_m, least_n]] - (first_row + first_column - both)
            share = _share(row - both, first_row - both) * _share(column - both, first_column - both)
            found[plan] = max(row + column - both + product * share, min(row, column))
    return {plan: found[plan] for plan in plans}


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0


def _kinds(plans: Sequence[LayerPlan]) -> dict[LayerPlan, dict[tuple[int, int], LayerPlan]]:
    """Plans that differ in M and N only, by (M, N)."""
    kinds: dict[LayerPlan, dict[tuple[int, int], LayerPlan]] = {}
    for plan in plans:
        kind = kinds.setdefault(replace(plan, weight_bases=1, activation_bases=1), {})
        kind[plan.weight_bases, plan.activation_bases] = plan
    return kinds


def _ends(kind: Mapping[tuple[int, int], LayerPlan]) -> tuple[tuple[int, int], tuple[int, int]]:
    ms, ns = zip(*kind, strict=True)
    return (min(ms), max(ms)), (min(ns), max(ns))


def _is_grid(kind: Mapping[tuple[int, int], LayerPlan]) -> bool:
    ms, ns = zip(*kind, strict=True)
    return len(kind) == len(set(ms)) * len(set(ns))
