"""In which form does a layer run: on bit planes, by tables, or as one dense op? Decided here and nowhere else.

    xnor    pack the input, then M·N popcount products     lut    pack the input, then table lookups
    dense   the float op on dequantized operands: always possible, and the fastest beyond the break-even

The cost model (abcfx/cost) says which, in microseconds; with autotuning each shape is measured once and the answer kept
(abcfx/autotune.py). All forms give the same values up to the order of f32 sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod

import torch

from abcfx import debug
from abcfx.cost import predict, rates_for
from abcfx.ops import library, library_cuda
from abcfx.ops.workload import Workload
from abcfx.plan import LayerPlan

# Below this many channels a 64-bit word is mostly padding, and the dense op is faster.
MIN_CHANNELS = 16
# Larger windows would overflow the 16-bit sums of the table kernel (csrc/include/abcfx/lut.h).
MAX_TAPS = 256
# Taps along one axis: the CUDA kernels number the padding classes of a window in 64 entries (abcfx/cuda_prepare.h).
MAX_CUDA_TAPS = 32

_forced: ContextVar[str] = ContextVar("abcfx_form", default="")
_tuning: ContextVar[bool] = ContextVar("abcfx_autotune", default=False)


@dataclass(frozen=True)
class Choice:
    """form      "xnor", "lut" or "dense"
    reason    one sentence: why this form
    ms        predicted (or measured) milliseconds of each form that applies; empty if there was no choice to make
    """

    form: str
    reason: str
    ms: Mapping[str, float] = field(default_factory=dict)
    measured: bool = False

    def __str__(self) -> str:
        """ "dense, M·N = 25 is beyond … (predicted: dense 0.4 ms, xnor 0.9 ms)" """
        times = ", ".join(f"{form} {value:.3g} ms" for form, value in sorted(self.ms.items(), key=lambda kv: kv[1]))
        how = f" ({'measured' if self.measured else 'predicted'}: {times})" if times else ""
        return f"{self.form}, {self.reason}{how}"


def choose(workload: Workload, plan: LayerPlan, device: torch.device) -> Choice:
    """The form of a layer with this work. The same question is answered from memory."""
    settings = forced_form(), _tuning.get() or debug.autotune_wanted()
    return _choose(workload, plan, device.type, *runs_on(device), *settings)


def runs_on(device: torch.device) -> tuple[tuple[str, str], int]:
    """(variant of the popcount kernel, of the table kernel) on this device, and threads; "reference": there is none."""
    if device.type == "cuda":
        return (library_cuda.variant(device.index), "reference"), 1
    return (library.kernel_variant("bgemm"), library.kernel_variant("lut")), torch.get_num_threads()


def forced_form() -> str:
    """The form that `forcing` or ABCFX_FORM asks for; empty if the choice is free."""
    return _forced.get() or debug.form_wanted()


def float_and_forms_ms(workload: Workload, plan: LayerPlan, device: torch.device) -> tuple[dict[str, float], bool]:
    """ms of "float" (the layer as it was) and of each form that applies; and whether they were measured.

    Empty for a transposed convolution, whose work the cost model does not know.
    """
    if workload.geometry and workload.geometry[3]:
        return {}, False
    variants, threads = runs_on(device)
    applies = [form for form, reason in methods(workload, device.type, variants).items() if reason is None]
    if (_tuning.get() or debug.autotune_wanted()) and device.type == "cpu" and workload.input is not None:
        from abcfx.ops.candidates import measure  # it runs the layers, which ask this file

        return measure(workload, plan, [*applies, "float"]), True
    predicted = predict(workload.dims(plan, threads), rates_for(*variants))
    return {form: predicted[form] for form in [*applies, "float"]}, False


@contextmanager
def forcing(form: str) -> Iterator[None]:
    """Inside, layers run in this form wherever it applies, as with ABCFX_FORM."""
    token = _forced.set(form)
    try:
        yield
    finally:
        _forced.reset(token)


@contextmanager
def tuning(wanted: bool = True) -> Iterator[None]:
    """Inside, unknown shapes are measured, as with ABCFX_AUTOTUNE=1."""
    token = _tuning.set(wanted)
    try:
        yield
    finally:
        _tuning.reset(token)


@lru_cache(maxsize=4096)
def _choose(
    workload: Workload, plan: LayerPlan, device: str, variants: tuple[str, str], threads: int, forced: str, tune: bool
) -> Choice:
    variant = variants[0]
    reasons = methods(workload, device, variants)
    forms = [form for form, reason in reasons.items() if reason is None]
    if forced:
        form = forced if forced in forms else "dense"
        return Choice(form, reasons[forced] or f"{debug.FORM}={forced}")
    if forms == ["dense"]:
        return Choice("dense", str(reasons["xnor"]))
    if tune and device == "cpu" and workload.input is not None:
        from abcfx.ops.candidates import measure  # it runs the layers, which ask this file

        ms = measure(workload, plan, forms)
    else:
        tune = False
        predicted = predict(workload.dims(plan, threads), rates_for(*variants))
        ms = {form: predicted[form] for form in forms}
    best = min(ms, key=ms.__getitem__)
    products = plan.weight_bases * plan.activation_bases
    cores = "" if device == "cuda" else f" with {threads} thread{'s' if threads > 1 else ''}"
    here = f"on {variant}{cores}"
    reason = f"M·N = {products} is beyond the break-even of this shape" if best == "dense" else "the fastest form"
    return Choice(best, f"{reason} {here}", ms, tune)


def methods(workload: Workload, device: str, variants: tuple[str, str]) -> dict[str, str | None]:
    """form → None if the layer can run in it, else the reason why not, a sentence for the user.

    variants  of the popcount kernel and of the table kernel that run here, as `library.kernel_variant` names them
    """
    common = _no_kernel(workload, device, variants[0])
    if device == "cuda":
        common = common or no_cuda_kernel(workload.weight, variants[0])
        return {"xnor": common, "lut": common or "the table kernel is one for CPUs", "dense": None}
    return {"xnor": common, "lut": common or _no_table(workload, variants[1]), "dense": None}


def _no_kernel(workload: Workload, device: str, variant: str) -> str | None:
    if workload.kind not in ("linear", "conv1d", "conv2d"):
        return f"{workload.kind} has no binary kernel"
    if device not in ("cpu", "cuda", "meta"):
        return f"no binary kernel for {device} yet"
    if workload.dtype == torch.float64:
        return "float64 input: the kernels combine in float32"
    channels = workload.weight[1]
    if channels < MIN_CHANNELS:
        return f"{channels} channels per group; the binary kernel needs {MIN_CHANNELS} to pay"
    if variant == "reference" and device != "cuda":
        return "the compiled kernels are not loaded (python -m abcfx doctor says why)"
    return None


def no_cuda_kernel(weight: Sequence[int], variant: str) -> str | None:
    """Why no product of a layer with this weight [o, channels/groups, *kernel] runs on planes on a CUDA device."""
    if reason := library_cuda.refusal(variant):
        return reason
    taps = max(weight[2:], default=1)
    return f"{taps} taps along an axis; the CUDA kernels take {MAX_CUDA_TAPS}" if taps > MAX_CUDA_TAPS else None


def _no_table(workload: Workload, variant: str) -> str | None:
    if variant == "reference":
        return "this machine has no vector shuffle that the table kernel is written for"
    taps = prod(workload.weight[2:])
    return f"{taps} taps; the table kernel takes at most {MAX_TAPS}" if taps > MAX_TAPS else None
