"""Latency of functions that do the same, measured in turns in one process so that a busy machine disturbs all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

Call = Callable[[], object]
MIN_TURN_S = 0.004  # one turn covers at least this much work: far above the clock's resolution
MIN_ROUNDS = 5
FEW_ROUNDS = 3  # what a very slow entrant gets


@dataclass(frozen=True)
class Spread:
    """Median, and the middle 80 % from `low` to `high`, of `rounds` values."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        ordered = sorted(values)
        tenth = len(ordered) // 10
        return cls(median(ordered), ordered[tenth], ordered[-1 - tenth], len(ordered))

    def times(self, factor: float) -> Spread:
        return Spread(self.median * factor, self.low * factor, self.high * factor, self.rounds)


@dataclass
class Laps:
    """seconds[name][round] of one call; None in the rounds that an entrant sat out."""

    seconds: dict[str, list[float | None]] = field(default_factory=dict)

    def ms(self, name: str) -> Spread:
        return Spread.of([1e3 * lap for lap in self.seconds[name] if lap is not None])

    def ratio(self, rival: str, ours: str) -> Spread:
        """rival / ours in each round where both ran: above 1 ours is faster."""
        pairs = zip(self.seconds[rival], self.seconds[ours], strict=True)
        return Spread.of([r / o for r, o in pairs if r is not None and o is not None])


def run_laps(
    entrants: Mapping[str, Call],
    seconds: float,
    *,
    few: Collection[str] = (),
    before: Mapping[str, Call] | None = None,
    once: bool = False,
) -> Laps:
    """Time all entrants, which must be warm, in turns for about `seconds` and at least five rounds.

    few      entrants so slow that they only run in the first three rounds; the others do not wait for them
    before   what to call, untimed, in front of an entrant's turn, e.g. to set its number of threads
    once     one call a turn: where `before` must stand in front of every call
    """
    before = before or {}
    calls = {}
    for name, function in entrants.items():
        before.get(name, _nothing)()
        calls[name] = 1 if once or name in few else _calls(function)
    laps = Laps({name: [] for name in entrants})
    end = time.perf_counter() + seconds
    for count, order in enumerate(_orders(list(entrants))):
        if count >= MIN_ROUNDS and time.perf_counter() >= end:
            return laps
        for name in order:
            if count >= FEW_ROUNDS and name in few:
                laps.seconds[name].append(None)
                continue
            before.get(name, _nothing)()
            laps.seconds[name].append(_time(entrants[name], calls[name]))
    raise AssertionError("the orders never end")


def _orders(names: list[str]) -> Iterator[list[str]]:
    """Every entrant takes every place, with either neighbour in front of it: rotations, forwards and backwards."""
    count = 0
    while True:
        shift = count // 2 % len(names)
        rotated = names[shift:] + names[:shift]
        yield rotated if count % 2 else rotated[::-1]
        count += 1


@dataclass(frozen=True)
class Race:
    """Two entrants: medians in ms a call; ratio = rival / ours of each round, its median and middle 80 %."""

    batch: int
    rival_ms: float
    ours_ms: float
    ratio: float
    low: float
    high: float
    rounds: int


def race(rival: Call, ours: Call, batch: int, seconds: float = 2.0) -> Race:
    """Time the two in turns, for about `seconds` and at least five rounds; both must be warm."""
    laps = run_laps({"rival": rival, "ours": ours}, seconds)
    ratio = laps.ratio("rival", "ours")
    return Race(
        batch, laps.ms("rival").median, laps.ms("ours").median, ratio.median, ratio.low, ratio.high, ratio.rounds
    )


def rough_s(function: Call, times: int = 3) -> float:
    """The best of a few calls, in seconds."""
    return min(_time(function, 1) for _ in range(times))


def _nothing() -> None:
    pass


def _time(function: Call, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def _calls(function: Call) -> int:
    """How many calls fill one turn."""
    return max(1, round(MIN_TURN_S / max(rough_s(function), 1e-9)))
