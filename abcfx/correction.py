"""Correct the outputs of quantized layers in the order in which they run: ŷ = g·y + h (abcfx/quant/correction.py).

For each calibration batch the model runs twice: in float, where each layer notes what it returns at a few thousand
places; and quantized, where each layer compares its own output at the same places, updates its g and h, and passes on
the *corrected* output. So each layer is judged on inputs that are already repaired, and one sweep does what correcting
layer by layer, with a run of the model for each layer, would do.

Where weights have been replaced by fitted ones (abcfx/fitting.py) the float run is that of a copy made before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from abcfx.layers import ABCLayer
from abcfx.quant.correction import OutputMoments

Replay = Callable[[nn.Module], Any]  # runs a model on one batch
PLACES = 4096  # rows of each output that are compared: the gain is known to 1/√4096 after one batch


class Corrector:
    """What is known of one layer's outputs: moments over all batches, and the float rows of the batch under way."""

    def __init__(self, layer: ABCLayer, generator: torch.Generator) -> None:
        self.layer, self.generator = layer, generator
        self.moments = OutputMoments()
        self.noted: list[tuple[torch.Size, Tensor, Tensor]] = []  # shape, places and rows of each call in float

    def note(self, layer: ABCLayer, args: Any, output: Tensor) -> None:
        """Hook of the float run."""
        places = some_places(output, layer.channel_dim, PLACES, self.generator)
        self.noted.append((output.shape, places, rows_at(output, layer.channel_dim, places)))

    def correct(self, layer: ABCLayer, args: Any, output: Tensor) -> Tensor:
        """Hook of the quantized run. A call on another shape than in float (routing by data) is not compared."""
        if self.noted and self.noted[0][0] == output.shape:
            _, places, exact = self.noted.pop(0)
            self.moments.add(exact, rows_at(output, layer.channel_dim, places))
        if not self.moments.rows:
            return output
        layer.set_correction(*self.moments.affine())
        corrected = layer.correct(output)
        layer.set_correction(None, None)
        return corrected


def some_places(output: Tensor, channel_dim: int, most: int, generator: torch.Generator) -> Tensor:
    """`most` random positions for `rows_at`, fewer where the output has fewer; i64[r]."""
    rows = output.numel() // max(1, output.shape[channel_dim])
    return torch.randint(max(1, rows), (min(most, rows),), generator=generator)


def rows_at(output: Tensor, channel_dim: int, places: Tensor) -> Tensor:
    """f[r, channels] at flat positions over all dimensions but the channels'."""
    rows = output.detach().movedim(channel_dim, -1)
    if rows.dim() == 1:
        return rows.unsqueeze(0)[places.to(output.device)]
    return rows[torch.unravel_index(places.to(output.device), rows.shape[:-1])]


def correct_outputs(
    model: nn.Module,
    layers: Sequence[ABCLayer],
    replays: Iterable[Replay],
    reference: tuple[nn.Module, Sequence[ABCLayer]] | None = None,
) -> None:
    """Fit and set `output_gain` and `output_shift` of the layers of `model`.

    reference   a model whose outputs are exact, run in float, and its layers in the same order; by default `model`
    """
    exact_model, exact_layers = reference or (model, layers)
    generator = torch.Generator().manual_seed(0)
    correctors = [Corrector(layer, generator) for layer in layers]
    for layer in layers:
        layer.set_correction(None, None)
    for replay in replays:
        for corrector in correctors:
            corrector.noted.clear()
        with in_float(exact_layers), hooked(exact_layers, [corrector.note for corrector in correctors]):
            replay(exact_model)
        with hooked(layers, [corrector.correct for corrector in correctors]):
            replay(model)
    for corrector in correctors:
        if corrector.moments.rows:
            corrector.layer.set_correction(*corrector.moments.affine())


@contextmanager
def in_float(layers: Sequence[ABCLayer]) -> Iterator[None]:
    """Inside the block these layers compute in float."""
    for layer in layers:
        layer.observer = _ignore
    try:
        yield
    finally:
        for layer in layers:
            layer.observer = None


def _ignore(layer: ABCLayer, input: Tensor) -> None:
    """An observer that sees nothing: while a layer has one, it computes in float."""


@contextmanager
def hooked(layers: Sequence[ABCLayer], hooks: Sequence[Callable[..., Any]]) -> Iterator[None]:
    handles = [layer.register_forward_hook(hook) for layer, hook in zip(layers, hooks, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
