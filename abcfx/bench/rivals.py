"""The rivals of a layer: f32, bf16, int8, each in every form that might be the fastest; and our own dense form.

A kind is what is compared ("f32"); a form is one way to run it ("compiled"). The fastest form of a kind counts. Each
form is a builder: called without arguments it gives a call without arguments, which returns the output.

f32, bf16   eager and compiled by inductor with frozen, prepacked weights; convolutions in channels_last, f32 also in
            NCHW; input and output are in the dtype of the rival, so it pays for no conversion
int8        per-tensor activations, per-channel weights, packed before; every engine of torch that is its own
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
import torch._inductor.config
from torch import Tensor, nn

from abcfx.bench.workloads import LAYOUTS, ConvShape, Spec, Workload

Call = Callable[[], Tensor]
Build = Callable[[], Call]
Forms = Mapping[str, Build]
OUT_SCALE, ZERO_POINT = 0.1, 128

KINDS = {
    "f32": "torch in f32",
    "bf16": "torch in bf16, input and output too",
    "int8": "f32 input quantized inside: dynamic linear, or quantize + conv2d",
    "int8-only": "the product alone: input quantized already, output int8 or int32",
    "dense": "abcfx's own dense form: one float op on dequantized operands",
}


def layer_rivals(workload: Workload, spec: Spec, kinds: list[str]) -> dict[str, Forms]:
    """kind → form → builder. `spec` is the binary form that "dense" takes its operands from."""
    layouts = LAYOUTS if isinstance(workload.shape, ConvShape) else workload.shape.layouts
    make: dict[str, Callable[[], Forms]] = {
        "f32": lambda: _float_forms(workload.module, {name: workload.input(name) for name in layouts}),
        "bf16": lambda: _float_forms(
            copy.deepcopy(workload.module).bfloat16(), {layouts[0]: workload.input(layouts[0]).bfloat16()}
        ),
        "int8": lambda: _int8_forms(workload, quantized_input=False),
        "int8-only": lambda: _int8_forms(workload, quantized_input=True),
        "dense": lambda: _dense_forms(workload, spec),
    }
    return {kind: make[kind]() for kind in kinds}


def compiled(model: Callable, *inputs: Tensor) -> Call:
    """By inductor, with weights as constants: folded and prepacked into the blocked layouts of oneDNN.

    Compiled here, under the global setting: as an option of torch.compile, freezing reaches inductor but not Dynamo,
    and the weights stay arguments.
    """
    fast = torch.compile(model, dynamic=False)
    with torch._inductor.config.patch(freezing=True):
        fast(*inputs)
    return lambda: fast(*inputs)


def eager(model: nn.Module, *inputs: Tensor) -> Call:
    return lambda: model(*inputs)


def _float_forms(module: nn.Module, inputs: dict[str, Tensor]) -> Forms:
    """Eager on each layout of the input, with a weight of that layout; compiled on the first."""
    first = next(iter(inputs))
    several = len(inputs) > 1
    forms: dict[str, Build] = {
        f"eager {name}" if several else "eager": lambda name=name, x=x: eager(_in_layout(module, name), x)
        for name, x in inputs.items()
    }
    forms[f"compiled {first}" if several else "compiled"] = lambda: compiled(module, inputs[first])
    return forms


def _in_layout(module: nn.Module, layout: str) -> nn.Module:
    """The weight decides in which layout oneDNN computes; the module of a workload has the first one."""
    return copy.deepcopy(module).to(memory_format=torch.contiguous_format) if layout == "NCHW" else module


def _dense_forms(workload: Workload, spec: Spec) -> Forms:
    return {"eager": lambda: eager(*workload.dense(spec)), "compiled": lambda: compiled(*workload.dense(spec))}


def engines() -> list[str]:
    """Of torch.backends.quantized, without "x86", which takes fbgemm or onednn: both are raced."""
    known = [name for name in torch.backends.quantized.supported_engines if name != "none"]
    return [name for name in known if name != "x86" or not {"fbgemm", "onednn"} <= set(known)]


def _int8_forms(workload: Workload, quantized_input: bool) -> Forms:
    make = _conv_int8 if isinstance(workload.shape, ConvShape) else _linear_int8
    forms: dict[str, Build] = {
        engine: lambda engine=engine: make(workload, engine, quantized_input) for engine in engines()
    }
    if quantized_input and make is _linear_int8:
        forms["_int_mm"] = lambda: _int_mm(workload, transposed=True)
        forms["_int_mm, row-major"] = lambda: _int_mm(workload, transposed=False)
    return forms


def _int8_weight(weight: Tensor, engine: str) -> Tensor:
    """Per output channel, symmetric; per tensor for qnnpack, which has no other."""
    if engine == "qnnpack":
        return torch.quantize_per_tensor(weight, float(weight.abs().max()) / 127, 0, torch.qint8)
    scales = weight.abs().amax(dim=tuple(range(1, weight.dim()))) / 127
    return torch.quantize_per_channel(weight, scales.double(), torch.zeros(len(scales)).long(), 0, torch.qint8)


def _with_engine(engine: str, prepack: Callable[[], object]) -> object:
    """A packed weight remembers the engine that was set while it was made."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        return prepack()
    finally:
        torch.backends.quantized.engine = before


def _linear_int8(workload: Workload, engine: str, quantized_input: bool) -> Call:
    ops, weight, x = torch.ops.quantized, _int8_weight(workload.weight, engine), workload.input("rows")
    packed = _with_engine(engine, lambda: ops.linear_prepack(weight, workload.bias))
    if not quantized_input:
        # 7-bit activations, as torch's own dynamic Linear has them: without VNNI the sums of 8-bit ones saturate,
        # except in qnnpack
        return lambda: ops.linear_dynamic(x, packed, reduce_range=engine != "qnnpack")
    q = torch.quantize_per_tensor(x, OUT_SCALE, ZERO_POINT, torch.quint8)
    return lambda: ops.linear(q, packed, OUT_SCALE, ZERO_POINT)


def _conv_int8(workload: Workload, engine: str, quantized_input: bool) -> Call:
    ops, s, x = torch.ops.quantized, workload.shape, workload.input("channels_last")
    weight = _int8_weight(workload.weight, engine)
    geometry = [[s.stride] * 2, [s.padding] * 2, [1, 1], 1]
    packed = _with_engine(engine, lambda: ops.conv2d_prepack(weight, None, *geometry))
    q = torch.quantize_per_tensor(x, OUT_SCALE, ZERO_POINT, torch.quint8)
    if quantized_input:
        return lambda: ops.conv2d(q, packed, OUT_SCALE, ZERO_POINT)
    return lambda: ops.conv2d(
        torch.quantize_per_tensor(x, OUT_SCALE, ZERO_POINT, torch.quint8), packed, OUT_SCALE, ZERO_POINT
    )


def _int_mm(workload: Workload, transposed: bool) -> Call:
    """int8 x int8 → int32; the weight as it is stored, or copied into the other order."""
    a = (workload.input("rows") * 40).round().clamp(-127, 127).to(torch.int8)
    b = _int8_weight(workload.weight, "_int_mm").int_repr().t()
    b = b if transposed else b.contiguous()
    return lambda: torch._int_mm(a, b)
