"""Fit the weights of a calibrated model to the data that its layers see, in the order in which they run.

A layer sees inputs x̂ that are quantized, and in error from the layers before. So the weight of a layer is fitted at the
moment when the first batch reaches it, after those of all layers before it, and the batch goes on with what the fitted
layer returns: one pass over the data does what fitting layer by layer, with a run of the model for each, would do. The
other batches add to the moments, and all layers are fitted once more to what all batches say.

Bases and scales are those of small Tr((W - Ŵ) S (W - Ŵ)ᵀ), S = E[x̂ x̂ᵀ] (abcfx/quant/moments.py). Moments are centered:
a constant error goes into the output shift (abcfx/correction.py), which is fitted again here. Exact weights and
outputs are those of a float copy of the model.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from abcfx.correction import Replay, correct_outputs, hooked, in_float
from abcfx.layers import ABCLayer
from abcfx.layers.windows import has_windows
from abcfx.moments import LayerMoments, rows_of_weight
from abcfx.ops.warm_start import limit_of
from abcfx.ops.weight_fit import fit_bases
from abcfx.plan import SEARCHED
from abcfx.quant.moments import METHODS, fit_to_moments
from abcfx.quant.weights import dequantize_bases

LEAST_ROWS = 64  # of x̂; fewer say nothing about the correlations of hundreds of inputs


@dataclass(frozen=True)
class LayerFit:
    """What fitting did to one layer.

    before, after   E|y - ŷ|² / Var(y) over its outputs, on calibration data, with the plain and with the fitted weight
    reason          why its weight was left as it was, else None
    """

    name: str
    before: float | None = None
    after: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class FitReport:
    """What `calibrate(fit=...)` did: `method`, and a LayerFit for each quantized layer; `print` shows a table."""

    method: str
    layers: tuple[LayerFit, ...]

    def __rich__(self) -> Table:
        table = Table(title=f'weights fitted by "{self.method}": error of the outputs, relative')
        for heading in ("layer", "plain", "fitted", ""):
            table.add_column(heading, justify="left" if heading in ("layer", "") else "right")
        for layer in self.layers:
            numbers = [f"{value:.4f}" if value is not None else "" for value in (layer.before, layer.after)]
            table.add_row(layer.name, *numbers, layer.reason or "")
        return table

    def __str__(self) -> str:
        width = max((len(layer.name) for layer in self.layers), default=0)
        lines = [f'weights fitted by "{self.method}": relative error of the outputs, plain → fitted']
        for layer in self.layers:
            what = layer.reason or f"{layer.before:.4f} → {layer.after:.4f}"
            lines.append(f"{layer.name:<{width}}  {what}")
        return "\n".join(lines)


def fit_report(model: nn.Module) -> FitReport:
    """What `abcfx.calibrate(model, ..., fit=...)` did to each layer. ValueError if the model was not fitted so."""
    report = getattr(getattr(model, "_orig_mod", model), "_abcfx_fit", None)
    if report is None:
        raise ValueError('no weights were fitted to data: abcfx.calibrate(model, batches, fit="compensate") does that')
    return report


def require_method(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"fit must be one of {', '.join(METHODS)}, got {method!r}")


def warn_of_fitted_weights(model: nn.Module) -> None:
    """To be called when a model is calibrated once more: fitting has replaced its float weights for good."""
    report = getattr(model, "_abcfx_fit", None)
    if report is not None:
        warnings.warn(
            f'the weights of this model were fitted to data before (fit="{report.method}"), and its float weights are '
            f"gone: this calibration starts from the fitted ones and compares with them. For a fresh start, quantize "
            f"the float model again with abcfx.quantize_model and calibrate that",
            stacklevel=5,
        )


class Fitter:
    """One layer while its weight is fitted: `exact` is the layer with the float weight, `layer` that of the model."""

    def __init__(
        self, layer: ABCLayer, exact: ABCLayer, method: str, correct: bool, generator: torch.Generator
    ) -> None:
        self.layer, self.method, self.correct = layer, method, correct
        self.moments = LayerMoments(layer, generator)
        self.weight = rows_of_weight(layer, exact.weight)
        plan = layer.plan
        self.plain = fit_bases(self.weight.flatten(0, 1), plan.weight_bases, plan.basis, plan.per_channel)
        self.found = LayerFit(layer.abc_name, reason="no calibration data reached it")

    def run(self, layer: ABCLayer, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Hook of the quantized run: take the moments; at the first call fit, and return what the layer now gives."""
        first = not self.moments.rows
        if not self.moments.observe(args[0], output) or not first:
            return output
        self.fit()
        return layer.forward(*args) if self.found.reason is None else output

    def fit(self) -> None:
        """Fit the weight to the moments so far, and the output correction for the layers that come after."""
        if self.moments.rows < LEAST_ROWS:
            if self.moments.rows:
                reason = f"only {self.moments.rows} rows of data reached it, {LEAST_ROWS} are needed"
                self.found = LayerFit(self.layer.abc_name, reason=reason)
            return
        plan, w = self.layer.plan, self.weight
        covariance = self.moments.centered()[0]
        fitted = fit_to_moments(
            w, covariance, plan.weight_bases, self.method, plan.per_channel, self.plain, plan.basis
        )
        rows = w.flatten(0, 1).unsqueeze(1) if plan.per_channel else w.reshape(1, 1, -1)
        limit = limit_of(rows, self.plain[0].view(-1, *rows.shape), self.plain[1][:, : len(rows)])
        plain, new = (dequantize_bases(*fit).view_as(w) for fit in (self.plain, fitted))
        self.layer.set_weight(*fitted, limit)
        if self.correct:
            self.layer.set_correction(*self.moments.correction(new, self.layer.bias))
        self.found = LayerFit(self.layer.abc_name, self.moments.error(plain), self.moments.error(new))


