"""How an adjoint is attached to an operator: an autograd.Function at its Autograd key.

torch.library.register_autograd keeps inputs and outputs of one operator and nothing else, and does not work inside
torch.func transforms. Here the forward pass may run other operators and keep what they give for the adjoint, unseen by
anyone else; and torch.func.grad, vmap and their compositions work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function

from abcfx.ops.schema import ABC


def differentiable(
    name: str,
    forward: Callable[..., tuple[Tensor, ...]],
    facts: Callable[..., Any],
    keep: Sequence[int],
    adjoint: Callable[..., tuple],
) -> None:
    """Make `abc::name` differentiable; once for each operator.

    forward(*arguments)              → (output, *bits): what the operator computes, and integer tensors to keep
    facts(*arguments)                → sizes, dtypes and other plain values that the adjoint needs
    keep                             positions of arguments that are kept too
    adjoint(grad, facts, needs, *bits, *kept)
                                     → a gradient, or None, for each argument; `needs` says which are asked for
    """

    def run(*arguments: Any) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            return forward(*arguments)

    def setup_context(ctx: Any, arguments: tuple, outputs: tuple) -> None:
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.save_for_backward(*outputs[1:], *(arguments[position] for position in keep))
        ctx.facts = facts(*arguments)

    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple:
        return adjoint(grad, ctx.facts, ctx.needs_input_grad, *ctx.saved_tensors)

    function = _function(f"Adjoint_{name}", run, setup_context, backward)
    _register(name, lambda *arguments: _apply(function, *arguments)[0])


def not_twice(name: str) -> None:
    """An operator of the backward pass: differentiating it again raises RuntimeError."""
    operator = getattr(torch.ops.abc, name)

    def run(*arguments: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*arguments)

    def setup_context(ctx: Any, arguments: tuple, outputs: Any) -> None:
        pass

    def backward(ctx: Any, *_: Any) -> tuple:
        raise RuntimeError(
            f"the gradient of a quantized layer (abc::{name}) cannot be differentiated again: its straight-through "
            "rule is not the derivative of anything. Take second derivatives of the float model, or leave "
            "create_graph=False"
        )

    function = _function(f"Once_{name}", run, setup_context, backward)
    _register(name, lambda *arguments: _apply(function, *arguments))


def _function(name: str, run: Callable, setup_context: Callable, backward: Callable) -> Any:
    methods = {"forward": run, "setup_context": setup_context, "backward": backward}
    return type(name, (torch.autograd.Function,), {k: staticmethod(v) for k, v in methods.items()})


def _apply(function: Any, *arguments: Any) -> Any:
    """`apply` of one autograd level: inside a torch.func transform the dispatcher has done the unwrapping already."""
    if not torch._C._are_functorch_transforms_active():
        return function.apply(*arguments)
    with enable_single_level_autograd_function():
        return super(torch.autograd.Function, function).apply(*arguments)


def _register(name: str, differentiated: Callable) -> None:
    operator = getattr(torch.ops.abc, name).default

    def at_autograd_key(*arguments: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments):
            return differentiated(*arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*arguments)

    ABC.impl(name, at_autograd_key, "Autograd")
