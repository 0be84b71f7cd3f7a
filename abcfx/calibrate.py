"""Fit the activation levels of a quantized model to real activations.

For each layer: minimize over (scale, shift) E(x − x̂(x))² on a sample of the inputs it meets while the model runs in
float. A layer that is not calibrated refuses to run: the paper's original implementation lost 75 points of accuracy by
skipping this step. Then the first few batches run again, and the output of each layer is corrected per channel: with
(M, N) = (3, 3) that takes the CIFAR-10 ResNet-20 from 77 to 88 % without any training (examples/resnet20_grid.py).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn

from abcfx.correction import correct_outputs
from abcfx.fitting import fit_weights, require_method, warn_of_fitted_weights
from abcfx.layers import ABCLayer
from abcfx.ops import level_fit

SAMPLES_PER_BATCH = 1 << 15
SAMPLES = 1 << 18
CORRECTED_BATCHES = 8  # kept in memory until the block ends


class Sampler:
    """A bounded, deterministic sample of everything that was seen: the rate halves each time the store is full."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.kept: list[Tensor] = []
        self.per_batch = SAMPLES_PER_BATCH

    @torch.compiler.disable
    def __call__(self, layer: ABCLayer, input: Tensor) -> None:
        self.observe(layer.abc_name, input)

    def observe(self, name: str, input: Tensor) -> None:
        """Keep some of the values; ValueError naming the layer if any is NaN or infinite."""
        values = input.detach().reshape(-1)
        if values.is_meta:
            raise ValueError(f"{name}: a model on the meta device has no values to calibrate with")
        if values.numel() == 0:
            return
        if not torch.isfinite(values).all():
            bad = int((~torch.isfinite(values)).sum())
            raise ValueError(
                f"{name}: {bad} of {values.numel()} input values are NaN or infinite while calibrating; "
                f"look at the batches, or at the layer before this one"
            )
        if values.numel() > self.per_batch:
            index = torch.randint(values.numel(), (self.per_batch,), generator=self.generator)
            values = values[index.to(values.device)]
        self.kept.append(values.float().cpu())
        if sum(len(part) for part in self.kept) > SAMPLES:
            self.kept = [part[::2] for part in self.kept]
            self.per_batch = max(1, self.per_batch // 2)

    def samples(self) -> Tensor:
        return torch.cat(self.kept) if self.kept else torch.empty(0)


@contextmanager
def calibration(model: nn.Module, *, correct: bool = True, fit: str = "error") -> Iterator[nn.Module]:
    """Inside the block quantized layers compute in float and sample their inputs; at its end the levels are fitted.

        with abcfx.calibration(qmodel):
            for x, _ in loader:
                qmodel(x)

    correct  then run the first few batches again and correct each layer's output per channel (abcfx/correction.py)
    fit      what the weights are fitted to, as in `calibrate`

    If the block raises, the model is left as it was. Layers that saw no data stay as they were; a warning names them.
    Raises ValueError if the model has no quantized layer, or if no layer saw any data.
    """
    with _fitting(model, correct, fit, progress=False):
        yield model


@contextmanager
def _fitting(model: nn.Module, correct: bool, fit: str, progress: bool | None) -> Iterator[None]:
    require_method(fit)
    root = _unwrap(model)
    layers = [module for module in root.modules() if isinstance(module, ABCLayer)]
    if not layers:
        raise ValueError("nothing to calibrate: the model has no quantized layer (abcfx.quantize_model makes them)")
    warn_of_fitted_weights(root)
    replays: list[tuple[tuple, dict]] = []
    hook = root.register_forward_pre_hook(
        lambda _, args, kwargs: replays.append((args, kwargs)) if len(replays) < CORRECTED_BATCHES else None,
        with_kwargs=True,
    )
    for layer in layers:
        layer.observer = Sampler()
    try:
        yield
        sampled = {layer: layer.observer.samples() for layer in layers}
    finally:
        hook.remove()
        for layer in layers:
            layer.observer = None
    _fit(sampled)
    runs = [lambda model, args=args, kwargs=kwargs: model(*args, **kwargs) for args, kwargs in replays]
    if correct:
        with evaluating(root), torch.no_grad():
            correct_outputs(root, [layer for layer in layers if layer.calibrated], runs)
    if fit != "error":
        with evaluating(root), torch.no_grad():
            fit_weights(root, runs, fit, correct=correct, progress=progress)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; then the mode of each module is as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _fit(sampled: dict[ABCLayer, Tensor]) -> None:
    unseen = [layer.abc_name for layer, samples in sampled.items() if samples.numel() == 0]
    if len(unseen) == len(sampled):
        raise ValueError("calibration saw no data: run the model on at least one batch inside the block")
    for layer, samples in sampled.items():
        if samples.numel():
            layer.set_levels(*level_fit.fit(samples, layer.plan.activation_bases, layer.plan.levels))
    if unseen:
        warnings.warn(f"no calibration data reached: {', '.join(unseen)}; these layers are unchanged", stacklevel=4)


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    max_batches: int | None = None,
    correct: bool = True,
    fit: str = "error",
    progress: bool | None = None,
) -> nn.Module:
    """Run `batches` through the model in eval mode, in float, and fit the activation levels. Returns the model.

    A batch is a tensor, a dict of keyword arguments, or a tuple or list whose first element is the input (a
    DataLoader's (input, label)); `forward(model, batch)` handles any other form. A few hundred images or a few thousand
    tokens are enough.
    correct   then correct each layer's output per channel on the first batches (abcfx/correction.py)
    fit       "error": the weights stay as they are, and are quantized with least squared error of their own.
              "moments" or "compensate": the first batches also decide the bases and scales, so that the error of each
              layer's *output* is small; the float weights of the quantized model become the fitted ones
              (docs/fitting.md). 1 to 7 points better on ResNet-20 at 2 and 3 bases, no better where outputs are near to
              float already. `abcfx.fit_report(model)` has the gain of each layer
    progress  show a bar; by default only on a terminal

    Raises ValueError without batches or quantized layers, for an unknown `fit`,
    and for NaN or infinite activations (naming the layer).
    """
    root = _unwrap(model)
    with evaluating(root), torch.no_grad(), _fitting(root, correct, fit, progress):
        for batch in _bounded(batches, max_batches, progress):
            forward(root, batch) if forward else run_batch(root, batch)
    return model


def run_batch(model: nn.Module, batch: Any) -> Any:
    """model(input) for the usual forms of a batch: tensor, mapping, (input, label)."""
    if isinstance(batch, Tensor):
        return model(batch)
    if hasattr(batch, "keys"):
        return model(**batch)
    if isinstance(batch, (tuple, list)) and batch:
        return model(batch[0])
    raise ValueError(f"cannot feed a batch of type {type(batch).__name__}; pass forward=lambda model, batch: ...")


def _bounded(batches: Iterable[Any], max_batches: int | None, progress: bool | None) -> Iterator[Any]:
    total = len(batches) if hasattr(batches, "__len__") else None
    if max_batches is not None:
        total = max_batches if total is None else min(total, max_batches)
    shown = sys.stderr.isatty() if progress is None else progress
    bar = track(batches, "calibrating", total=total, disable=not shown, transient=True)
    for i, batch in enumerate(bar):
        if max_batches is not None and i >= max_batches:
            return
        yield batch


def _unwrap(model: nn.Module) -> nn.Module:
    """The module behind torch.compile."""
    return getattr(model, "_orig_mod", model)
