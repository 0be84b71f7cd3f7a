"""A debugger of values: float, dequantized and packed, layer by layer, and the first layer where a kernel is wrong.

    float         y = op(x, W)                 what the model was
    dequantized   ŷ = op(Â, Ŵ)                 what a quantized layer means (one dense op)
    packed        ŷ = Σ_p Σ_q α_p β_q B_p·A_q  what the kernels make of it

Packed must equal dequantized up to the order of f32 sums. Each layer gets the *same* input in both forms, the one of
the dequantized run, so that an error is named where it is made and not where it arrives.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from abcfx.bench.workloads import TOLERANCE
from abcfx.explain.sqnr import Calls, Power, evaluating, first_tensor, layers_of, noise_alone, recording, run_in_float
from abcfx.layers import ABCLayer
from abcfx.ops.choose import choose, forcing
from abcfx.summary import workload_of

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class LayerComparison:
    """form      the packed form that ran, "dense" where none applies (nothing to compare then)
    error     ‖packed − dequantized‖ / ‖dequantized‖ on the same input; `tolerance` is what rounding explains
    alone_db, running_db   SQNR of the dequantized layer against float: alone, and after the layers before it
    packed_db  SQNR of the packed model's layer against float, after the layers before it
    """

    name: str
    form: str
    error: float
    tolerance: float
    alone_db: float | None
    running_db: float | None
    packed_db: float | None

    @property
    def differs(self) -> bool:
        return not self.error <= self.tolerance  # a NaN differs too


@dataclass(frozen=True)
class Comparison:
    """layers in the order in which they first ran; `output_error`: the whole packed model against the dequantized."""

    layers: tuple[LayerComparison, ...]
    output_error: float

    @property
    def first_difference(self) -> LayerComparison | None:
        """The first layer whose packed form is wrong; None if all agree."""
        return next((layer for layer in self.layers if layer.differs), None)

    def __rich__(self) -> RenderableType:
        from abcfx.cli.explain_table import comparison_table

        return comparison_table(self)

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=110)
        console.print(self)
        return console.file.getvalue().rstrip("\n")


@torch.no_grad()
def compare_forms(model: nn.Module, *inputs: Any, form: str = "xnor", **named_inputs: Any) -> Comparison:
    """Run a quantized model in float, dequantized and packed, and compare the three layer by layer.

    form   the packed form, "xnor" or "lut", wherever it applies; whether it pays does not matter here

    Raises ValueError for another form or a model without a quantized layer, NotCalibratedError for one not calibrated.
    """
    if form not in ("xnor", "lut"):
        raise ValueError(f'form must be "xnor" or "lut", got {form!r}')
    model = getattr(model, "_orig_mod", model)
    if not any(isinstance(module, ABCLayer) for module in model.modules()):
        raise ValueError("the model has no quantized layer; make one with abcfx.quantize_model")
    _, seen = run_in_float(model, inputs, named_inputs)
    with forcing("dense"):
        alone = noise_alone(model, seen)
        want, dequantized = _run(model, inputs, named_inputs)
    with forcing(form):
        got, in_bits = _run(model, inputs, named_inputs)
        rows = [
            _compared(name, layer, dequantized[name], seen[name], in_bits[name], alone[name])
            for name, layer in _in_order(model, dequantized)
        ]
    whole = Power()
    if (exact := first_tensor(want)) is not None and (ours := first_tensor(got)) is not None:
        whole.add(exact, ours)
    return Comparison(tuple(rows), whole.error)


def _run(model: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Calls]]:
    seen: dict[str, Calls] = {}

    def see(name: str, inputs: tuple, output: Tensor) -> None:
        calls = seen.setdefault(name, Calls())
        calls.inputs.append(tuple(x.clone() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs))
        calls.outputs.append(output.clone())

    with evaluating(model), recording(model, see):
        return model(*args, **kwargs), seen


def _in_order(model: nn.Module, ran: Mapping[str, Calls]) -> list[tuple[str, ABCLayer]]:
    layers = layers_of(model)
    return [(name, layer) for name in ran if isinstance(layer := layers[name], ABCLayer)]


def _compared(name: str, layer: ABCLayer, want: Calls, exact: Calls, in_bits: Calls, alone: Power) -> LayerComparison:
    """Called where the packed form is forced."""
    error, running, packed_run = Power(), Power(), Power()
    for inputs, output in zip(want.inputs, want.outputs, strict=True):
        error.add(output, layer(*inputs))
    for reference, ours, bits in zip(exact.outputs, want.outputs, in_bits.outputs, strict=False):
        running.add(reference, ours)
        packed_run.add(reference, bits)
    first, weight = want.inputs[0], getattr(layer, "weight", None)
    weight = first[1] if weight is None else weight
    form = choose(workload_of(layer, weight, first[0]), layer.plan, weight.device).form
    rounding = torch.finfo(want.outputs[0].dtype).eps if want.outputs[0].dtype.itemsize < 4 else 0.0
    worst = math.nan if math.isnan(error.noise) else error.error
    return LayerComparison(name, form, worst, max(TOLERANCE, rounding), alone.db, running.db, packed_run.db)
