"""Measure each shape once, in every form that applies, and keep the answer on disk.

Asked for by `torch.compile(..., options={"autotune": True})` or ABCFX_AUTOTUNE=1. The forms run in turns, so that a
busy machine disturbs all of them alike, for a fraction of a second in all; medians are kept (abcfx/store.py).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from timeit import Timer

import torch

from abcfx.cost import Dims, Timing
from abcfx.debug import log
from abcfx.store import Store

ROUNDS, ROUND_S = 7, 0.004  # a timing covers at least this much work: far above the clock's resolution


def measured(
    key: str, forms: Sequence[str], dims: Dims, make: Callable[[], Mapping[str, Callable[[], object]]]
) -> dict[str, float]:
    """form → ms a call, for all of `forms`: from memory or disk if known, else timed on the functions of `make`.

    key    names all that the times depend on: machine, build, shape, M, N     dims  kept beside them, for `fit`
    """
    kept = store().get(key)
    if kept is not None and set(forms) <= kept["ms"].keys():
        return {form: kept["ms"][form] for form in forms}
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        ms = race(make())
    log(1, f"measured {', '.join(f'{form} {value:.3g} ms' for form, value in ms.items())}: {key}")
    store().put(key, {"ms": ms, "dims": list(dims)})
    return ms


def race(functions: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median ms a call of each function, timed in turns."""
    timers = {name: Timer(function) for name, function in functions.items()}
    calls = {name: _calls(timer) for name, timer in timers.items()}
    times: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(ROUNDS):
        for name, timer in timers.items():
            times[name].append(timer.timeit(calls[name]) / calls[name])
    return {name: 1e3 * median(values) for name, values in times.items()}


def _calls(timer: Timer) -> int:
    """How many calls fill one timing; the first call, which warms up, does not count."""
    timer.timeit(1)
    return max(1, round(ROUND_S / max(timer.timeit(2) / 2, 1e-9)))


def timings() -> Iterator[Timing]:
    """All that is kept, of this and other machines, in the form that `abcfx.cost.fit` takes."""
    for entry in store().entries().values():
        yield from (Timing(form, Dims(*entry["dims"]), ms) for form, ms in entry["ms"].items())


def cache_folder() -> Path:
    """$ABCFX_CACHE, else $XDG_CACHE_HOME/abcfx, else ~/.cache/abcfx."""
    if own := os.environ.get("ABCFX_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "abcfx"


def store() -> Store:
    """The store in the cache folder of this moment."""
    return _store(cache_folder() / "autotune.json")


@cache
def _store(path: Path) -> Store:
    return Store(path)


@cache
def cpu_model() -> str:
    """ "AMD EPYC 7763 64-Core Processor" where the system tells it, else what `platform` knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