def fit_weights(
    model: nn.Module,
    replays: Sequence[Replay],
    method: str = "compensate",
    *,
    correct: bool = True,
    progress: bool | None = False,
) -> FitReport:
    """Fit and set the weights of the quantized layers of a calibrated model in eval mode; correct their outputs again.

    replays  each runs a model on one batch

    Layers that cannot be fitted keep their weight; the report has the reason.
    """
    layers = [module for module in model.modules() if isinstance(module, ABCLayer) and module.calibrated]
    reasons = reasons_against(model, layers)
    exact = copy.deepcopy(model)
    twins = {a: b for a, b in zip(model.modules(), exact.modules(), strict=True) if isinstance(a, ABCLayer)}
    generator = torch.Generator().manual_seed(0)
    fitters = [Fitter(layer, twins[layer], method, correct, generator) for layer in layers if layer not in reasons]
    chosen = [fitter.layer for fitter in fitters]
    shown = sys.stderr.isatty() if progress is None else progress
    for replay in track(replays, "fitting weights", disable=not shown, transient=True):
        for fitter in fitters:
            fitter.moments.noted.clear()
        exact_chosen = [twins[layer] for layer in chosen]
        with in_float(list(twins.values())), hooked(exact_chosen, [fitter.moments.note for fitter in fitters]):
            replay(exact)
        with hooked(chosen, [fitter.run for fitter in fitters]):
            replay(model)
    if len(replays) > 1:
        for fitter in fitters:
            fitter.fit()
    if correct:
        correct_outputs(model, layers, replays, (exact, [twins[layer] for layer in layers]))
    done = {fitter.layer: fitter.found for fitter in fitters}
    found = [done.get(layer) or LayerFit(layer.abc_name, reason=reasons[layer]) for layer in layers]
    model._abcfx_fit = FitReport(method, tuple(found))
    return model._abcfx_fit


def reasons_against(model: nn.Module, layers: Sequence[ABCLayer]) -> dict[ABCLayer, str]:
    """Why weights cannot be fitted to moments, for the layers where that is so."""
    users = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    reasons = {}
    for layer in layers:
        if not has_windows(layer):
            reasons[layer] = f"{type(layer).__name__} has no moments: linear layers and plain convolutions have"
        elif layer.plan.basis not in SEARCHED:
            reasons[layer] = (
                f'basis="{layer.plan.basis}" is a fixed function of the weight; {" and ".join(SEARCHED)} can be fitted'
            )
        elif users[id(layer.weight)] > 1:
            reasons[layer] = "other modules use its weight too"
    return reasons
