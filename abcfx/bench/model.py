"""A whole model: compiled with backend="abc" against f32, bf16 and int8 forms of the same model."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
import torch._inductor.config
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import abcfx
from abcfx.bench.contest import Contestant, Tick, hold
from abcfx.bench.heats import WARM_UP, fresh_compiler, run_heats
from abcfx.bench.race import rough_s
from abcfx.bench.results import Measurement
from abcfx.bench.rivals import Call, Forms, compiled, eager
from abcfx.bench.workloads import TOLERANCE, Spec, WrongResult
from abcfx.layers import ABCLayer

KINDS = ("f32", "bf16", "int8")
# Forms of one model share its code; more of them than this would run eagerly, which is an error here and not a surprise
FORMS_OF_ONE_CODE = 64
# The compiled model may round its floats in another order, and a value that crosses a threshold moves by a whole level,
# which later layers pass on: a few percent in the end, 27 % were seen at 2 bits and random weights. An output unrelated
# to the right one is off by 1 or more.
COMPILED_TOLERANCE = 0.5
# where quantize_pt2e lives: torch had it, torchao has it now
PT2E = (
    ("torch.ao.quantization.quantize_pt2e", "torch.ao.quantization.quantizer.x86_inductor_quantizer"),
    ("torchao.quantization.pt2e.quantize_pt2e", "torchao.quantization.pt2e.quantizer.x86_inductor_quantizer"),
)


def measure_model(
    name: str,
    model: nn.Module,
    x: Tensor,
    pairs: Sequence[tuple[int, int]],
    kinds: Sequence[str],
    seconds: float,
    tick: Tick,
    unfused: bool = False,
    all_layers: bool = False,
    float_layers: str = "f32",
    basis: str = "alternating",
) -> Measurement:
    """Quantize `model` with each (M, N), calibrate on `x`, compile and check; race all of them and the rivals in turns.

    unfused       race each (M, N) without the fusion passes too
    all_layers    quantize the first and the last layer too
    float_layers  "f32" or "bf16": what layers that stay in float multiply in (abcfx/options.py)
    basis         of the weights

    Raises ValueError or RuntimeError as the model does on `x`, WrongResult if a quantized one computes something else.
    """
    layout = "channels_last" if x.dim() == 4 else "as given"
    if x.dim() == 4:
        model = model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    about = {
        "model": name, "input": list(x.shape), "batch": x.shape[0], "threads": torch.get_num_threads(),
        "our float layers": float_layers, "basis": basis,
    }  # fmt: skip
    measurement = Measurement(name, f"{name}, input {list(x.shape)}, whole model", about)
    fresh_compiler()
    with (
        torch._dynamo.config.patch(recompile_limit=FORMS_OF_ONE_CODE, fail_on_recompile_limit_hit=True),
        torch.inference_mode(),
    ):
        output = first_tensor(model(x))
        ours = []
        for pair in pairs:
            tick(f"M={pair[0]}, N={pair[1]}: calibrating and compiling")
            with torch.inference_mode(False), torch.no_grad():
                quantized = abcfx.quantize_model(model, *pair, basis=basis, first_last_float=not all_layers)
                abcfx.calibrate(quantized, [x], progress=False)
            check_layers(quantized, x)
            for fuse in (True, False) if unfused else (True,):
                options = {"fuse": fuse, "float_layers": float_layers}
                ours.append(_contestant(quantized, x, pair, basis, layout, options))
        reference_ms = min(one.rough_ms for one in ours)
        forms = model_rivals(model, x, kinds)
        heats = {
            kind: run_heats(forms[kind], output.shape, reference_ms, lambda form, kind=kind: tick(f"{kind} {form}"))
            for kind in kinds
        }
        tick("racing")
        measurement.rivals, measurement.ours = hold(ours, heats, seconds)
    return measurement


def first_tensor(output: Any) -> Tensor:
    """The output itself, or the first tensor in it."""
    if isinstance(output, Tensor):
        return output
    found = next((leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)
    if found is None and hasattr(output, "values"):
        found = next((value for value in output.values() if isinstance(value, Tensor)), None)
    if found is None:
        raise ValueError(f"the model returns a {type(output).__name__} without a tensor in it")
    return found


def _contestant(
    quantized: nn.Module, x: Tensor, pair: tuple[int, int], basis: str, layout: str, options: dict[str, Any]
) -> Contestant:
    fast = torch.compile(quantized, backend="abc", dynamic=False, options=options)
    for _ in range(WARM_UP):
        got = first_tensor(fast(x))
    want = first_tensor(quantized(x))
    error = float((got.float() - want.float()).norm() / want.float().norm())
    if not error <= COMPILED_TOLERANCE:
        raise WrongResult(f"M={pair[0]}, N={pair[1]}: the compiled model is off by {error:.1e} of the eager one")

    def call() -> Tensor:
        return first_tensor(fast(x))

    form = "chosen per layer" if options["fuse"] else "unfused"
    spec = Spec(*pair, form + (", floats in bf16" if options["float_layers"] == "bf16" else ""), layout, basis)
    return Contestant(spec, call, 1e3 * rough_s(call), error=error)


@torch.no_grad()
def check_layers(quantized: nn.Module, x: Tensor) -> None:
    """Each quantized layer, on the input it gets here, against its own f64 form: the float op on Â and Ŵ."""
    inputs: dict[ABCLayer, tuple] = {}
    layers = {name: layer for name, layer in quantized.named_modules() if isinstance(layer, ABCLayer)}
    hooks = [layer.register_forward_pre_hook(lambda one, args: inputs.setdefault(one, args) and None)
             for layer in layers.values()]  # fmt: skip
    try:
        quantized(x)
    finally:
        for hook in hooks:
            hook.remove()
    for name, layer in layers.items():
        if layer not in inputs:
            continue
        args = inputs[layer]
        got = layer(*args)
        want = copy.deepcopy(layer).double()(*(_double(value) for value in args))
        error = float((got.double() - want).norm() / want.norm().clamp_min(1e-30))
        if not error <= TOLERANCE:
            raise WrongResult(
                f"layer {name} is off by {error:.1e} of the float op on the dequantized operands, "
                f"more than the {TOLERANCE:g} that rounding explains; the model is not timed"
            )


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def model_rivals(model: nn.Module, x: Tensor, kinds: Sequence[str]) -> dict[str, Forms]:
    def half() -> tuple[nn.Module, Tensor]:
        return copy.deepcopy(model).bfloat16(), x.bfloat16() if x.is_floating_point() else x

    made: dict[str, Forms] = {
        "f32": {"eager": lambda: _first(eager(model, x)), "compiled": lambda: _first(compiled(model, x))},
        "bf16": {
            "eager": lambda: _first(eager(*half())),
            "compiled": lambda: _first(compiled(*half())),
        },
        "int8": {"PT2E, x86 inductor": lambda: _first(compiled(_pt2e(model, x), x))},
    }
    return {kind: made[kind] for kind in kinds}


def _first(call: Callable[[], Any]) -> Call:
    return lambda: first_tensor(call())


def _pt2e(model: nn.Module, x: Tensor) -> Callable[..., Any]:
    """Post-training static int8, as PyTorch's tutorial for x86 inductor does it, calibrated on x."""
    convert, quantizers = _pt2e_modules()
    with torch.inference_mode(False), torch.no_grad():
        x = x.clone()
        exported = torch.export.export(copy.deepcopy(model), (x,), strict=True).module()
        quantizer = quantizers.X86InductorQuantizer()
        quantizer.set_global(quantizers.get_default_x86_inductor_quantization_config())
        prepared = convert.prepare_pt2e(exported, quantizer)
        prepared(x)
        return convert.convert_pt2e(prepared)


def _pt2e_modules() -> tuple[ModuleType, ModuleType]:
    for names in PT2E:
        # torchao logs every GPU library of its own that does not load
        with contextlib.suppress(ImportError), contextlib.redirect_stderr(io.StringIO()), _no_logging():
            return importlib.import_module(names[0]), importlib.import_module(names[1])
    raise ImportError(
        f"torch {torch.__version__} no longer has quantize_pt2e and torchao cannot be imported; "
        f"pip install torchao brings this rival in"
    )


@contextlib.contextmanager
def _no_logging():
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
