"""The binary matrix product alone, on bits that are packed already: its rate, and what a second thread brings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from abcfx.bench.contest import Contestant, Tick, best_method
from abcfx.bench.heats import Form, fastest, fresh_compiler, run_heats
from abcfx.bench.race import Laps, Spread, run_laps
from abcfx.bench.rivals import layer_rivals
from abcfx.bench.workloads import LinearShape, Spec
from abcfx.cli.units import count, milliseconds

KINDS = ("f32", "int8-only")


@dataclass(frozen=True)
class Rate:
    """A kernel with some threads. macs_per_s = M·N·rows·cols·depth / time: multiply-adds of one bit by one bit.

    scaling   time with one thread / time with these, in the same round; None for one thread
    ratios    kind → rival / ours at these threads
    """

    M: int
    N: int
    method: str
    threads: int
    ms: Spread
    macs_per_s: float
    macs_per_s_and_core: float
    scaling: Spread | None
    ratios: dict[str, Spread]


@dataclass
class GemmMeasurement:
    name: str
    title: str
    about: dict[str, Any]
    rates: list[Rate] = field(default_factory=list)
    forms: dict[str, str] = field(default_factory=dict)  # rival kind → its form, or why none ran


def measure_gemm(
    shape: LinearShape, specs: Sequence[Sequence[Spec]], threads: int, seconds: float, tick: Tick
) -> GemmMeasurement:
    """Kernels at one and at `threads` threads, and the rivals at `threads`, all in one race."""
    fresh_compiler()
    title = f"{shape.batch} x {shape.depth} x {shape.outputs} (rows x depth x columns)"
    found = GemmMeasurement(shape.name, title, {**asdict(shape), "threads": threads})
    workload = shape.workload()
    torch.set_num_threads(threads)
    with torch.inference_mode():
        tick("checking the kernels")
        ours = [best_method(workload, group) for group in specs]
        output, ours_ms = ours[0].call().shape, min(one.rough_ms for one in ours)
        heats = {
            kind: run_heats(forms, output, ours_ms, tick)
            for kind, forms in layer_rivals(workload, ours[0].spec, list(KINDS)).items()
        }
        tick("racing")
        laps = _race(ours, heats, threads, seconds)
    torch.set_num_threads(threads)
    best = {kind: _best(kind, laps) for kind in KINDS}
    for kind in KINDS:
        reasons = "; ".join(f"{form.name}: {form.reason}" for form in heats[kind] if form.reason)
        found.forms[kind] = best[kind].split(": ")[1] if best[kind] else f"left out: {reasons}"
    rivals = {kind: name for kind, name in best.items() if name is not None}
    for one in ours:
        for count_ in sorted({1, threads}):
            found.rates.append(_rate(shape, one, count_, rivals if count_ == threads else {}, laps))
    return found


def _race(ours: Sequence[Contestant], heats: dict[str, list[Form]], threads: int, seconds: float) -> Laps:
    entrants: dict[str, Callable[[], object]] = {}
    before: dict[str, Callable[[], object]] = {}
    for one in ours:
        for used in sorted({1, threads}):
            entrants[_name(one, used)] = one.kernel
            before[_name(one, used)] = lambda one=one, used=used: (torch.set_num_threads(used), one.kernel())
    for kind, forms in heats.items():
        for form in fastest(forms):
            entrants[f"{kind}: {form.name}"] = form.call
            before[f"{kind}: {form.name}"] = lambda form=form: (torch.set_num_threads(threads), form.call())
    return run_laps(entrants, seconds, before=before)


def _name(one: Contestant, threads: int) -> str:
    return f"{one.label}, {threads} threads"


def _best(kind: str, laps: Laps) -> str | None:
    raced = [name for name in laps.seconds if name.startswith(f"{kind}: ")]
    return min(raced, key=lambda name: laps.ms(name).median) if raced else None


def _rate(shape: LinearShape, one: Contestant, threads: int, rivals: dict[str, str], laps: Laps) -> Rate:
    ms = laps.ms(_name(one, threads))
    rate = one.spec.M * one.spec.N * shape.macs / (ms.median / 1e3)
    scaling = laps.ratio(_name(one, 1), _name(one, threads)) if threads > 1 else None
    ratios = {kind: laps.ratio(name, _name(one, threads)) for kind, name in rivals.items()}
    return Rate(one.spec.M, one.spec.N, one.spec.method, threads, ms, rate, rate / threads, scaling, ratios)


def gemm_table(found: GemmMeasurement) -> Group:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    headers = ("M,N", "kernel", "threads", "time", "MACs/s", "per core", "scaling")
    for header in (*headers, *KINDS):
        table.add_column(header, justify="right", no_wrap=True)
    for rate in found.rates:
        table.add_row(
            f"{rate.M},{rate.N}", rate.method, str(rate.threads), milliseconds(rate.ms.median), count(rate.macs_per_s),
            count(rate.macs_per_s_and_core), "" if rate.scaling is None else f"{rate.scaling.median:.2f}×",
            *(f"{rate.ratios[kind].median:.2f}×" if kind in rate.ratios else "" for kind in KINDS),
        )  # fmt: skip
    forms = "; ".join(f"{kind} is {form}" for kind, form in found.forms.items())
    note = f"MACs: of bits, M·N·rows·depth·columns; rivals: their time / abcfx time; {forms}"
    return Group(Text(found.title, "bold"), table, Text(note, "dim"), Text(""))
