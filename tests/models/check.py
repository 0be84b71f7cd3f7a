"""What every real model must pass: each layer equals the oracle, and the compiled model the eager one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from oracle import TOLERANCE, PerLayerError, relative_error
from torch import Tensor, fx, nn

import abcfx
from abcfx.backend import abc

Call = Callable[[nn.Module], Any]


def tensors(output: Any) -> list[Tensor]:
    """Every floating tensor of an output: tuples, dicts and dataclass outputs alike."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    values = output.values() if hasattr(output, "values") else output if isinstance(output, (tuple, list)) else ()
    return [tensor for value in values for tensor in tensors(value)]


def quantize_and_compare(model: nn.Module, call: Call, at_least: int, **arguments: Any) -> nn.Module:
    """Quantize, calibrate, compare each layer with the float op on dequantized operands; returns the new model."""
    model.eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    q = abcfx.quantize_model(model, **arguments)
    abcfx.calibrate(q, [None], forward=lambda m, _: call(m))
    assert len(abcfx.plan_of(q).layers) >= at_least
    hooks = PerLayerError(q)
    with torch.no_grad():
        call(q)
    hooks.remove()
    missed = set(abcfx.plan_of(q).layers) - set(hooks.errors)
    assert not missed, f"planned but never run: {missed}"
    worst = max(hooks.errors, key=hooks.errors.__getitem__)
    assert hooks.errors[worst] <= TOLERANCE, f"{worst}: {hooks.errors[worst]}"
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items()), "the original changed"
    return q


class Forms:
    """The backend with several options: one trace, which takes longest, serves all; `options` says what runs."""

    def __init__(self, *forms: Mapping[str, object]) -> None:
        self.forms, self.options = forms, forms[0]

    def __call__(self, gm: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        made = [abc(gm, inputs, options=options) for options in self.forms]
        return lambda *arguments: made[self.forms.index(self.options)](*arguments)


def compile_and_compare(q: nn.Module, call: Call, fullgraph: bool = True, then: str = "eager") -> None:
    """The compiled model returns the structure and the numbers of the eager quantized model.

    With then="eager" and without fusion the same kernels run in the same order: only f32 rounding may differ. Fusion
    folds scales, and inductor reorders f32 sums: where an activation lies within that rounding of a threshold, its code
    flips by one level, and the difference spreads; then outputs agree closely, not to f32 rounding.
    """
    forms = Forms(*({"then": then, "fuse": fuse} for fuse in ((False, True) if then == "eager" else (True,))))
    torch._dynamo.reset()
    compiled = torch.compile(q, backend=forms, fullgraph=fullgraph)
    with torch.no_grad():
        want = tensors(call(q))
        for options in forms.forms:
            forms.options = options
            got = tensors(call(compiled))
            assert len(want) == len(got) > 0
            for a, b in zip(got, want, strict=True):
                assert a.shape == b.shape
                assert relative_error(a, b) <= (0.02 if options["fuse"] else TOLERANCE)
