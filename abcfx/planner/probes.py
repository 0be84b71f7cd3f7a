"""Directions of the logits along which a network is linearized: what makes sensitivity cheap.

A change δy of a layer's output changes the logits by δz ≈ J·δy. For a direction v of the logits, v·δz = (Jᵀv)·δy: one
backward run for each v serves every layer and every δy.

classes   v = e_c for the K likeliest classes c of each sample: δz itself, on these classes, so that the loss can be
          taken where it is, also where it saturates:  KL(softmax(z) ‖ softmax(z + δz)). For classifiers.
curvature E v vᵀ = H:  loss ≈ ½ δzᵀ H δz = ½ E (v·δz)². For logits at many places (tokens), whose changes one backward
          run cannot tell apart, and for losses that are no KL.
              kl   H = diag(p) - p pᵀ, the Fisher matrix of p = softmax(z):   v = √p ⊙ ε - p·(√p·ε),  ε normal
              mse  H = 1, half the squared error of the outputs:              v = ε

Source: Botev et al. 2017 (Gauss-Newton matrices); Dong et al. 2020 (HAWQ-V2) plan bits with curvatures of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

LOSSES = ("kl", "mse")
CLASSES, RANDOM = 5, 10  # directions by default


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


@dataclass(frozen=True)
class Directions:
    """vectors  f[K, *z.shape]        classes  i64[samples, K] if the vectors are these classes' own, else None"""

    z: Tensor
    vectors: Tensor
    classes: Tensor | None = None

    def loss(self, change: Tensor) -> float:
        """Σ over samples of the loss, for v·δz in f[K, samples] (f[K, 1] if curvature is all there is)."""
        change = change.double()
        if self.classes is None:
            return float(change.square().sum() / (2 * len(change)))
        exact = self.z.double().gather(1, self.classes)
        return divergence(exact, exact + change.T, "kl")


def directions(z: Tensor, loss: str, count: int | None, by_sample: bool, generator: torch.Generator) -> Directions:
    """`count` directions at the logits z, classes in the last dimension; by default CLASSES, or RANDOM ones.

    by_sample  whether every layer keeps the samples apart in its first dimension, as a classifier of images does
    """
    z = z.detach()
    if loss == "kl" and by_sample and z.dim() == 2:
        classes = z.topk(min(count or CLASSES, z.shape[1]), dim=1).indices
        vectors = torch.zeros(classes.shape[1], *z.shape, dtype=z.dtype, device=z.device)
        return Directions(z, vectors.scatter_(2, classes.T.unsqueeze(-1), 1.0), classes)
    noise = torch.randn(count or RANDOM, *z.shape, generator=generator).to(z)
    if loss == "mse":
        return Directions(z, noise)
    p = z.float().softmax(-1).to(z.dtype)
    root = p.sqrt() * noise
    return Directions(z, root - p * root.sum(-1, keepdim=True))


def divergence(exact: Tensor, changed: Tensor, loss: str) -> float:
    """The loss itself, Σ over all places: KL(softmax(exact) ‖ softmax(changed)), or half the squared error."""
    exact, changed = exact.detach().double(), changed.detach().double()
    if loss == "mse":
        return float((exact - changed).square().sum() / 2)
    return float(F.kl_div(changed.log_softmax(-1), exact.log_softmax(-1), reduction="sum", log_target=True))


def places(z: Tensor) -> int:
    """How many distributions a tensor of logits holds: samples, or tokens."""
    return z[..., 0].numel() if z.dim() else 1
