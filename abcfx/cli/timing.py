"""Latency of two functions that do the same, measured in turns so that a busy machine disturbs both alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

MIN_ROUND_S = 0.004  # one timing covers at least this much work: far above the clock's resolution


@dataclass(frozen=True)
class Race:
    """Medians over the rounds in ms a call; ratio = rival / ours of each round, its median and middle 80 %."""

    batch: int
    rival_ms: float
    ours_ms: float
    ratio: float
    low: float
    high: float
    rounds: int


def race(rival: Callable[[], object], ours: Callable[[], object], batch: int, seconds: float = 2.0) -> Race:
    """Time the two in alternating order, for about `seconds` and at least five rounds; both must be warm."""
    calls = [_calls(rival), _calls(ours)]
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        pair = [0.0, 0.0]
        for which in (0, 1) if len(times) % 2 else (1, 0):
            pair[which] = _time((rival, ours)[which], calls[which])
        times.append((pair[0], pair[1]))
    ratios = sorted(rival / ours for rival, ours in times)
    tenth = len(ratios) // 10
    return Race(
        batch=batch,
        rival_ms=1e3 * median(rival for rival, _ in times),
        ours_ms=1e3 * median(ours for _, ours in times),
        ratio=median(ratios),
        low=ratios[tenth],
        high=ratios[-1 - tenth],
        rounds=len(ratios),
    )


def _time(function: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def _calls(function: Callable[[], object]) -> int:
    """How many calls fill one timing."""
    once = min(_time(function, 1) for _ in range(3))
    return max(1, round(MIN_ROUND_S / max(once, 1e-9)))
