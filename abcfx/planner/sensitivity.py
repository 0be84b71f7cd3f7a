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

from abcfx.correction import PLACES, rows_at
from abcfx.plan import LayerPlan
from abcfx.planner.probes import Directions, directions, divergence, logits_of, places
from abcfx.planner.watch import Call, Levels, Watched
from abcfx.quant.correction import OutputMoments

Key = tuple[str, LayerPlan]
LevelsOf = Callable[[str, LayerPlan], Levels]
Tick = Callable[[], None]


@dataclass
class _Sums:
    """Of one layer and option: moments of the outputs, and P of each batch, f32[probes, samples, channels]."""

    moments: OutputMoments = field(default_factory=OutputMoments)
    products: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Sensitivity:
    """losses       (layer, plan) → rise of the loss, in nats per sample (or place)
    corrections  (layer, plan) → gain and shift per channel that were counted in
    """

    losses: Mapping[Key, float]
    corrections: Mapping[Key, tuple[Tensor, Tensor]]


def estimate(
    watched: Watched,
    batches: Iterable[Any],
    plans: Sequence[LayerPlan],
    levels: LevelsOf,
    loss: str = "kl",
    probes: int = 4,
    tick: Tick = lambda: None,
) -> Sensitivity:
    """The estimate above with `probes` directions; `tick` is called after each batch."""
    generator = torch.Generator().manual_seed(0)
    sums: dict[Key, _Sums] = {(name, plan): _Sums() for name in watched.layers for plan in plans}
    exact: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in watched.layers}  # (G, Y) of each batch
    along: list[Directions] = []
    count = 0
    for batch in batches:
        with torch.enable_grad(), watched.calls() as calls:
            z = logits_of(watched.run(batch))
        by_sample = all(len(c.output) == len(z) for seen in calls.values() for c in seen if c.output.dim() > 1)
        along.append(directions(z, loss, probes, by_sample, generator))
        gradients = _gradients(z, calls, along[-1].vectors)
        count += places(z)
        with torch.no_grad():
            for name, seen in calls.items():
                _add(watched, name, seen, gradients[name], len(z), sums, exact[name], plans, levels)
        tick()
    losses, corrections = {}, {}
    for (name, plan), found in sums.items():
        gain, shift = (value.float() for value in found.moments.affine())
        parts = zip(along, found.products, exact[name], strict=True)
        total = sum(way.loss(p @ gain + g @ shift - y.sum(-1)) for way, p, (g, y) in parts)
        losses[name, plan] = total / count
        corrections[name, plan] = gain, shift
    return Sensitivity(losses, corrections)


def _gradients(z: Tensor, calls: Mapping[str, list[Call]], vectors: Tensor) -> dict[str, list[Tensor]]:
    """name → Jᵀv at the output of each call, f[K, *output.shape]."""
    outputs = [call.output for seen in calls.values() for call in seen]
    found: list[list[Tensor]] = [[] for _ in outputs]
    for i, v in enumerate(vectors):
        some = torch.autograd.grad(z, outputs, v, retain_graph=i + 1 < len(vectors), allow_unused=True)
        for kept, output, gradient in zip(found, outputs, some, strict=True):
            kept.append(torch.zeros_like(output) if gradient is None else gradient)
    stacked = iter([torch.stack(each) for each in found])
    return {name: [next(stacked) for _ in seen] for name, seen in calls.items()}


def _add(
    watched: Watched, name: str, seen: Sequence[Call], gradients: Sequence[Tensor], samples: int,
    sums: Mapping[Key, _Sums], exact: list[tuple[Tensor, Tensor]], plans: Sequence[LayerPlan], levels: LevelsOf,
) -> None:  # fmt: skip
    """One batch of one layer: its sums in float, then those of each option."""
    layer = watched.layers[name]
    dim = layer.channel_dim
    folded = [_by_sample(g, samples, dim) for g in gradients]
    exact.append(
        (
            sum(f.sum(-1).permute(2, 0, 1) for f in folded),
            sum(_product(f, call.output, dim) for f, call in zip(folded, seen, strict=True)),
        )
    )
    generator = torch.Generator().manual_seed(0)
    chosen = [_some_places(call.output, dim, generator) for call in seen]
    for plan in plans:
        entry = sums[name, plan]
        with watched.trying(name, plan, levels(name, plan)) as tried:
            outputs = [tried.forward(*call.arguments) for call in seen]
        entry.products.append(sum(_product(f, o, dim) for f, o in zip(folded, outputs, strict=True)))
        for at, call, output in zip(chosen, seen, outputs, strict=True):
            entry.moments.add(rows_at(call.output, dim, at), rows_at(output, dim, at))


def _by_sample(gradient: Tensor, samples: int, dim: int) -> Tensor:
    """f32[probes, *output] → [samples, channels, probes, places]. Where the first dimension is not that of the samples
    (windows of an image, time first) the whole batch counts as one: as right on average, since probes of different
    samples are independent, and noisier.
    """
    rows = gradient.movedim(dim, 1)
    if rows.dim() == 2 or rows.shape[2] != samples:
        return rows.reshape(*rows.shape[:2], -1).transpose(0, 1).unsqueeze(0).float().contiguous()
    return rows.reshape(*rows.shape[:3], -1).permute(2, 1, 0, 3).float().contiguous()


def _product(folded: Tensor, output: Tensor, dim: int) -> Tensor:
    """Σ over places of g·y: f32[probes, samples, channels]."""
    rows = output.detach().movedim(dim, 0)
    rows = rows.transpose(0, 1) if len(folded) > 1 else rows.unsqueeze(0)
    rows = rows.reshape(*folded.shape[:2], -1, 1).float()
    return (folded @ rows).squeeze(-1).permute(2, 0, 1)


def _some_places(output: Tensor, dim: int, generator: torch.Generator) -> Tensor:
    rows = output.numel() // max(1, output.shape[dim])
    return torch.randint(max(1, rows), (min(PLACES, rows),), generator=generator)


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
