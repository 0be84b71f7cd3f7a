"""The contest of one workload: our forms are checked, the rivals' fastest forms found, then all race in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from abcfx.bench.heats import SLOW, Form, fastest, fresh_compiler, is_slow, run_heats
from abcfx.bench.race import FEW_ROUNDS, Laps, rough_s, run_laps
from abcfx.bench.results import Measurement, OurResult, RivalResult
from abcfx.bench.rivals import layer_rivals
from abcfx.bench.workloads import Binary, Spec, Workload
from abcfx.cli.front import UsageError, one_line

Tick = Callable[[str], None]


@dataclass(frozen=True)
class Contestant:
    """One of ours, warm and checked: f32 to f32, and from packed bits if there is such a form."""

    spec: Spec
    call: Callable[[], Tensor]
    rough_ms: float
    kernel: Callable[[], Tensor] | None = None
    error: float | None = None

    @property
    def label(self) -> str:
        return f"abc {self.spec.M},{self.spec.N} {self.spec.layout} {self.spec.method}"


def measure_layer(
    workload: Workload, specs: Sequence[Sequence[Spec]], kinds: Sequence[str], seconds: float, tick: Tick
) -> Measurement:
    """Race a layer against rivals of these kinds.

    specs    for each (M, N, layout) the specs that differ in their method only: the fastest of them races
    tick     called with what comes next, between timings
    """
    shape = workload.shape
    measurement = Measurement(shape.name, str(shape), {**asdict(shape), "threads": torch.get_num_threads()})
    fresh_compiler()
    with torch.inference_mode():
        tick("checking the kernels")
        ours = [best_method(workload, group) for group in specs]
        output = ours[0].call().shape
        reference_ms = min(one.rough_ms for one in ours)
        heats = {
            kind: run_heats(forms, output, reference_ms, lambda form, kind=kind: tick(f"{kind} {form}"))
            for kind, forms in layer_rivals(workload, ours[0].spec, list(kinds)).items()
        }
        tick("racing")
        measurement.rivals, measurement.ours = hold(ours, heats, seconds)
    return measurement


def best_method(workload: Workload, specs: Sequence[Spec]) -> Contestant:
    """The fastest of these specs; each is checked before it is timed. UsageError if none runs on such a layer."""
    found, reasons = [], []
    for spec in specs:
        try:
            binary: Binary = workload.binary(spec)
            error = binary.check()
        except RuntimeError as refused:  # a kernel that does not take such a layer says so
            reasons.append(f"{spec.method}: {one_line(refused)}")
            continue
        kernel = binary.kernel()
        kernel()
        found.append(Contestant(spec, binary.whole, 1e3 * rough_s(binary.whole), kernel, error))
    if not found:
        raise UsageError(f"no kernel runs {workload.shape}: {'; '.join(reasons)}")
    return min(found, key=lambda one: one.rough_ms)


def hold(
    ours: Sequence[Contestant], heats: Mapping[str, Sequence[Form]], seconds: float
) -> tuple[dict[str, RivalResult], list[OurResult]]:
    """Race our contestants against the fastest forms of each kind, all in turns."""
    reference_ms = min(one.rough_ms for one in ours)
    entrants: dict[str, Callable[[], object]] = {}
    for one in ours:
        entrants[one.label] = one.call
        if one.kernel is not None:
            entrants[f"{one.label} kernel"] = one.kernel
    few = []
    for kind, forms in heats.items():
        for form in fastest(forms):
            entrants[f"{kind}: {form.name}"] = form.call
            if is_slow(form, reference_ms):
                few.append(f"{kind}: {form.name}")
    laps = run_laps(entrants, seconds, few=few)
    rivals = {kind: _rival(kind, forms, laps, few) for kind, forms in heats.items()}
    return rivals, [_our(one, rivals, laps) for one in ours]


def _rival(kind: str, heats: Sequence[Form], laps: Laps, few: Sequence[str]) -> RivalResult:
    raced = [form.name for form in heats if f"{kind}: {form.name}" in laps.seconds]
    forms = {form.name: form.reason if form.rough_ms is None else form.rough_ms for form in heats}
    forms |= {name: laps.ms(f"{kind}: {name}").median for name in raced}
    if not raced:
        return RivalResult(None, None, forms, "; ".join(f"{name}: {why}" for name, why in forms.items()))
    best = min(raced, key=lambda name: laps.ms(f"{kind}: {name}").median)
    slow = f"{kind}: {best}" in few
    note = f"over {SLOW:g} times slower than our fastest, so timed in {FEW_ROUNDS} rounds only" if slow else None
    return RivalResult(best, laps.ms(f"{kind}: {best}"), forms, note=note)


def _our(one: Contestant, rivals: Mapping[str, RivalResult], laps: Laps) -> OurResult:
    running = {kind: f"{kind}: {rival.form}" for kind, rival in rivals.items() if rival.form is not None}
    apart = f"{one.label} kernel" if one.kernel is not None else None
    return OurResult(
        **one.spec._asdict(),
        ms=laps.ms(one.label),
        ratios={kind: laps.ratio(name, one.label) for kind, name in running.items()},
        kernel_ms=laps.ms(apart) if apart else None,
        kernel_ratios={kind: laps.ratio(name, apart) for kind, name in running.items()} if apart else {},
        error=one.error,
    )
