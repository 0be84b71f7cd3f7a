"""What quantization does to the values: the output of each layer against float, alone and in company.

    SQNR = 10·log10( Σ y² / Σ (y − ŷ)² )  dB         6 dB: half the error; 20 dB: a tenth of it

alone     ŷ of the quantized layer on the input that the float layer gets: the error that this layer makes
running   ŷ as the quantized model computes it: with the errors of all layers before
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from abcfx.layers import ABCLayer
from abcfx.sites import module_sites
from abcfx.summary import watched


@dataclass
class Power:
    """Σ y² and Σ (y − ŷ)² in f64, added up over calls."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, y: Tensor, other: Tensor) -> None:
        exact = y.detach().double()
        self.signal += float(exact.square().sum())
        self.noise += float((exact - other.detach().double()).square().sum())

    @property
    def db(self) -> float | None:
        """Infinite if nothing differs, NaN if something is NaN; None if nothing was added, or the signal is zero."""
        if self.noise == 0:
            return math.inf if self.signal else None
        if math.isnan(self.noise):
            return math.nan
        return 10 * math.log10(self.signal / self.noise) if self.signal else None

    @property
    def error(self) -> float:
        """‖y − ŷ‖ / ‖y‖."""
        return math.sqrt(self.noise / max(self.signal, 1e-60))


@dataclass
class Calls:
    """What one layer got and gave, call by call."""

    inputs: list[tuple] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """Every layer with its name in `summary`."""
    return {
        module.abc_name if isinstance(module, ABCLayer) else site.name: module for site, module in module_sites(model)
    }


def first_tensor(output: Any) -> Tensor | None:
    """The output itself, or the first tensor in it."""
    return next((leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)


@contextmanager
def recording(model: nn.Module, see: Callable[[str, tuple, Tensor], None]) -> Iterator[None]:
    """Inside, `see(layer, inputs, output)` is called for every layer that runs."""

    def hook(name: str) -> Callable[[nn.Module, tuple, Any], None]:
        def called(module: nn.Module, inputs: tuple, output: Any) -> None:
            if (tensor := first_tensor(output)) is not None:
                see(name, inputs, tensor)

        return called

    handles = [module.register_forward_hook(hook(name)) for name, module in layers_of(model).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def run_in_float(model: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Calls]]:
    """The output of the float model, and what each layer got and gave. Quantized layers compute in float meanwhile."""
    seen: dict[str, Calls] = {}

    def see(name: str, inputs: tuple, output: Tensor) -> None:
        calls = seen.setdefault(name, Calls())
        calls.inputs.append(inputs)
        calls.outputs.append(output.clone())  # an in-place ReLU may follow

    with watched(model, {}), recording(model, see):
        return model(*args, **kwargs), seen


@torch.no_grad()
def noise_alone(model: nn.Module, seen: Mapping[str, Calls]) -> dict[str, Power]:
    """layer → power of the error that it makes on float inputs."""
    found: dict[str, Power] = {}
    for name, layer in layers_of(model).items():
        if isinstance(layer, ABCLayer) and name in seen:
            found[name] = Power()
            for inputs, output in zip(seen[name].inputs, seen[name].outputs, strict=True):
                found[name].add(output, layer(*inputs))
    return found


@torch.no_grad()
def noise_running(
    model: nn.Module, args: tuple, kwargs: Mapping[str, Any], seen: Mapping[str, Calls]
) -> tuple[Any, dict[str, Power]]:
    """The output of the quantized model, and layer → power of its error, with those of the layers before it."""
    found: dict[str, Power] = {}
    count: dict[str, int] = {}

    def see(name: str, inputs: tuple, output: Tensor) -> None:
        call = count[name] = count.get(name, -1) + 1
        if name in seen and call < len(seen[name].outputs):
            found.setdefault(name, Power()).add(seen[name].outputs[call], output)

    with evaluating(model), recording(model, see):
        return model(*args, **kwargs), found


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, and back to what each module was in."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training
