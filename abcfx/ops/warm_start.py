"""Where the next fit of a trained weight starts: the scales of the last one, as long as only optimizers changed it.

A chain begins with a fit from scratch ("cold") and goes on with one alternation per optimizer step ("warm",
abcfx/quant/refit.py). Any other change of the weight (load_state_dict, an in-place edit, `invalidate`) ends it, and the
next fit is cold again.

Two fits of about the same error may differ in many signs, and a network that was trained with one of them loses points
of accuracy with the other. So evaluation and packing use the chain as long as it lives, and layers save it with their
state (`weight_start` in the state_dict, in pickles, in copies): what a model computes is a function of its state_dict
and plan, not of how it came there. Weights that no layer owns (functional layers) have no chain and are fitted cold.

A training step does depend on the chain. `warm_starts` reads it and `restore_warm_starts` sets it, for checkpoints from
which training resumes bit for bit.
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from abcfx.ops.weight_fit import fit_bases
from abcfx.plan import SEARCHED
from abcfx.quant.cells import require_finite
from abcfx.quant.weights import dequantize_bases

# Alternations a step. More follow the weights closer, each for some 0.3 ns a weight (docs/levels.md has the errors).
ALTERNATIONS = 2
# A row whose relative error has grown by this factor since its last cold fit (or over the mean one of its layer, if
# that is larger) gets MORE alternations, and a cold fit if these do not bring it below.
JUMP = 2
MORE = 16


class Start(NamedTuple):
    """alpha  f32[M, rows]: scales to start from    limit  f64[rows]: relative error above which a row is fitted anew"""

    alpha: Tensor
    limit: Tensor


@dataclass
class Chain:
    """Of one weight in one use. `before` is what the last fit started from, `after` what the next one will."""

    before: Start | None
    after: Start
    version: int
    stepped: bool = False


_lock = threading.RLock()
_chains: WeakIdKeyDictionary = WeakIdKeyDictionary()  # owner → {key: Chain}
_followed: WeakIdKeyDictionary = WeakIdKeyDictionary()  # weights of layers


def under_autograd() -> bool:
    """Whether gradients will flow, or are flowing, through what is made of a differentiable tensor now.

    Operators run below autograd, where grad mode is off whatever the user said. What tells there: the forward pass of
    every autograd.Function, those of registered operators and of compiled graphs among them, switches forward-mode
    gradients off, which `torch.no_grad` does not; and the backward pass has a graph task.
    """
    if torch.is_inference_mode_enabled():
        return False
    return torch.is_grad_enabled() or not torch._C._is_fwd_grad_enabled() or in_backward()


def in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


def follow(weight: Tensor) -> None:
    """Let this weight have a chain: called by layers that save it with their state (abcfx/layers/base.py)."""
    _followed[weight] = True


def follows(owner: Tensor) -> bool:
    return owner in _followed


def lives(owner: Tensor) -> bool:
    """Whether only optimizers have changed `owner` since its last fit in a training step."""
    return any(chain.version == owner._version for chain in _chains.get(owner, {}).values())


def key_of(
    weight: Tensor, weight_bases: int, basis: str, per_channel: bool, transposed: bool, groups: int
) -> tuple:
    """What tells the chains of one owner apart: how it is fitted, and which view of it."""
    layout = weight.storage_offset(), tuple(weight.shape), tuple(weight.stride())
    kind = () if basis == SEARCHED[0] else (basis,)  # checkpoints know the first without its name
    return (weight_bases, per_channel, transposed, groups, *layout, *kind)


def start_of(owner: Tensor, key: tuple) -> Start | None:
    """What a fit of the live values starts from; None for a cold fit."""
    chain = _chains.get(owner, {}).get(key)
    if chain is None or chain.version != owner._version:
        return None
    return chain.after if chain.stepped else chain.before


def fitted_from(owner: Tensor, key: tuple, before: Start | None, after: Start) -> None:
    """Note a fit of the live values."""
    with _lock:
        _chains.setdefault(owner, {})[key] = Chain(before, after, owner._version)


def limit_of(rows: Tensor, bases: Tensor, alpha: Tensor) -> Tensor:
    """JUMP times the relative error of each row after a cold fit, or times the mean one: f64[rows].

    rows  f32[rows, taps, channels]    bases  int8[M, rows, taps, channels]    alpha  f32[M, rows]
    """
    exact = rows.flatten(1).double()
    error = (exact - dequantize_bases(bases.flatten(2), alpha)).square().sum(-1)
    power = exact.square().sum(-1)
    own = torch.where(power > 0, error / power, 0)
    return JUMP * own.clamp_min(error.sum() / power.sum().clamp_min(torch.finfo(power.dtype).tiny))


@cache
def usual_limit(bases: int) -> Tensor:
    """The limit of normally distributed weights, f64[1]: for rows whose own error says nothing of what is to come, as
    those of a packed model, which are exact and about to be trained.
    """
    rows = torch.randn(64, 1, 1024, generator=torch.Generator().manual_seed(0))
    fitted, scales = fit_bases(rows.flatten(1), bases)
    return limit_of(rows, fitted.view(bases, *rows.shape), scales).mean(0, keepdim=True)


def refit_rows(rows: Tensor, start: Start, basis: str = SEARCHED[0]) -> tuple[Tensor, Start]:
    """Alternations from `start`, a cold fit of the rows that it does not suit: (bases, where the next fit starts)."""
    coded = basis == "coded"
    bases, alpha, error, power = torch.ops.abc_k.refit_weights(rows, start.alpha, ALTERNATIONS, coded)
    jumped = ~(error <= start.limit * power)
    if not bool(jumped.any()):
        return bases, Start(alpha, start.limit)
    chosen, limit = rows[jumped], start.limit[jumped]
    anew, scales, error, power = torch.ops.abc_k.refit_weights(chosen, alpha[:, jumped].contiguous(), MORE, coded)
    cold = ~(error <= limit * power)
    if bool(cold.any()):
        require_finite(rows, "weights")
        coldest = chosen[cold]
        fitted, scales[:, cold] = fit_bases(coldest.flatten(1), len(alpha), basis)
        anew[:, cold] = fitted.view(-1, *coldest.shape)
        limit[cold] = limit_of(coldest, anew[:, cold], scales[:, cold])
    bases[:, jumped], alpha[:, jumped] = anew, scales
    return bases, Start(alpha, start.limit.masked_scatter(jumped, limit))


def forget(owner: Tensor) -> None:
    with _lock:
        _chains.pop(owner, None)


def before_step(owners: Iterable[Tensor]) -> None:
    """An optimizer is about to change these: chains of weights that something else has changed end here."""
    with _lock:
        for owner in owners:
            chains = _chains.get(owner, {})
            for key in [key for key, chain in chains.items() if chain.version != owner._version]:
                del chains[key]


def after_step(owners: Iterable[Tensor]) -> None:
    with _lock:
        for owner in owners:
            for chain in _chains.get(owner, {}).values():
                chain.version, chain.stepped = owner._version, True


def warm_starts(model: nn.Module) -> dict[str, Tensor]:
    """What the next training step of `model` fits its weights from, to be saved beside its state_dict.

    →   f64[M + 1, rows] by names that begin with that of the parameter. Empty before the first training step.

    A trainer saves it with model and optimizer, and calls `restore_warm_starts` after loading them; training then goes
    on as if it had not stopped, bit for bit. Without it, each weight is fitted from scratch once.
    """
    found = {}
    for name, parameter in model.named_parameters():
        found |= {_name_of(name, key): tensor for key, tensor in starts_of(parameter).items()}
    return found


def starts_of(weight: Tensor) -> dict[tuple, Tensor]:
    """`warm_starts` of one weight, by key."""
    starts = {key: start_of(weight, key) for key in _chains.get(weight, {})}
    return {
        key: torch.cat([start.alpha.double(), start.limit.unsqueeze(0)])
        for key, start in starts.items()
        if start is not None
    }


def restore_warm_starts(model: nn.Module, starts: Mapping[str, Tensor]) -> None:
    """Let the next training step of `model` fit from these; call it after load_state_dict, which ends every chain.

    Weights that `starts` does not name are fitted from scratch.
    Raises ValueError for names that are not of `model`'s parameters and for tensors that do not fit them.
    """
    parameters = dict(model.named_parameters())
    chains: dict[str, dict[tuple, Chain]] = {name: {} for name in parameters}
    for text, tensor in starts.items():
        name, key = _key_of(text)
        if name not in parameters:
            raise ValueError(f"warm starts of {name!r}, but the model has no such parameter: restore its own")
        chains[name][key] = _chain_from(parameters[name], key, tensor, text)
    with _lock:
        for name, parameter in parameters.items():
            _chains[parameter] = chains[name]


def restore_start(weight: Tensor, key: tuple, tensor: Tensor) -> None:
    """`restore_warm_starts` of one weight that has one use. Raises ValueError for a tensor that does not fit it."""
    chain = _chain_from(weight, key, tensor, _name_of("weight", key))
    with _lock:
        _chains[weight] = {key: chain}


def _chain_from(weight: Tensor, key: tuple, tensor: Tensor, text: str) -> Chain:
    bases = key[0]
    if tensor.dim() != 2 or tensor.shape[0] != bases + 1:
        raise ValueError(f"the warm start {text!r} must be [{bases + 1}, rows], got {list(tensor.shape)}")
    tensor = tensor.detach().to(weight.device, torch.float64)
    start = Start(tensor[:-1].float(), tensor[-1].clone())
    return Chain(None, start, weight._version, stepped=True)


def _name_of(parameter: str, key: tuple) -> str:
    return f"{parameter}|{key}"


def _key_of(text: str) -> tuple[str, tuple]:
    name, bar, key = text.rpartition("|")
    try:
        parsed = ast.literal_eval(key)
    except (ValueError, SyntaxError):
        parsed = None
    if not bar or not isinstance(parsed, tuple) or not parsed:
        raise ValueError(f"{text!r} is not the name of a warm start; pass what abcfx.warm_starts(model) returned")
    return name, parsed
