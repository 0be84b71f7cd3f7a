"""`bench breakeven`: up to which M·N the kernels win, over the layers of well-known networks."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from abcfx.bench import shapes
from abcfx.bench.breakeven import ALL_CELLS, QUICK_CELLS, Pace, ShapeMap, measure_map
from abcfx.bench.markdown import breakeven_page, breakeven_rows
from abcfx.bench.results import Report
from abcfx.bench.session import finish, run_jobs
from abcfx.cli import machine
from abcfx.cli.bench_layers import LAYER_RIVALS
from abcfx.cli.bench_options import (
    Part,
    add_basis,
    add_common,
    add_method,
    add_only,
    add_rivals,
    methods_of,
    new_report,
    require_writable,
    set_up,
)
from abcfx.cli.front import positive, usage_errors
from abcfx.plan import MAX_BASES


def add_breakeven(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("abcfx_bench"), metavar="DIR", help="results (./abcfx_bench)")
    parser.add_argument("--max", type=positive, default=MAX_BASES, help=f"largest M and N ({MAX_BASES})")
    add_only(parser)
    add_rivals(parser, LAYER_RIVALS)
    add_method(parser)
    add_basis(parser)
    add_common(parser, seconds=0.5)


def run_breakeven(arguments: argparse.Namespace) -> int:
    set_up(arguments)
    require_writable(arguments.out / "breakeven.json", "--out")
    with usage_errors():
        found = shapes.select(shapes.network_shapes(), arguments.only)
    if arguments.quick and not arguments.only:
        found = [shape for shape in found if shape.name in shapes.QUICK]
    cells = [cell for cell in (QUICK_CELLS if arguments.quick else ALL_CELLS) if max(cell) <= arguments.max]
    pace = Pace(shape_s=3 * arguments.seconds, cell_s=arguments.seconds)
    report, console, methods = new_report(arguments), Console(), methods_of(arguments)
    jobs = [
        (
            shape.name,
            lambda tick, shape=shape: measure_map(
                shape, cells, methods, arguments.rivals, pace, tick, report.measurements.append, arguments.basis
            ),
        )
        for shape in found
    ]
    written: list[Path] = []

    def keep() -> None:
        written[:] = write(report, arguments.out, pictures=False)
        if arguments.json is not None:
            report.save(arguments.json)

    code = run_jobs(report, jobs, lambda shape_map: None, keep)
    if report.measurements:
        console.print(_table(report.measurements))
        written[:] = write(report, arguments.out, pictures=True)
    finish(report, console, [*written, *([arguments.json] if arguments.json is not None else [])])
    return code


def write(report: Report, folder: Path, pictures: bool) -> list[Path]:
    """breakeven.json and breakeven.md, and a picture for each rival."""
    report.save(folder / "breakeven.json")
    (folder / "breakeven.md").write_text(breakeven_page(report))
    drawn: list[Path] = []
    if pictures:
        from abcfx.bench.heatmap import draw_maps  # matplotlib takes a second to import

        drawn = draw_maps(report.measurements, folder, machine.line(report.machine))
    return [folder / "breakeven.json", folder / "breakeven.md", *drawn]


def _table(maps: list[ShapeMap]) -> Table:
    header, rows = breakeven_rows(maps)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold", title="Largest M·N that still wins")
    for name in [header[0], *header[2:]]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(row[0], *row[2:])
    return table


PARTS = (
    Part(
        "breakeven", "Up to which M·N the kernels beat each rival, layer by layer: JSON, markdown, and heat maps.",
        "python -m abcfx bench breakeven --only 'resnet18/*' --threads 2 --out maps", add_breakeven, run_breakeven,
    ),
)  # fmt: skip
