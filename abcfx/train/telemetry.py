"""What happens inside the quantized layers while they train: one look an epoch, a row for each layer, and warnings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from abcfx.layers.functional import owns_weight
from abcfx.ops.weight_cache import fitted
from abcfx.packed import recipe_of
from abcfx.quant import activations

SAMPLE = 1 << 16  # inputs of a layer that are looked at
ZERO_SCALE = 1e-3  # |α_p| below this part of the channel's largest: the basis does nothing
# A layer is named in a warning beyond these. Learning rates that work flip a few percent of the signs in an epoch.
MANY_FLIPS, MANY_CHANNELS, MUCH_CLIPPED, NO_FLIPS = 0.25, 0.25, 0.25, 0.9999


class TrainingWarning(UserWarning):
    """A quantized layer does not use the bases it has."""


@dataclass
class _Seen:
    """bases  int8[M, O, k] at the last look        moved  bool[M, O, k], signs that have changed at any look"""

    bases: Tensor
    moved: Tensor


class Telemetry:
    """Looks at every quantized layer of `model` that owns its weight; what was seen is kept for the next look."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layers = {name: module for name, module in model.named_modules() if owns_weight(module)}
        self._seen: dict[str, _Seen] = {}
        self.look_at_weights()

    def look_at_weights(self) -> dict[str, dict[str, Any]]:
        """By layer: flips of each basis since the last look, and what is wrong with the bases (`weight_row`)."""
        rows = {}
        for name, layer in self.layers.items():
            with torch.no_grad():  # a look must not be a link in the chain of fits that training steps make
                bases, scales, _ = fitted(layer.weight, recipe_of(layer))
            seen = self._seen.get(name) or _Seen(bases, torch.zeros_like(bases, dtype=torch.bool))
            flipped = bases != seen.bases
            seen = self._seen[name] = _Seen(bases, seen.moved | flipped)
            rows[name] = weight_row(flipped, seen.moved, bases, scales)
        return rows

    def look(self, images: Tensor, epoch: int, forward: Callable[[Tensor], Any] | None = None) -> list[dict[str, Any]]:
        """A row for each layer, for telemetry.csv; layers in trouble are named in a TrainingWarning.

        images   one batch of training images, run through the model in eval mode
        """
        inputs = self._inputs(images, forward or self.model)
        rows = []
        for name, row in self.look_at_weights().items():
            row = {"epoch": epoch, "layer": name} | row
            if name in inputs:
                layer = self.layers[name]
                levels = layer.activation_scale.detach().float(), layer.activation_shift.detach().float()
                row |= input_row(inputs[name], *levels, layer.plan.activation_bases, layer.plan.levels)
            rows.append(row)
            for trouble in troubles(row):
                warnings.warn(f"{name}: {trouble}", TrainingWarning, stacklevel=2)
        return rows

    def _inputs(self, images: Tensor, forward: Callable[[Tensor], Any]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(layer: nn.Module, args: tuple) -> None:
                values = args[0].detach().float().reshape(-1)
                found[name] = values[:: -(-len(values) // SAMPLE)]

            return hook

        handles = [layer.register_forward_pre_hook(keep(name)) for name, layer in self.layers.items()]
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                forward(images)
        finally:
            self.model.train(training)
            for handle in handles:
                handle.remove()
        return found

    def state_dict(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {name: (seen.bases, seen.moved) for name, seen in self._seen.items()}

    def load_state_dict(self, state: dict[str, tuple[Tensor, Tensor]]) -> None:
        self._seen = {name: _Seen(*pair) for name, pair in state.items()}


def weight_row(flipped: Tensor, moved: Tensor, bases: Tensor, scales: Tensor) -> dict[str, float]:
    """flips and moved bool[M, O, k], bases ±1 int8[M, O, k], scales f32[M, O] → shares from 0 to 1:

    flip_p      signs of basis p that changed since the last look        dead_signs  signs that have never changed
    constant    (basis, channel) pairs that are all +1 or all -1
    collapsed   channels in which two bases are equal or opposite, or a scale is next to 0
    """
    planes = bases.float().transpose(0, 1)  # [O, M, k]
    depth = planes.shape[-1]
    gram = (planes @ planes.mT).abs() >= depth
    twins = (gram.sum((1, 2)) > gram.shape[-1]) & (depth > 1)
    idle = (scales.abs() <= ZERO_SCALE * scales.abs().amax(0)).any(0)
    flips = {f"flip_{p}": float(plane.float().mean()) for p, plane in enumerate(flipped, 1)}
    return flips | {
        "dead_signs": 1 - float(moved.float().mean()),
        "constant": float((planes.sum(-1).abs() == depth).float().mean()) if depth > 1 else 0.0,
        "collapsed": float((twins | idle).float().mean()),
    }


def input_row(x: Tensor, scale: Tensor, shift: Tensor, activation_bases: int, levels: str) -> dict[str, float]:
    """What the activation levels make of a sample of inputs, f32[n]:

    below, above   share under the lowest and over the highest level (coded), or threshold (thermometer): all are alike
    codes_used     share of the levels that occur        entropy_bits   of the level, at most log2(levels)
    """
    x = x[torch.isfinite(x)]
    if levels == "coded":
        count = 2**activation_bases
        codes = activations.codes(x, scale, shift, activation_bases).long()
        low, high = shift[0], shift[0] + scale[0] * (count - 1)
    else:
        count = activation_bases + 1
        codes = (activations.planes(x, scale, shift, activation_bases, levels) > 0).sum(0)
        low, high = (0.5 - shift).aminmax()
    shares = torch.bincount(codes, minlength=count).double() / max(1, len(x))
    entropy = -(shares * shares.clamp_min(1e-300).log2()).sum()
    return {
        "below": float((x < low).float().mean()),
        "above": float((x > high).float().mean()),
        "codes_used": float((shares > 0).double().mean()),
        "entropy_bits": float(entropy) + 0.0,
    }


def troubles(row: dict[str, Any]) -> list[str]:
    """What is wrong with a layer and what helps, a sentence each."""
    flips = max(value for key, value in row.items() if key.startswith("flip_"))
    still = row["dead_signs"] if row.get("epoch", 0) > 1 else 0.0
    checks = (
        (flips, MANY_FLIPS, "of the signs of a basis changed within an epoch: lower the learning rate"),
        (still, NO_FLIPS, "of the signs have not changed since the training began, so that the bases do not learn: "
         "raise the learning rate, or weight_rate"),
        (row["collapsed"], MANY_CHANNELS, "of the channels have two equal bases, or one that is zero: use a smaller M "
         "here (overrides), or basis='alternating'"),
        (row["constant"], MANY_CHANNELS, "of the (basis, channel) pairs have one sign only: use a smaller M here, or "
         "less weight decay"),
        (row.get("above", 0.0), MUCH_CLIPPED, "of the inputs lie above the highest level: calibrate again, or lower "
         "level_rate"),
        (1 - row.get("codes_used", 1.0), 0.5, "of the activation levels are never used: calibrate again, or use a "
         "smaller N here (overrides)"),
    )  # fmt: skip
    return [f"{value:.0%} {text}" for value, limit, text in checks if value > limit]
