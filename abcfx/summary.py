"""summary(model, *inputs): for each layer what it is, what it costs and in which form; data, with a table.

MACs are counted for the inputs given, from the shapes that the layers really met. A layer that runs on the kernels
counts M·N binary MACs for each float one. Bytes are those of the files: a state_dict, and the packed form (packed.py).
"""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format

from abcfx.layers import QUANTIZED, ABCLayer
from abcfx.layers.functional import ABCFunctional
from abcfx.ops.choose import choose
from abcfx.ops.workload import Workload
from abcfx.packed import packable_weights, packed_bytes
from abcfx.sites import module_sites

if TYPE_CHECKING:
    from rich.console import RenderableType

# what quantization adds to a layer: activation levels, and the output correction if calibration fitted one
ADDED = ("activation_scale", "activation_shift", "output_gain", "output_shift")


@dataclass(frozen=True)
class LayerSummary:
    """One layer. Shapes and MACs are None for a layer that the inputs did not reach, or whose work is hidden in one op.

    runs    the form in a compiled graph: "xnor" or "lut" on the kernels, "dense" as a float op on dequantized operands;
            "float" if it is not quantized, "unknown" for a functional layer that no input has reached
    note    why "dense", or why its weight stays float in the file; None if there is nothing to say
    predicted_ms   of each form that was weighed (measured, if autotuning is on); empty if there was nothing to weigh
    """

    name: str
    kind: str
    runs: str
    note: str | None
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None
    calls: int
    M: int | None
    N: int | None
    weight_bits: int
    activation_bits: int
    basis: str | None
    levels: str | None
    binary_macs: int | None
    float_macs: int | None
    float_bytes: int
    packed_bytes: int
    predicted_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """layers in order of registration; other_bytes: parameters and buffers outside them, the same in both forms."""

    model: str
    inputs: tuple[tuple[int, ...], ...]
    layers: tuple[LayerSummary, ...]
    other_bytes: int

    @property
    def binary_macs(self) -> int:
        return sum(layer.binary_macs or 0 for layer in self.layers)

    @property
    def float_macs(self) -> int:
        return sum(layer.float_macs or 0 for layer in self.layers)

    @property
    def float_bytes(self) -> int:
        return self.other_bytes + sum(layer.float_bytes for layer in self.layers)

    @property
    def packed_bytes(self) -> int:
        return self.other_bytes + sum(layer.packed_bytes for layer in self.layers)

    @property
    def compression(self) -> float:
        """Bytes of the float model over bytes of the packed one."""
        return self.float_bytes / self.packed_bytes if self.packed_bytes else 1.0

    def to_dict(self) -> dict[str, Any]:
        """All of it, totals included, in types that JSON has."""
        totals = ("binary_macs", "float_macs", "float_bytes", "packed_bytes", "compression")
        return asdict(self) | {"totals": {name: getattr(self, name) for name in totals}}

    def __rich__(self) -> RenderableType:
        from abcfx.cli.summary_table import SummaryTable

        return SummaryTable(self)

    def __str__(self) -> str:
        from rich.console import Console

        width = shutil.get_terminal_size((100, 24)).columns
        console = Console(file=io.StringIO(), width=width)
        console.print(self)
        return console.file.getvalue().rstrip("\n")


@dataclass
class _Seen:
    """What a layer met while the inputs ran through the model. A functional layer gets its weight with the call."""

    input: Tensor
    weight: Tensor | None
    output_shape: tuple[int, ...]
    macs: int = 0
    calls: int = 0


