"""Before the race: build each form of a rival, check its output, warm it up, and let the fastest forms through."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from abcfx.bench.race import rough_s
from abcfx.bench.rivals import Call, Forms

WARM_UP = 3
# Forms this close to the fastest one of their kind all race: a few calls cannot tell them apart.
CLOSE = 1.25
# More than this many times slower than ours, and a race would mostly wait for it.
SLOW = 20.0


@dataclass(frozen=True)
class Form:
    """One way to run a rival: a warm call and its rough time, or the reason why it does not run."""

    name: str
    call: Call | None = None
    rough_ms: float | None = None
    reason: str | None = None


def run_heats(
    forms: Forms, shape: Sequence[int], ours_ms: float, tick: Callable[[str], None] = lambda name: None
) -> list[Form]:
    """Every form in its order; `shape` is what its output must have; `tick(form)` in front of each."""
    found = []
    for name, build in forms.items():
        tick(name)
        try:
            call = build()
            found.append(Form(name, call, _warm(call, shape, ours_ms)))
        except Exception as error:  # other people's code: whatever it raises is its reason, and is shown
            found.append(Form(name, reason=_reason(error)))
    return found


def fastest(heats: Sequence[Form]) -> list[Form]:
    """The forms worth racing: the fastest and whoever is close to it."""
    running = sorted((form for form in heats if form.rough_ms is not None), key=lambda form: form.rough_ms or 0)
    return [form for form in running if form.rough_ms <= CLOSE * running[0].rough_ms]


def is_slow(form: Form, ours_ms: float) -> bool:
    return form.rough_ms is not None and form.rough_ms > SLOW * ours_ms


def _warm(call: Call, shape: Sequence[int], ours_ms: float) -> float:
    """Rough ms of a call. The first one may compile; what is slow after that is not called again for warmth."""
    output = call()
    if tuple(output.shape) != tuple(shape):
        raise RuntimeError(f"its output has the shape {list(output.shape)}, not {list(shape)}")
    start = time.perf_counter()
    call()
    once = time.perf_counter() - start
    if once * 1e3 > SLOW * ours_ms and once > 0.05:
        return 1e3 * once
    for _ in range(WARM_UP - 2):
        call()
    return 1e3 * rough_s(call)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    text = " ".join((lines[0] if lines else "").split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def fresh_compiler() -> None:
    """Forget compiled forms: one code object holds eight of them, and the ninth would silently run eagerly."""
    torch.compiler.reset()
