"""The (M, N) map of a layer: up to how many binary products the kernels beat each rival.

The rivals of a shape race once, against the (1, 1) kernel. The fastest of them is the anchor: it races again beside the
kernel of every cell, in turns, so that a machine that slows down slows both. The ratio to another rival is that of the
anchor, times how much slower the other was in the first race:

    rival / ours  =  (anchor / ours in the rounds of the cell) · (rival / anchor in the rounds of the first race)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

import torch

from abcfx.bench.contest import Contestant, Tick, best_method, hold
from abcfx.bench.heats import Form, fresh_compiler, run_heats
from abcfx.bench.race import Spread, run_laps
from abcfx.bench.results import RivalResult
from abcfx.bench.rivals import layer_rivals
from abcfx.bench.workloads import SPEED_BASES, Shape, Spec, Workload
from abcfx.plan import MAX_BASES

# Once every cell of one M·N is slower than this against every rival, larger products are not measured.
HOPELESS = 0.8
ALL_CELLS = tuple((M, N) for M in range(1, MAX_BASES + 1) for N in range(1, MAX_BASES + 1))
QUICK_CELLS = ((1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (4, 4))


@dataclass(frozen=True)
class Cell:
    """One (M, N): our time, packing included, and kind → rival / ours."""

    M: int
    N: int
    method: str
    ms: Spread
    ratios: dict[str, Spread]
    error: float | None = None

    @property
    def products(self) -> int:
        return self.M * self.N


@dataclass
class ShapeMap:
    """All cells of one shape; `skipped` lists those beyond break-even that were not measured, `planned` all of them."""

    name: str
    title: str
    about: dict[str, Any]
    planned: list[tuple[int, int]]
    rivals: dict[str, RivalResult] = field(default_factory=dict)
    anchor: str | None = None
    cells: list[Cell] = field(default_factory=list)
    skipped: list[tuple[int, int]] = field(default_factory=list)

    def last_win(self, kind: str) -> Cell | None:
        """The cell with the largest M·N that still beats this rival; of several, the one with the best ratio."""
        wins = [cell for cell in self.cells if kind in cell.ratios and cell.ratios[kind].median >= 1]
        return max(wins, key=lambda cell: (cell.products, cell.ratios[kind].median), default=None)

    def first_loss(self, kind: str) -> Cell | None:
        """The cell with the smallest M·N that does not."""
        losses = [cell for cell in self.cells if kind in cell.ratios and cell.ratios[kind].median < 1]
        return min(losses, key=lambda cell: (cell.products, cell.ratios[kind].median), default=None)

    def kinds(self) -> list[str]:
        return [kind for kind, rival in self.rivals.items() if rival.form is not None]


@dataclass(frozen=True)
class Pace:
    """Seconds for the rivals of a shape, and for each cell."""

    shape_s: float
    cell_s: float


def levels(cells: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """The cells of one M·N after the other, from small to large."""
    ordered = sorted(cells, key=lambda cell: (cell[0] * cell[1], cell))
    for _, group in groupby(ordered, key=lambda cell: cell[0] * cell[1]):
        yield list(group)


def measure_map(
    shape: Shape,
    cells: Sequence[tuple[int, int]],
    methods: Sequence[str],
    kinds: Sequence[str],
    pace: Pace,
    tick: Tick,
    keep: Callable[[ShapeMap], None] = lambda found: None,
    basis: str = SPEED_BASES[0],
) -> ShapeMap:
    """`keep(map)` once, before the first cell: what is measured until Ctrl-C is in that map."""
    found = ShapeMap(
        shape.name, str(shape), {**asdict(shape), "threads": torch.get_num_threads()}, [tuple(cell) for cell in cells]
    )
    fresh_compiler()
    workload = shape.workload()
    with torch.inference_mode():
        anchor, factors = _race_rivals(workload, found, methods, basis, kinds, pace, tick)
        keep(found)
        remaining = list(levels(cells))
        while remaining:
            level = remaining.pop(0)
            for pair in level:
                tick(f"M={pair[0]}, N={pair[1]}")
                found.cells.append(_measure_cell(_ours(workload, pair, methods, basis), anchor, factors, pace.cell_s))
            if factors and _hopeless([cell for cell in found.cells if (cell.M, cell.N) in level]):
                found.skipped = [pair for group in remaining for pair in group]
                break
    return found


def _ours(workload: Workload, pair: tuple[int, int], methods: Sequence[str], basis: str) -> Contestant:
    layout = workload.shape.layouts[0]
    return best_method(workload, [Spec(*pair, method, layout, basis) for method in methods])


def _race_rivals(
    workload: Workload, found: ShapeMap, methods: Sequence[str], basis: str, kinds: Sequence[str], pace: Pace,
    tick: Tick,
) -> tuple[Form | None, dict[str, Spread]]:  # fmt: skip
    """The anchor, and kind → its time / the anchor's. Without any rival that runs: None and nothing."""
    tick("the rivals")
    ours = _ours(workload, (1, 1), methods, basis)
    heats = {
        kind: run_heats(forms, ours.call().shape, ours.rough_ms, lambda form, kind=kind: tick(f"{kind} {form}"))
        for kind, forms in layer_rivals(workload, ours.spec, list(kinds)).items()
    }
    found.rivals, _ = hold([ours], heats, pace.shape_s)
    times = {kind: rival.ms for kind, rival in found.rivals.items() if rival.ms is not None}
    if not times:
        return None, {}
    found.anchor = min(times, key=lambda kind: times[kind].median)
    form = next(one for one in heats[found.anchor] if one.name == found.rivals[found.anchor].form)
    base = times[found.anchor].median
    return form, {kind: Spread(t.median / base, t.low / base, t.high / base, t.rounds) for kind, t in times.items()}


def _measure_cell(ours: Contestant, anchor: Form | None, factors: dict[str, Spread], seconds: float) -> Cell:
    entrants = {"ours": ours.call} | ({"anchor": anchor.call} if anchor else {})
    laps = run_laps(entrants, seconds)
    spec = ours.spec
    ratios = {kind: laps.ratio("anchor", "ours").times(factor.median) for kind, factor in factors.items()}
    return Cell(spec.M, spec.N, spec.method, laps.ms("ours"), ratios, ours.error)


def _hopeless(level: Sequence[Cell]) -> bool:
    return all(ratio.median < HOPELESS for cell in level for ratio in cell.ratios.values())