def summary(model: nn.Module, *example_inputs: Any, **example_kwargs: Any) -> Summary:
    """Run the model once on the inputs, in eval mode and in float, and describe each of its layers.

    model   from `quantize_model`, calibrated or not; or a float model, whose layers are then all "float"

    print() or rich's print() shows the table; `to_dict()` gives it to JSON. Without inputs, shapes and MACs are None.
    Raises TypeError if `model` is not a module; an error of the model on these inputs goes through.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"summary takes an nn.Module, got {type(model).__name__}")
    model = getattr(model, "_orig_mod", model)  # behind torch.compile
    seen: dict[int, _Seen] = {}
    if example_inputs or example_kwargs:
        with watched(model, seen), torch.no_grad():
            model(*example_inputs, **example_kwargs)
    bytes_of = _Bytes()
    layers = tuple(_rows(model, seen, bytes_of))
    given = (*example_inputs, *example_kwargs.values())
    shapes = tuple(tuple(value.shape) for value in given if isinstance(value, Tensor))
    return Summary(type(model).__name__, shapes, layers, bytes_of.others(model))


@contextmanager
def watched(model: nn.Module, seen: dict[int, _Seen]) -> Iterator[None]:
    """Eval mode, hooks on every layer, and quantized layers in float so that an uncalibrated model runs too."""
    modes = {module: module.training for module in model.modules()}
    observers = {module: module.observer for module in model.modules() if isinstance(module, ABCLayer)}
    hooks = [module.register_forward_hook(_record(seen)) for _, module in module_sites(model)]
    try:
        for layer in observers:
            layer.observer = lambda *_: None
        model.eval()
        yield
    finally:
        for layer, observer in observers.items():
            layer.observer = observer
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training


def _record(seen: dict[int, _Seen]) -> Callable[[nn.Module, tuple, Any], None]:
    """A hook that counts calls and multiply-adds: an output takes one for each weight that it reads.

    linear: outputs·k;  convolution: outputs·(channels/groups)·taps;  transposed: inputs·(outputs/groups)·taps.
    """

    def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
        output = output[0] if isinstance(output, (tuple, list)) else output
        if not (inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)):
            return
        weight = inputs[1] if isinstance(module, ABCFunctional) else getattr(module, "weight", None)
        first = seen.setdefault(id(module), _Seen(inputs[0].detach(), weight, tuple(output.shape)))
        first.calls += 1
        kind = kind_of(module)
        if kind is not None:
            outputs = inputs[0].numel() if "transpose" in kind else output.numel()
            first.macs += outputs * math.prod(weight.shape[1:])

    return hook


def kind_of(module: nn.Module) -> str | None:
    """The name of a layer whose work is known, as in torch.nn.functional."""
    if isinstance(module, ABCFunctional):
        stride, *_, transposed, _output_padding, _groups = module.geometry or ((), False, (), 1)
        return f"conv{'_transpose' if transposed else ''}{len(stride)}d" if module.geometry else "linear"
    return next((kind for float_type, (_, kind) in QUANTIZED.items() if isinstance(module, float_type)), None)


class _Bytes:
    """Counts every parameter and buffer once, in the first place that asks."""

    def __init__(self) -> None:
        self.counted: set[int] = set()

    def __call__(self, *tensors: Tensor | None) -> int:
        total = 0
        for tensor in tensors:
            if tensor is not None and id(tensor) not in self.counted and not nn.parameter.is_lazy(tensor):
                self.counted.add(id(tensor))
                total += tensor.numel() * tensor.element_size()
        return total

    def others(self, model: nn.Module) -> int:
        """What no row has counted: batch norm, embeddings, buffers."""
        tensors = [*model.named_parameters(), *model.named_buffers()]
        return self(*(tensor for name, tensor in tensors if name.rpartition(".")[2] not in ADDED))


def _rows(model: nn.Module, seen: Mapping[int, _Seen], bytes_of: _Bytes) -> Iterator[LayerSummary]:
    plan = getattr(model, "_abcfx_plan", None)
    reasons = dict(plan.reasons) if plan is not None else {}
    packable = packable_weights(model)
    for site, module in module_sites(model):
        if isinstance(module, ABCLayer):
            yield _quantized_row(module, seen.get(id(module)), bytes_of, packable)
        else:
            reason = reasons.pop(site.name, None) or site.reason or "the model is not quantized"
            own = bytes_of(*module._parameters.values())
            macs = seen[id(module)].macs if id(module) in seen and kind_of(module) else None
            yield _float_row(site.name, site.kind, reason, seen.get(id(module)), macs, own)
    for name, reason in reasons.items():  # functional layers that were left alone have no module
        yield _float_row(name, "-", reason, None, None, 0)


def _float_row(name: str, kind: str, reason: str, seen: _Seen | None, macs: int | None, size: int) -> LayerSummary:
    return LayerSummary(
        name=name,
        kind=kind,
        runs="float",
        note=reason,
        **_shape_fields(seen),
        M=None,
        N=None,
        weight_bits=32,
        activation_bits=32,
        basis=None,
        levels=None,
        binary_macs=0,
        float_macs=macs,
        float_bytes=size,
        packed_bytes=size,
    )


def _shape_fields(seen: _Seen | None) -> dict[str, Any]:
    if seen is None:
        return {"input_shape": None, "output_shape": None, "calls": 0}
    return {"input_shape": tuple(seen.input.shape), "output_shape": seen.output_shape, "calls": seen.calls}


def _quantized_row(
    layer: ABCLayer, seen: _Seen | None, bytes_of: _Bytes, packable: Mapping[int, ABCLayer]
) -> LayerSummary:
    plan, kind = layer.plan, kind_of(layer)
    weight = seen.weight if seen is not None else getattr(layer, "weight", None)
    runs, notes, predicted = "unknown", ["run it on an input to know"], {}
    if weight is not None:  # a functional layer shows its weight with its first input
        choice = choose(workload_of(layer, weight, None if seen is None else seen.input), plan, weight.device)
        runs, predicted = choice.form, choice.ms
        notes = [choice.reason] if runs == "dense" else []
    owner = weight._base if weight is not None and weight._is_view() else weight
    own, rest = bytes_of(owner), bytes_of(getattr(layer, "bias", None))
    stored = own
    if id(weight) in packable:
        stored = packed_bytes(layer) if own else 0
    elif weight is not None:
        notes.append("something else may read its weight, which therefore stays float in the file")
    products = plan.weight_bases * plan.activation_bases
    is_binary = runs in ("xnor", "lut")
    macs = None if seen is None else seen.macs
    return LayerSummary(
        name=layer.abc_name,
        kind=kind,
        runs=runs,
        note="; ".join(notes) or None,
        **_shape_fields(seen),
        M=plan.weight_bases,
        N=plan.activation_bases,
        weight_bits=plan.weight_bases,
        activation_bits=plan.activation_bases,
        basis=plan.basis,
        levels=plan.levels,
        binary_macs=None if macs is None else macs * products if is_binary else 0,
        float_macs=None if macs is None else 0 if is_binary else macs,
        float_bytes=own + rest,
        packed_bytes=stored + rest + bytes_of(*(getattr(layer, name) for name in ADDED)),
        predicted_ms=predicted,
    )


def workload_of(layer: nn.Module, weight: Tensor, input: Tensor | None) -> Workload:
    """The work of a convolution or linear layer, quantized or not, on this input, in a compiled graph."""
    dtype, shape = (weight.dtype, None) if input is None else (input.dtype, input.shape)
    geometry = _geometry(layer)
    if not geometry:
        return Workload.linear(weight.shape, dtype, shape, compiled=True)
    if shape is not None and len(shape) < weight.dim():
        shape = (1, *shape)  # an image without a batch
    last = input is not None and suggest_memory_format(input) == torch.channels_last
    return Workload.convolution(weight.shape, dtype, shape, geometry, compiled=True, channels_last=last)


def _geometry(layer: nn.Module) -> tuple:
    """stride … groups as aten.convolution takes them; () for a linear layer. Padding "same" counts as its mean."""
    if isinstance(layer, ABCFunctional):
        return layer.geometry
    if not isinstance(layer, nn.modules.conv._ConvNd):
        return ()
    padding = layer.padding
    if isinstance(padding, str):
        reach = [d * (k - 1) // 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        padding = reach if padding == "same" else [0] * len(reach)
    return layer.stride, padding, layer.dilation, layer.transposed, layer.output_padding, layer.groups
