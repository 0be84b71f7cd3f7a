"""Every layer that may be quantized, in a copy of the model that computes in float and shows what its layers meet."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from abcfx.calibrate import Sampler, run_batch
from abcfx.layers import ABCLayer
from abcfx.ops import level_fit
from abcfx.plan import LayerPlan

PIECE = 32  # samples that run at once, fewer where their gradients would take more than MEMORY bytes
MEMORY = 1 << 31
FIT_VALUES = 1 << 16  # of each layer's input, that levels are fitted to

Forward = Callable[[nn.Module, Any], Any]


class Call(NamedTuple):
    """One call of a layer: its arguments, and its output in float."""

    arguments: tuple[Any, ...]
    output: Tensor


class Levels(NamedTuple):
    scale: Tensor
    shift: Tensor


class Watched:
    """model    the float model; a quantized copy is made, whose layers compute in float until `trying`
    quantize  makes the copy
    layers    its layers by name

    No parameter of the copy requires a gradient.
    """

    def __init__(self, model: nn.Module, quantize: Callable[[nn.Module], nn.Module], forward: Forward | None) -> None:
        self.model = quantize(copy.deepcopy(model)).eval().requires_grad_(False)
        self.layers = {m.abc_name: m for m in self.model.modules() if isinstance(m, ABCLayer)}
        self.forward = forward or run_batch
        for layer in self.layers.values():
            layer.observer = ignore

    def run(self, batch: Any) -> Any:
        return self.forward(self.model, batch)

    def samplers(self, batches: Iterable[Any]) -> dict[str, Sampler]:
        """A sample of each layer's inputs over the batches."""
        found = {name: Sampler() for name in self.layers}
        for name, layer in self.layers.items():
            layer.observer = found[name]
        try:
            with torch.no_grad():
                for batch in batches:
                    self.run(batch)
        finally:
            for layer in self.layers.values():
                layer.observer = ignore
        if unseen := [name for name, sampler in found.items() if not sampler.kept]:
            raise ValueError(f"no data reached {', '.join(unseen)}; exclude these layers or give other data")
        return found

    @contextmanager
    def calls(self) -> Iterator[dict[str, list[Call]]]:
        """Inside, each layer's calls are noted. The graph goes on with copies, so nothing writes to what is kept."""
        seen: dict[str, list[Call]] = {name: [] for name in self.layers}

        def note(layer: ABCLayer, arguments: tuple, output: Tensor) -> Tensor:
            kept = output if output.requires_grad else output.detach().requires_grad_(torch.is_grad_enabled())
            first, *rest = arguments
            seen[layer.abc_name].append(Call((_copy(layer, first), *rest), kept))
            return kept.clone()

        hooks = [layer.register_forward_hook(note) for layer in self.layers.values()]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def trying(self, name: str, plan: LayerPlan, levels: Levels) -> Iterator[ABCLayer]:
        """Inside, the layer `name` is quantized, without any output correction; the others stay in float."""
        layer = self.layers[name]
        layer.plan, layer.observer, layer.calibrated = plan, None, True
        for parameter, value in (("activation_scale", levels.scale), ("activation_shift", levels.shift)):
            old = getattr(layer, parameter)
            layer.register_parameter(parameter, nn.Parameter(value.to(old), requires_grad=False))
        try:
            yield layer
        finally:
            layer.set_correction(None, None)
            layer.observer = ignore


def fit_levels(samplers: Mapping[str, Sampler], plans: Sequence[LayerPlan]) -> dict[tuple[str, int, str], Levels]:
    """(layer, N, levels) → levels fitted to the layer's inputs, for every N and kind among the plans."""
    wanted = sorted({(plan.activation_bases, plan.levels) for plan in plans})
    found = {}
    for name, sampler in samplers.items():
        values = sampler.samples()
        values = values[:: -(-len(values) // FIT_VALUES)]
        found.update({(name, n, kind): Levels(*level_fit.fit(values, n, kind)) for n, kind in wanted})
    return found


def pieces(batches: Iterable[Any], size: int = PIECE) -> Iterator[Any]:
    """The inputs alone, cut so that few samples run at once; batches that are no tensor or (tensor, …) stay whole."""
    for batch in batches:
        first = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        yield from first.split(size) if isinstance(first, Tensor) and first.dim() else (batch,)


def _copy(layer: ABCLayer, input: Tensor) -> Tensor:
    """An image channels last in memory, as kernels read it, so that the options of the layer need not turn it."""
    image = isinstance(layer, nn.Conv2d) and input.dim() == 4
    return input.detach().clone(memory_format=torch.channels_last if image else torch.preserve_format)


def ignore(layer: ABCLayer, input: Tensor) -> None:
    """An observer that sees nothing: while a layer has one, it computes in float."""
