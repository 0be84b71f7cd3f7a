"""Quantized forms of a weight, made once and kept until the weight changes.

A weight may change at any time (optimizer steps, load_state_dict, in-place edits), so every look-up compares what is
kept with the live tensor and its version. Three things a version counter does not see are handled apart:

* fused optimizers write without bumping it: a hook after every optimizer step forgets the parameters it owns;
* inference tensors have none: their values are compared with a copy;
* `p.data.mul_(2)` hides behind a detached tensor: call `invalidate(module_or_tensor)` after such an edit.

A look-up that gradients flow through keeps its fitted bases too, and fits those of a searched kind ("alternating",
"coded") from the scales of the last step (warm_start.py); it shares nothing with other look-ups unless its fit was from
scratch, as theirs always are.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.weak import WeakIdKeyDictionary

from abcfx.ops import warm_start
from abcfx.ops.kernel_weights import METHODS, lanes_of, weight_signs
from abcfx.ops.weight_fit import fit_bases
from abcfx.plan import SEARCHED
from abcfx.quant.weights import dequantize_bases, flatten_weight, unflatten_weight


class WeightRecipe(NamedTuple):
    """What has to be made of a float weight. `transposed` and `groups` say where its output channels are; `method` is
    for which kernel its bases are packed ("xnor" or "lut", abcfx/ops/kernel_weights.py).
    """

    weight_bases: int
    basis: str
    per_channel: bool
    transposed: bool = False
    groups: int = 1
    method: str = "xnor"

    def fit(self) -> WeightRecipe:
        """The part that decides the bases and scales: the same for both methods."""
        return self._replace(method="xnor")


class PackedWeight(NamedTuple):
    """bits  packed bases (abcfx/ops/kernel_weights.py)   alpha  f32[M, O]   tap_sums  f32[O, taps] = Σ_channels Ŵ"""

    bits: Tensor
    alpha: Tensor
    tap_sums: Tensor


class Fit(NamedTuple):
    """bases  int8[M, O, taps, channels]   scales  f32[M, O]   cold  whether it follows from the weight alone"""

    bases: Tensor
    scales: Tensor
    cold: bool = True


class _Kept(NamedTuple):
    version: int | Tensor
    value: Any


class Snapshot:
    """Identity and version of some tensors at one moment: a cheap way to see that nothing has changed since.

    Inference tensors have no version; a snapshot of one never holds.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.generation = _generation
        self.alive = not any(t.is_inference() for t in tensors)
        self.ids = list(map(id, tensors))
        self.versions = list(map(_version, tensors)) if self.alive else []
        self.refs = [weakref.ref(t, self._died) for t in tensors]  # an id means nothing when its tensor is gone

    def _died(self, _ref: weakref.ref) -> None:
        self.alive = False

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these are the same tensors, unchanged. Asked in every call, of all weights: no loop in Python."""
        return (
            self.alive
            and self.generation == _generation
            and list(map(id, tensors)) == self.ids
            and list(map(_version, tensors)) == self.versions
        )


_version = attrgetter("_version")
_generation = 0  # counts the changes that version counters do not see
_lock = threading.RLock()
_kept: WeakIdKeyDictionary = WeakIdKeyDictionary()
_by_address: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()  # of weights in training
_adopted: WeakIdKeyDictionary = WeakIdKeyDictionary()  # owner → {(recipe, shape): (bases, scales)}


def packed(weight: Tensor, recipe: WeightRecipe) -> PackedWeight:
    """Bit planes, scales and tap sums of `weight`: of the live values, never of earlier ones."""
    return _look_up(weight, "packed", recipe, _pack, _is_training(weight))


def dequantized(weight: Tensor, recipe: WeightRecipe) -> Tensor:
    """Ŵ = Σ_p α_p B_p in the layout and dtype of `weight`."""
    return _look_up(weight, "dequantized", recipe.fit(), _dequantize, _is_training(weight))[0]


def invalidate(target: nn.Module | Tensor) -> None:
    """Forget what was made of a tensor, or of every parameter and buffer of a module.

    Only needed after edits that PyTorch itself does not see, such as `p.data.mul_(2)`.
    """
    tensors = [target] if isinstance(target, Tensor) else [*target.parameters(), *target.buffers()]
    with _lock:
        for tensor in tensors:
            warm_start.forget(_owner(tensor))
    _forget(tensors)


def _forget(tensors: Iterable[Tensor]) -> None:
    global _generation
    with _lock:
        for tensor in tensors:
            _kept.pop(tensor, None)
        _generation += 1


def _look_up(
    weight: Tensor, form: str, recipe: WeightRecipe, make: Callable[[Tensor, WeightRecipe, bool], Any], training: bool
) -> Any:
    owner, key = _owner(weight), (form, recipe, training, *_layout(weight))
    with _lock:
        if training:
            _by_address[weight.data_ptr()] = owner
        value = _find(owner, key)
        if value is None:
            version = owner.detach().clone() if owner.is_inference() else owner._version
            # Made outside inference mode, so that what is kept can also serve a training step later.
            with torch.inference_mode(False), torch.no_grad():
                value = make(weight, recipe, training)
            _kept.setdefault(owner, {})[key] = _Kept(version, value)
        return value


def _find(owner: Tensor, key: tuple) -> Any:
    """What is kept of the live values, else None."""
    kept = _kept.get(owner, {}).get(key)
    return kept.value if kept is not None and _is_current(owner, kept.version) else None


def _is_training(weight: Tensor) -> bool:
    differentiable = weight.requires_grad or (warm_start.in_backward() and _owner(weight).requires_grad)
    if differentiable and warm_start.under_autograd():
        return True
    owner = _owner(weight)
    return not owner.is_inference() and warm_start.lives(owner)


def _owner(weight: Tensor) -> Tensor:
    """The tensor that what is kept hangs on. A view (a transposed weight) is a new object at each call: its base.

    Activation checkpoints hand an alias of the weight to the backward pass: the tensor seen there by the forward pass.
    """
    if weight._is_view() and weight._base is not None:
        return weight._base
    if warm_start.in_backward():
        seen = _by_address.get(weight.data_ptr())
        if seen is not None and seen.device == weight.device and seen._version == weight._version:
            return seen
    return weight


def _layout(weight: Tensor) -> tuple:
    return weight.storage_offset(), weight.shape, weight.stride(), weight.dtype


def _is_current(owner: Tensor, version: int | Tensor) -> bool:
    if owner.is_inference():
        return isinstance(version, Tensor) and torch.equal(version, owner)
    return version == owner._version


def fitted(weight: Tensor, recipe: WeightRecipe) -> tuple[Tensor, Tensor, torch.Size]:
    """Bases int8[M, O, taps·channels] and scales f32[M, O] of the live weight, and [O, taps, channels].

    Those that `packed` and `dequantized` are made of, here and now: in a training step possibly fitted from the scales
    of the last step; under torch.no_grad adopted ones if the weight still equals them, else a fit from scratch.
    """
    fit = fit_of(weight, recipe)
    return fit.bases.flatten(2), fit.scales, fit.bases.shape[1:]


def adopt(weight: Tensor, recipe: WeightRecipe, bases: Tensor, scales: Tensor) -> None:
    """Set the live weight to Σ_p α_p B_p and use these bases for it, exactly, until its values change.

    A new fit of Ŵ need not find the bases that made it (from three bases on it often does not), and a model read from
    its packed form must compute what the saved one did. A copy of the weight (deepcopy, pickle) is fitted again.

    bases   int8[M, O, taps·channels]   ±1        scales  f32[M, O]
    """
    shape = flatten_weight(weight, recipe.transposed, recipe.groups).shape
    with torch.no_grad():
        exact = dequantize_bases(bases, scales).view(shape)
        weight.copy_(unflatten_weight(exact, weight.shape, recipe.transposed, recipe.groups))
    with _lock:
        _adopted.setdefault(_owner(weight), {})[recipe.fit(), weight.shape] = (bases, scales)


def fit_of(weight: Tensor, recipe: WeightRecipe) -> Fit:
    """`fitted` as a Fit. Kept until the weight changes in a training step, its backward pass included."""
    return _fit(weight, recipe, _is_training(weight))


def _fit(weight: Tensor, recipe: WeightRecipe, training: bool) -> Fit:
    """Kept while training: a step wants it several times. The bases would be most of what an idle model keeps."""
    if training or warm_start.in_backward():
        return _look_up(weight, "fit", recipe.fit(), _fit_for_step if training else _fit_cold, training)
    shared = _find(_owner(weight), ("fit", recipe.fit(), True, *_layout(weight)))
    return shared if shared is not None and shared.cold else _fit_cold(weight, recipe)


def _fit_cold(weight: Tensor, recipe: WeightRecipe, training: bool = False) -> Fit:
    """From the weight alone, or what it was adopted with if it still equals that."""
    flat = flatten_weight(weight.detach().float(), recipe.transposed, recipe.groups)
    adopted = _adopted.get(_owner(weight), {}).get((recipe.fit(), weight.shape))
    if adopted is not None:
        bases, scales = adopted
        same = dequantize_bases(bases, scales).view(flat.shape).to(weight.dtype)
        if torch.equal(same, flat.to(weight.dtype)):
            return Fit(bases.view(-1, *flat.shape), scales)
    bases, scales = fit_bases(flat.flatten(1), recipe.weight_bases, recipe.basis, recipe.per_channel)
    return Fit(bases.view(-1, *flat.shape), scales)


def _fit_for_step(weight: Tensor, recipe: WeightRecipe, training: bool) -> Fit:
    """From the scales of the last step where there are any, else from scratch."""
    if recipe.basis not in SEARCHED or not warm_start.follows(_owner(weight)):
        return _fit_cold(weight, recipe)
    owner = _owner(weight)
    key = warm_start.key_of(
        weight, recipe.weight_bases, recipe.basis, recipe.per_channel, recipe.transposed, recipe.groups
    )
    flat = flatten_weight(weight.detach().float(), recipe.transposed, recipe.groups)
    rows = flat if recipe.per_channel else flat.reshape(1, 1, -1)
    start = warm_start.start_of(owner, key)
    if start is None or not flat.numel():
        fit = _fit_cold(weight, recipe)
        scales = fit.scales[:, : rows.shape[0]].contiguous()
        after = warm_start.Start(scales, warm_start.limit_of(rows, fit.bases.view(-1, *rows.shape), scales))
    else:
        bases, after = warm_start.refit_rows(rows, start, recipe.basis)
        scales = after.alpha if recipe.per_channel else after.alpha.repeat(1, flat.shape[0])
        fit = Fit(bases.view(-1, *flat.shape), scales, cold=False)
    warm_start.fitted_from(owner, key, start, after)
    return fit


def _pack(weight: Tensor, recipe: WeightRecipe, training: bool) -> PackedWeight:
    fit = _fit(weight, recipe, training)
    if training:  # the backward pass wants the dequantized weight
        tap_sums = _look_up(weight, "dequantized", recipe.fit(), _dequantize, training)[1]
    else:
        tap_sums = torch.ops.abc_k.dequantize_weights(fit.bases, fit.scales)[1]
    bits = torch.ops.abc_k.pack_weights(fit.bases, recipe.groups, lanes_of(recipe.method, weight.device))
    return PackedWeight(bits, fit.scales, tap_sums)


def _dequantize(weight: Tensor, recipe: WeightRecipe, training: bool) -> tuple[Tensor, Tensor]:
    """(Ŵ in the layout and dtype of `weight`, tap sums)"""
    fit = None if training else _unpack(weight, recipe)
    fit = fit or _fit(weight, recipe, training)
    rows, tap_sums = torch.ops.abc_k.dequantize_weights(fit.bases, fit.scales)
    value = unflatten_weight(rows.transpose(1, 2), weight.shape, recipe.transposed, recipe.groups)
    return value.to(weight.dtype).contiguous(), tap_sums


def _unpack(weight: Tensor, recipe: WeightRecipe) -> Fit | None:
    """The fit that a packed form of the live weight was made of."""
    owner = _owner(weight)
    keys = (("packed", recipe._replace(method=method), False, *_layout(weight)) for method in METHODS)
    kept = next((value for key in keys if (value := _find(owner, key)) is not None), None)
    if kept is None:
        return None
    outputs, taps, channels = flatten_weight(weight.detach(), recipe.transposed, recipe.groups).shape
    signs = weight_signs(kept.bits, recipe.weight_bases, outputs // recipe.groups, taps, channels)
    return Fit(signs.reshape(-1, outputs, taps, channels).to(torch.int8), kept.alpha)


def _parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    warm_start.before_step(map(_owner, _parameters_of(optimizer)))


def _after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    owners = [_owner(parameter) for parameter in _parameters_of(optimizer)]
    _forget(owners)
    warm_start.after_step(owners)


register_optimizer_step_pre_hook(_before_step)
register_optimizer_step_post_hook(_after_step)
