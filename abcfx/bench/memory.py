"""Memory of a training step: what is kept between the forward and the backward pass, and the most that is in use.

    saved   bytes of the tensors that autograd keeps, each storage once; parameters and buffers are not counted
    peak    largest sum of allocations during a step, above what is allocated before it (gradients exist already)

Both are counted, not sampled: `saved` by hooks on every kept tensor, `peak` from the allocator's own events.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import abcfx
from abcfx.bench.contest import Tick
from abcfx.bench.heats import fresh_compiler
from abcfx.bench.training import Bases


@dataclass(frozen=True)
class StepMemory:
    """bytes; `bases` None: float."""

    form: str
    saved: int
    peak: int
    bases: Bases | None = None


@dataclass
class MemoryMeasurement:
    name: str
    title: str
    about: dict[str, Any]
    steps: list[StepMemory] = field(default_factory=list)


def measure_memory(name: str, model: nn.Module, x: Tensor, triples: Sequence[Bases], tick: Tick) -> MemoryMeasurement:
    """A step of the float model, eager and compiled, and of each quantized one, eager and compiled."""
    about = {"model": name, "input": list(x.shape), "batch": x.shape[0]}
    found = MemoryMeasurement(name, f"{name}, input {list(x.shape)}, memory of a training step", about)
    if x.dim() == 4:
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    models: list[tuple[str, Bases | None, Callable[[], nn.Module]]] = [("float", None, lambda: copy.deepcopy(model))]
    models += [(f"abcfx {bases}", bases, lambda bases=bases: _quantized(model, x, bases)) for bases in triples]
    for label, bases, make in models:
        for backend in (None, "inductor" if bases is None else "abc"):
            form = f"{label}, {'eager' if backend is None else 'compiled'}"
            tick(form)
            fresh_compiler()
            found.steps.append(StepMemory(form, *_measure(make().train(), x, backend), bases))
    return found


def _quantized(model: nn.Module, x: Tensor, bases: Bases) -> nn.Module:
    quantized = abcfx.quantize_model(model, bases.M, bases.N, basis="greedy", grad_bases=bases.K)
    return abcfx.calibrate(quantized, [x[:16]], progress=False)


def _measure(model: nn.Module, x: Tensor, backend: str | None) -> tuple[int, int]:
    """(saved, peak) in bytes. Every step of a form runs under the hooks: without them it would be compiled again."""
    run = model if backend is None else torch.compile(model, backend=backend, dynamic=False)
    labels = torch.zeros(x.shape[0], dtype=torch.int64)
    owned = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), x)}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def step() -> int:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = nn.functional.cross_entropy(run(x), labels)
        saved = sum(kept.values())
        loss.backward()
        return saved

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        saved = step()
    return saved, _peak(profiler)


def _peak(profiler: profile) -> int:
    """The largest running sum of the allocator's events."""
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    total = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        total += event.nbytes()
        most = max(most, total)
    return most
