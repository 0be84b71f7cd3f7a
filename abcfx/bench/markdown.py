"""The (M, N) maps as a page of markdown: the break-even of every shape and rival, then every cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from abcfx.bench.breakeven import ShapeMap
from abcfx.bench.results import Report
from abcfx.cli import machine
from abcfx.cli.units import milliseconds

INTRO = (
    "Ratios are rival time / abcfx time, medians of rounds in which both ran in turns, packing included; above 1 abcfx "
    "is faster. Of each rival the fastest form counts."
)
CELLS = (
    "Rows are M (weight bases), columns N (activation bases). · is beyond break-even and was not measured; "
    "an empty cell was not asked for or not reached."
)


def breakeven_page(report: Report) -> str:
    maps: list[ShapeMap] = report.measurements
    parts = ["# Break-even in M·N", "", INTRO, "", f"Machine: {machine.line(report.machine)}.  "]
    parts += [f"Made by `{report.command}` on {report.date}, abcfx {report.version}.", ""]
    if not report.complete:
        parts += ["**Incomplete:** " + "; ".join(report.notes or ["not everything was measured"]) + ".", ""]
    parts += ["## Largest M·N that still wins", ""]
    parts += [*_table(*breakeven_rows(maps)), ""]
    parts += ["## Every cell", "", CELLS, ""]
    for found in maps:
        parts += _shape_section(found)
    return "\n".join(parts).rstrip() + "\n"


def breakeven_rows(maps: Sequence[ShapeMap]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: for each shape and rival `P (M,N)`, the largest product that wins."""
    kinds = all_kinds(maps)
    header = ["shape", "", *(f"against {kind}" for kind in kinds)]
    return header, [[found.name, found.title, *(breakeven_text(found, kind) for kind in kinds)] for found in maps]


def all_kinds(maps: Iterable[ShapeMap]) -> list[str]:
    return list(dict.fromkeys(kind for found in maps for kind in found.rivals))


def breakeven_text(found: ShapeMap, kind: str) -> str:
    """ "9 (3,3)"; "≥ 64" if no cell loses; "< 1" if none wins; a dash where the rival does not run.

    A smaller product that loses already is added: "9 (3,3), but not 8 (1,8)".
    """
    if kind not in found.kinds():
        return "–"
    if not found.cells:
        return ""
    win, loss = found.last_win(kind), found.first_loss(kind)
    if win is None:
        return "< 1"
    if loss is None:
        return f"≥ {win.products}"
    text = f"{win.products} ({win.M},{win.N})"
    return text if loss.products >= win.products else f"{text}, but not {loss.products} ({loss.M},{loss.N})"


def _shape_section(found: ShapeMap) -> list[str]:
    parts = [f"### {found.name}: {found.title}", ""]
    for kind, rival in found.rivals.items():
        if rival.form is None or rival.ms is None:
            parts += [f"{kind} is left out: {rival.reason}", ""]
            continue
        note = f"; {rival.note}" if rival.note else ""
        parts += [f"Against {kind}, {rival.form}, {milliseconds(rival.ms.median)}{note}:", ""]
        parts += [*_table(*_grid(found, kind)), ""]
    return parts


def _grid(found: ShapeMap, kind: str) -> tuple[list[str], list[list[str]]]:
    values = {(cell.M, cell.N): f"{cell.ratios[kind].median:.2f}" for cell in found.cells if kind in cell.ratios}
    values |= {tuple(pair): "·" for pair in found.skipped}
    columns = sorted({N for _, N in found.planned})
    lines = sorted({M for M, _ in found.planned})
    header = ["M \\ N", *map(str, columns)]
    return header, [[str(M), *(values.get((M, N), "") for N in columns)] for M in lines]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    align = ["---", *("---:" for _ in header[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (header, align, *rows)]
