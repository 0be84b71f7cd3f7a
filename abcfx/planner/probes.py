"""Random directions of the logits whose covariance is the curvature of the loss: what makes sensitivity cheap.

    E v vᵀ = H        KL(p ‖ p̂) ≈ ½ δzᵀ H δz = ½ E (v·δz)²     for a change δz of the logits z

kl    H = diag(p) - p pᵀ, p = softmax(z), the Fisher matrix:   v = √p ⊙ ε - p·(√p·ε),  ε normal
mse   H = 1: half the squared error of the outputs, for models that give no logits:   v = ε

With the adjoint J of the network between a layer and the logits, v·δz = (Jᵀv)·δy: one backward run for each probe
serves every layer and every change δy of its output. Source: Botev et al. 2017 (Gauss-Newton); Dong et al. 2020
(HAWQ-V2) plan bits with curvatures, of the weights alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

LOSSES = ("kl", "mse")


def logits_of(output: Any) -> Tensor:
    """The logits among what a model returns: the tensor itself, `.logits`, or the first tensor of a tuple.

    Raises TypeError that says how to give them.
    """
    if isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        return output["logits"]
    if isinstance(getattr(output, "logits", None), Tensor):
        return output.logits
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    if isinstance(output, Tensor):
        return output
    raise TypeError(
        f"the model returned a {type(output).__name__} without logits; pass forward=lambda model, batch: ..., which "
        f"returns the logits as a tensor"
    )


def draw(z: Tensor, loss: str, generator: torch.Generator) -> Tensor:
    """One v of the shape of z; classes are the last dimension."""
    noise = torch.randn(z.shape, generator=generator).to(z)
    if loss == "mse":
        return noise
    p = z.detach().float().softmax(-1).to(z.dtype)
    root = p.sqrt() * noise
    return root - p * (p.sqrt() * noise).sum(-1, keepdim=True)


def divergence(exact: Tensor, changed: Tensor, loss: str) -> float:
    """The loss itself, Σ over all places: KL(softmax(exact) ‖ softmax(changed)), or half the squared error."""
    exact, changed = exact.detach().double(), changed.detach().double()
    if loss == "mse":
        return float((exact - changed).square().sum() / 2)
    return float(F.kl_div(changed.log_softmax(-1), exact.log_softmax(-1), reduction="sum", log_target=True))


def places(z: Tensor) -> int:
    """How many distributions a tensor of logits holds: samples, or tokens."""
    return z[..., 0].numel() if z.dim() else 1
