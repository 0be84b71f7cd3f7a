"""What every quantized layer has in common: its plan, its activation levels, and how it is calibrated.

A quantized layer is a subclass of the torch layer it replaces and holds the *same* Parameters under the same names, so
state_dict keys, optimizers, tied weights, pickle and deepcopy go on working. It adds two Parameters, `activation_scale`
and `activation_shift` (docs/levels.md). They are NaN until the layer is calibrated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from abcfx.ops.warm_start import follow, key_of, restore_start, starts_of
from abcfx.plan import LayerPlan
from abcfx.quant.weights import dequantize_bases, flatten_weight, unflatten_weight


class NotCalibratedError(RuntimeError):
    """A quantized layer was used before its activation levels were fitted."""


class ABCLayer(nn.Module):
    """Mixin of the quantized layers; the torch layer stands beside it in the bases of each class.

    plan      the LayerPlan this layer follows          abc_name  its fully qualified name, for messages
    observer  set while calibrating: sees each input, and the layer computes in float meanwhile
    """

    abc_name: str
    observer: Callable[[ABCLayer, Tensor], None] | None
    activation_scale: nn.Parameter
    activation_shift: nn.Parameter
    output_gain: Tensor | None
    output_shift: Tensor | None
    calibrated: bool

    @classmethod
    def from_float(cls, layer: nn.Module, plan: LayerPlan, name: str) -> ABCLayer:
        """A quantized layer with the Parameters, buffers, hooks and mode of `layer`, which is not changed."""
        new = cls.__new__(cls)
        # what nn.Module keeps in dictionaries is copied one level deep: the Parameters themselves are shared
        new.__dict__.update({k: v.copy() if isinstance(v, dict) else v for k, v in layer.__dict__.items()})
        new.adopt_plan(plan, name)
        return new

    @property
    def plan(self) -> LayerPlan:
        return self._plan

    @plan.setter
    def plan(self, plan: LayerPlan) -> None:
        """Its op arguments are kept as one tuple, which torch.compile checks with one guard, in every call; the fields
        of the plan it would check with twenty."""
        self._plan, self._plan_arguments = plan, plan.op_arguments()

    def _weight_start(self) -> Tensor | None:
        """Where the next fit of the weight starts, f64[M + 1, rows] (abcfx/ops/warm_start.py)."""
        weight = self._parameters.get("weight")
        return None if weight is None else next(iter(starts_of(weight).values()), None)

    def _restore_weight_start(self, start: Tensor | None) -> None:
        weight = self._parameters.get("weight")
        if weight is None or weight.is_meta:
            return
        follow(weight)
        if start is not None:
            transposed, plan = isinstance(self, nn.modules.conv._ConvTransposeNd), self.plan
            key = key_of(
                weight, plan.weight_bases, plan.basis, plan.per_channel, transposed, getattr(self, "groups", 1)
            )
            restore_start(weight, key, start)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_abc_weight_start": self._weight_start()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        start = state.pop("_abc_weight_start", None)
        super().__setstate__(state)
        self._restore_weight_start(start)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if (start := self._weight_start()) is not None:
            destination[f"{prefix}weight_start"] = start

    def adopt_plan(self, plan: LayerPlan, name: str) -> None:
        """Set the plan and forget the calibration: levels fitted for another plan mean nothing to this one."""
        self.plan, self.abc_name, self.observer, self.calibrated = plan, name, None, False
        weight: Tensor = self.weight
        values = plan.activation_bases if plan.levels == "thermometer" else 1
        dtype = weight.dtype if weight.dtype.is_floating_point else torch.float32
        for parameter in ("activation_scale", "activation_shift"):
            nan = torch.full((values,), torch.nan, dtype=dtype, device=weight.device)
            self.register_parameter(parameter, nn.Parameter(nan))
        self.set_correction(None, None)
        self._restore_weight_start(None)

    def set_weight(self, bases: Tensor, scales: Tensor, limit: Tensor) -> None:
        """Take fitted bases: the weight becomes Σ_p α_p B_p, and fits of it start from these α, which find them again.

        bases   int8[M, o, taps·channels]   ±1         scales  f32[M, o]
        limit   f64[o], or f64[1] for all: relative error above which training fits a row anew

        The start is part of the layer's state (abcfx/ops/warm_start.py), so copies and checkpoints keep the fit.
        Only for basis="alternating" or "coded", whose fit has a start.
        """
        transposed, groups = isinstance(self, nn.modules.conv._ConvTransposeNd), getattr(self, "groups", 1)
        shape = flatten_weight(self.weight, transposed, groups).shape
        alpha = scales if self.plan.per_channel else scales[:, :1]
        with torch.inference_mode(False), torch.no_grad():
            exact = dequantize_bases(bases, scales).view(shape)
            self.weight.copy_(unflatten_weight(exact, self.weight.shape, transposed, groups))
        self._restore_weight_start(torch.cat([alpha.double(), limit.double().expand(1, alpha.shape[1])]))

    @property
    def channel_dim(self) -> int:
        """Where the output has its channels, counted from its end: -3 after conv2d, -1 after a linear layer."""
        raise NotImplementedError

    def set_correction(self, gain: Tensor | None, shift: Tensor | None) -> None:
        """Take (or drop) the output correction ŷ = g·y + h, f32[channels] each (abcfx/correction.py)."""
        for name, value in (("output_gain", gain), ("output_shift", shift)):
            self.__dict__.pop(name, None)
            with torch.inference_mode(False):  # else it could not be used in training later
                self.register_buffer(name, None if value is None else value.clone().to(self.activation_scale))

    def correct(self, output: Tensor) -> Tensor:
        """ŷ = g·y + h per channel; y itself where there is no correction."""
        if self.output_gain is None:
            return output
        shape = [1] * output.dim()
        shape[self.channel_dim] = -1
        gain, shift = (v.to(output.dtype).view(shape) for v in (self.output_gain, self.output_shift))
        return torch.addcmul(shift, output, gain)

    def set_levels(self, scale: Tensor, shift: Tensor) -> None:
        """Take fitted activation levels; ValueError if they are not finite."""
        if not (torch.isfinite(scale).all() and torch.isfinite(shift).all()):
            raise ValueError(f"{self.abc_name}: activation levels must be finite, got scale={scale}, shift={shift}")
        with torch.no_grad():
            self.activation_scale.copy_(scale)
            self.activation_shift.copy_(shift)
        self.calibrated = True

    def levels_or_raise(self) -> tuple[Tensor, Tensor]:
        if not self.calibrated:
            raise NotCalibratedError(
                f"{self.abc_name}: activation levels are not fitted; call abcfx.calibrate(model, batches), or run a "
                f"few batches inside `with abcfx.calibration(model):`, before using a quantized model"
            )
        return self.activation_scale, self.activation_shift

    def run_op(self, op: Callable[..., Tensor], input: Tensor, *arguments: Any) -> Tensor:
        """op(input, ..., *plan) with this layer's levels and plan, corrected; errors gain the layer's name."""
        scale, shift = self.levels_or_raise()
        weight, bias, *rest = arguments
        everything = (input, weight, bias, scale, shift, *rest, *self._plan_arguments)
        if torch.compiler.is_compiling():
            return self.correct(op(*everything))
        try:
            return self.correct(op(*everything))
        except (ValueError, RuntimeError) as error:
            raise type(error)(f"{self.abc_name}: {error}") from error

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}activation_scale" not in state_dict:
            # A float checkpoint has no levels: what was fitted before is kept, and nothing is reported missing.
            for name in ("activation_scale", "activation_shift", "output_gain", "output_shift"):
                if getattr(self, name) is not None:
                    state_dict[f"{prefix}{name}"] = getattr(self, name).detach()
        elif (f"{prefix}output_gain" in state_dict) != (self.output_gain is not None):
            saved = [state_dict.get(f"{prefix}{name}") for name in ("output_gain", "output_shift")]
            self.set_correction(*(None if value is None else torch.empty_like(value) for value in saved))
        start = state_dict.pop(f"{prefix}weight_start", None)
        super()._load_from_state_dict(state_dict, prefix, *args)
        if start is None or start.shape[0] == self.plan.weight_bases + 1:  # of another M: fitted from scratch
            self._restore_weight_start(start)
        scale, shift = self.activation_scale, self.activation_shift
        self.calibrated = not scale.is_meta and bool(torch.isfinite(scale).all() and torch.isfinite(shift).all())

    def extra_repr(self) -> str:
        plan = self.plan
        text = f"M={plan.weight_bases}, N={plan.activation_bases}, basis={plan.basis}, levels={plan.levels}"
        return f"{super().extra_repr()}, {text}{'' if self.calibrated else ', NOT CALIBRATED'}"
