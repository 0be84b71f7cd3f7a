"""A training step against the same step in float: the three products of one layer, its step, and that of a whole model.

    forward       y = product(x̂, Ŵ)    from f32: packing and the bits kept for the backward pass included
    grad_input    from dy: rounding to K planes and packing included (K = 0: the float product on Ŵ)
    grad_weight   likewise, from the bits of the forward pass
    step          forward, backward and an SGD update, in which the weight bases are fitted anew
    simulated     the same with dense products of quantized values, in bf16 autocast (passes/simulate.py)

Float rivals run in channels_last, eager and compiled; the faster counts. Nothing of a step is left out on either side.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import _set_fwd_grad_enabled

import abcfx
from abcfx.bench.contest import Tick
from abcfx.bench.heats import Form, fastest, fresh_compiler, run_heats
from abcfx.bench.race import Laps, Spread, rough_s, run_laps
from abcfx.bench.workloads import ConvShape, levels_for
from abcfx.ops.schema import Geometry
from abcfx.plan import LayerPlan

STEP, SIMULATED = "step", "simulated step"
PRODUCTS = ("forward", "grad_input", "grad_weight")
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
RATE = 1e-3  # of the SGD update; no time depends on it
abc, aten = torch.ops.abc, torch.ops.aten


class Bases(NamedTuple):
    """(M, N, K): planes of weights, activations and gradients; K = 0 keeps gradients in float."""

    M: int
    N: int
    K: int

    def __str__(self) -> str:
        return f"{self.M},{self.N},{self.K}"


@dataclass(frozen=True)
class Entry:
    """ms of one call; ratios: kind → rival / ours in the same round, above 1 ours is faster."""

    bases: Bases
    part: str
    ms: Spread
    ratios: dict[str, Spread]


@dataclass
class TrainingMeasurement:
    name: str
    title: str
    about: dict[str, Any]
    rivals: dict[str, dict[str, Any]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)


def measure_products(
    shape: ConvShape, triples: Sequence[Bases], kinds: Sequence[str], seconds: float, tick: Tick
) -> TrainingMeasurement:
    """The three products of a convolution, each against the float one in eager mode, which calls oneDNN directly."""
    about = {"shape": str(shape), "batch": shape.batch, "threads": torch.get_num_threads()}
    found = TrainingMeasurement(shape.name, f"{shape}, products of a training step", about)
    workload = shape.workload()
    x, weight = workload.input("channels_last"), workload.weight.detach().requires_grad_()
    geometry = Geometry([shape.stride] * 2, [shape.padding] * 2, [1, 1], False, [0, 0], 1)
    dy = torch.randn_like(_channels_last(aten.convolution(x, weight, None, *geometry)))
    entrants: dict[str, Callable[[], object]] = {}
    for kind in kinds:
        entrants |= {f"{kind} {part}": call for part, call in _float_products(x, weight, dy, geometry, kind).items()}
    for bases in triples:
        entrants |= {f"{bases} {part}": call for part, call in _our_products(x, weight, dy, geometry, bases).items()}
    tick("racing")
    with torch.no_grad(), _set_fwd_grad_enabled(False):  # as inside an autograd.Function: one fit a step
        for call in entrants.values():
            call()
        laps = run_laps(entrants, seconds)
    found.rivals = {kind: {part: laps.ms(f"{kind} {part}").median for part in PRODUCTS} for kind in kinds}
    found.entries = [
        Entry(bases, part, laps.ms(f"{bases} {part}"),
              {kind: laps.ratio(f"{kind} {part}", f"{bases} {part}") for kind in kinds})
        for bases in triples for part in PRODUCTS
    ]  # fmt: skip
    return found


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _float_products(
    x: Tensor, weight: Tensor, dy: Tensor, geometry: Geometry, kind: str
) -> dict[str, Callable[[], object]]:
    x, weight, dy = (_channels_last(t.to(DTYPES[kind])) for t in (x, weight, dy))

    def backward(*mask: bool) -> Callable[[], object]:
        return lambda: aten.convolution_backward(dy, x, weight, None, *geometry, list(mask))

    forward = lambda: aten.convolution(x, weight, None, *geometry)  # noqa: E731
    return {
        "forward": forward, "grad_input": backward(True, False, False), "grad_weight": backward(False, True, False),
    }  # fmt: skip


def _our_products(
    x: Tensor, weight: Tensor, dy: Tensor, geometry: Geometry, bases: Bases
) -> dict[str, Callable[[], object]]:
    """As the rows of passes/adjoint.py call them; the fit of the weight bases is part of a step, not of a product."""
    plan = LayerPlan(bases.M, bases.N, "greedy", grad_bases=bases.K)
    scale, shift = levels_for(bases.N)
    seed = torch.zeros(1, dtype=torch.int64) if bases.K else None
    ends = (*geometry, *plan.op_arguments())
    where = list(x.shape), True, torch.float32

    def forward() -> Tensor:
        planes, _windows = abc.save_activation(x, scale, shift, list(weight.shape), *geometry, bases.N, "coded")
        return abc.product(planes, weight, None, scale, shift, *where, *ends)

    planes, windows = abc.save_activation(x, scale, shift, list(weight.shape), *geometry, bases.N, "coded")

    def grad_input() -> object:
        dx = abc.input_adjoint(dy, weight, *where, seed, *ends)
        return abc.activation_adjoint(dx, windows, scale, shift, bases.N, "coded")

    def grad_weight() -> Tensor:
        return abc.weight_adjoint(dy, planes, scale, shift, list(weight.shape), *where, seed, *ends)

    return {"forward": forward, "grad_input": grad_input, "grad_weight": grad_weight}


def measure_step(
    name: str, model: nn.Module, x: Tensor, triples: Sequence[Bases], kinds: Sequence[str], seconds: float, tick: Tick,
    simulate: bool = False,
) -> TrainingMeasurement:  # fmt: skip
    """A whole training step of a model that maps images to logits: loss, backward and update; with `simulate` also in
    dense products for each K = 0.

    Raises ValueError or RuntimeError as the model does on `x`.
    """
    about = {"model": name, "input": list(x.shape), "batch": x.shape[0], "threads": torch.get_num_threads()}
    found = TrainingMeasurement(name, f"{name}, input {list(x.shape)}, whole training step", about)
    if x.dim() == 4:
        model, x = model.to(memory_format=torch.channels_last), _channels_last(x)
    labels = torch.zeros(x.shape[0], dtype=torch.int64)
    fresh_compiler()
    ours = {}
    for bases in triples:
        tick(f"{bases}: calibrating and compiling")
        quantized = abcfx.quantize_model(model, bases.M, bases.N, grad_bases=bases.K)
        abcfx.calibrate(quantized, [x[:32]], progress=False)
        for part in (STEP, SIMULATED) if simulate and not bases.K else (STEP,):
            call = ours[bases, part] = _step(copy.deepcopy(quantized), x, labels, "abc", part == SIMULATED)
            call()
    rough_ms = min(1e3 * rough_s(call) for call in ours.values())
    heats: dict[str, list[Form]] = {}
    for kind in kinds:
        forms = {
            "eager": lambda kind=kind: _step(copy.deepcopy(model).to(DTYPES[kind]), x.to(DTYPES[kind]), labels),
            "compiled": lambda kind=kind: _step(
                copy.deepcopy(model).to(DTYPES[kind]), x.to(DTYPES[kind]), labels, "inductor"
            ),
        }
        heats[kind] = run_heats(forms, (), rough_ms, lambda form, kind=kind: tick(f"{kind} {form}"))
    tick("racing")
    rivals = {kind: fastest(forms)[:1] for kind, forms in heats.items()}
    entrants: dict[str, Callable[[], object]] = {f"{bases} {part}": call for (bases, part), call in ours.items()}
    entrants |= {kind: forms[0].call for kind, forms in rivals.items() if forms}
    laps = run_laps(entrants, seconds)
    found.rivals = {kind: _facts(kind, forms, laps) for kind, forms in heats.items()}
    racing = [kind for kind, forms in rivals.items() if forms]
    found.entries = [
        Entry(b, part, laps.ms(f"{b} {part}"), {kind: laps.ratio(kind, f"{b} {part}") for kind in racing})
        for b, part in ours
    ]
    return found


def _facts(kind: str, forms: Sequence[Form], laps: Laps) -> dict[str, Any]:
    facts: dict[str, Any] = {form.name: form.reason if form.rough_ms is None else form.rough_ms for form in forms}
    return facts | (dict.fromkeys((STEP, SIMULATED), laps.ms(kind).median) if kind in laps.seconds else {})


def _step(
    model: nn.Module, x: Tensor, labels: Tensor, backend: str | None = None, simulate: bool = False
) -> Callable[[], Tensor]:
    """One SGD step with momentum, as a call that returns the loss."""
    model.train()
    options = {"simulate": True} if simulate else None
    run = model if backend is None else torch.compile(model, backend=backend, dynamic=False, options=options)
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9)

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=simulate):
            output = run(x)
        loss = nn.functional.cross_entropy(output.float(), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
