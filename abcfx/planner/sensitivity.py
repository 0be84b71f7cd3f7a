"""What quantizing one layer does to the loss of the model, for every layer and every option.

estimate   the loss at the logits z + J·δy of the network linearized behind the layer,   δy = ŷ - y

y   what the layer returns in float     ŷ   what it returns quantized on the same input, its output corrected per
    channel as calibration does (abcfx/quant/correction.py)

Directions v of the logits (probes.py) give v·Jδy = g·δy with g = Jᵀv, by a few backward runs for all layers and
options. So the error of a layer counts for what the rest of the network makes of it; a weight error alone says nothing
of that. Per channel c and sample, P = Σ g·ŷ, G = Σ g and Y = Σ g·y are kept, since the correction ŷ → a_c·ŷ + h_c is
known only after the last batch:  g·δy = Σ_c (a_c·P_c + h_c·G_c - Y_c).

Linear is the network only; the quantized layer and the loss are not. `measure_exactly` runs the model once for each
layer and option instead; docs/planner.md compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from abcfx.correction import PLACES, rows_at, some_places
from abcfx.plan import LayerPlan
from abcfx.planner.probes import Directions, directions, divergence, logits_of, places
from abcfx.planner.watch import Call, Levels, Watched
from abcfx.quant.correction import OutputMoments

Key = tuple[str, LayerPlan]
LevelsOf = Callable[[str, LayerPlan], Levels]
Tick = Callable[[], None]

PER_PASS = 10  # options whose outputs are held at once
LEAST_PLACES = 512  # rows of a batch that a correction is fitted to; of all batches together PLACES


@dataclass
class _Sums:
    """Of one layer and option: moments of the outputs, and P of each batch, f32[probes, samples, channels]."""

    moments: OutputMoments = field(default_factory=OutputMoments)
    products: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Sensitivity:
    """losses       (layer, plan) → rise of the loss, in nats per sample (or place)
    corrections  (layer, plan) → gain and shift per channel that were counted in
    probes       how many directions it took
    """

    losses: Mapping[Key, float]
    corrections: Mapping[Key, tuple[Tensor, Tensor]]
    probes: int


def estimate(
    watched: Watched,
    batches: Iterable[Any],
    plans: Sequence[LayerPlan],
    levels: LevelsOf,
    loss: str = "kl",
    probes: int | None = None,
    tick: Tick = lambda: None,
) -> Sensitivity:
    """The estimate above with `probes` directions (probes.py); `tick` is called after each batch."""
    generator = torch.Generator().manual_seed(0)
    sums: dict[Key, _Sums] = {(name, plan): _Sums() for name in watched.layers for plan in plans}
    exact: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in watched.layers}  # (G, Y) of each batch
    along: list[Directions] = []
    count = 0
    dims = {name: layer.channel_dim for name, layer in watched.layers.items()}
    gradients: dict[str, list[Tensor]] = {}
    batches = list(batches)
    rows = max(LEAST_PLACES, PLACES // max(1, len(batches)))
    for batch in batches:
        with torch.enable_grad(), watched.calls() as calls:
            z = logits_of(watched.run(batch))
        by_sample = all(len(c.output) == len(z) for seen in calls.values() for c in seen if c.output.dim() > 1)
        along.append(directions(z, loss, probes, by_sample, generator))
        gradients = _gradients(z, calls, along[-1].vectors, dims, gradients)
        count += places(z)
        with torch.no_grad():
            for name, seen in calls.items():
                _add(watched, name, seen, gradients[name], len(z), rows, sums, exact[name], plans, levels)
        tick()
    losses, corrections = {}, {}
    for (name, plan), found in sums.items():
        gain, shift = (value.float() for value in found.moments.affine())
        parts = zip(along, found.products, exact[name], strict=True)
        total = sum(way.loss(p @ gain + g @ shift - y.sum(-1)) for way, p, (g, y) in parts)
        losses[name, plan] = total / count
        corrections[name, plan] = gain, shift
    return Sensitivity(losses, corrections, len(along[0].vectors))


def _gradients(
    z: Tensor, calls: Mapping[str, list[Call]], vectors: Tensor, dims: Mapping[str, int],
    last: Mapping[str, list[Tensor]],
) -> dict[str, list[Tensor]]:  # fmt: skip
    """name → Jᵀv at the output of each call, by sample: f32[samples, channels, K, places].

    They are written over those of the last batch if they are as large: fresh memory of this size takes seconds.
    """
    found, kept = {}, []
    for name, seen in calls.items():
        before = last.get(name, [])
        found[name] = []
        for i, call in enumerate(seen):
            samples, channels, places = by_sample(call.output, len(z), dims[name]).shape
            shape = (samples, channels, len(vectors), places)
            fits = i < len(before) and before[i].shape == shape
            found[name].append(before[i] if fits else torch.empty(shape, device=call.output.device))
            kept.append((found[name][-1], dims[name]))
    outputs = [call.output for seen in calls.values() for call in seen]
    for i, v in enumerate(vectors):
        some = torch.autograd.grad(z, outputs, v, retain_graph=i + 1 < len(vectors), allow_unused=True)
        for (place, dim), gradient in zip(kept, some, strict=True):
            place[:, :, i] = 0 if gradient is None else by_sample(gradient, len(z), dim)
    return found


def _add(
    watched: Watched, name: str, seen: Sequence[Call], gradients: Sequence[Tensor], samples: int, rows: int,
    sums: Mapping[Key, _Sums], exact: list[tuple[Tensor, Tensor]], plans: Sequence[LayerPlan], levels: LevelsOf,
) -> None:  # fmt: skip
    """One batch of one layer: its sums in float, then those of each option, PER_PASS options at a time."""
    dim = watched.layers[name].channel_dim
    floats = [by_sample(call.output, samples, dim) for call in seen]
    total = sum(g.sum(-1).permute(2, 0, 1) for g in gradients)
    exact.append((total, products(gradients, [y.unsqueeze(0) for y in floats])[0]))
    generator = torch.Generator().manual_seed(0)
    chosen = [some_places(call.output, dim, rows, generator) for call in seen]
    wanted = [rows_at(call.output, dim, at).double() for call, at in zip(seen, chosen, strict=True)]
    for first in range(0, len(plans), PER_PASS):
        some = plans[first : first + PER_PASS]
        outputs = [torch.empty(len(some), *y.shape, device=y.device) for y in floats]
        for i, plan in enumerate(some):
            with watched.trying(name, plan, levels(name, plan)) as tried:
                for kept, call, at, right in zip(outputs, seen, chosen, wanted, strict=True):
                    output = tried.forward(*call.arguments)
                    for sample, values in zip(kept[i], by_sample(output, samples, dim), strict=True):
                        sample.copy_(values)  # one at a time: PyTorch transposes matrices fast, not more dimensions
                    sums[name, plan].moments.add(right, rows_at(output, dim, at))
        for plan, product in zip(some, products(gradients, outputs), strict=True):
            sums[name, plan].products.append(product)


def by_sample(value: Tensor, samples: int, dim: int) -> Tensor:
    """What a layer returns, channels in `dim` → f[samples, channels, places], a view where that can be.

    Where the first dimension is not that of the samples (windows of an image, time first) the whole batch counts as
    one: as right on average, since probes of different samples are independent, and noisier.
    """
    rows = value.detach().movedim(dim, 0)
    if rows.dim() == 1 or rows.shape[1] != samples:
        return rows.reshape(len(rows), -1).unsqueeze(0)
    return rows.reshape(*rows.shape[:2], -1).transpose(0, 1)


def products(gradients: Sequence[Tensor], outputs: Sequence[Tensor]) -> Tensor:
    """Σ over places and calls of g·y: f32[options, probes, samples, channels].

    gradients  of each call, f32[samples, channels, probes, places]    outputs  f32[options, samples, channels, places]

    All probes with all options in one product, so that the gradients, the largest of all, are read once.
    """
    pairs = zip(gradients, outputs, strict=True)
    return sum((y.float().permute(1, 2, 0, 3) @ g.mT).permute(2, 3, 0, 1) for g, y in pairs)


def measure_exactly(
    watched: Watched,
    batches: Sequence[Any],
    found: Sensitivity,
    levels: LevelsOf,
    loss: str = "kl",
    tick: Tick = lambda: None,
) -> dict[Key, float]:
    """The loss itself with one layer quantized, levels and corrections as in `found`; `tick` comes after each run."""
    losses = {}
    with torch.no_grad():
        exact = [logits_of(watched.run(batch)) for batch in batches]
        count = sum(places(z) for z in exact)
        for name, plan in found.losses:
            with watched.trying(name, plan, levels(name, plan)) as layer:
                layer.set_correction(*found.corrections[name, plan])
                some = (divergence(z, logits_of(watched.run(b)), loss) for b, z in zip(batches, exact, strict=True))
                losses[name, plan] = sum(some) / count
            tick()
    return losses
