"""Compiled training: the straight-through gradients of the compiled graph are those of eager mode."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from oracle import relative_error
from small_net import gradients
from torch import Tensor, nn

import abcfx


@pytest.mark.parametrize("then", ["aot_eager", "inductor"])
def test_gradients_equal_eager(quantized: nn.Module, images: Tensor, then: str) -> None:
    compiled = torch.compile(quantized, backend="abc", fullgraph=True, options={"then": then})
    got, want = gradients(compiled, images), gradients(quantized, images)
    assert got.keys() == want.keys() == dict(quantized.named_parameters()).keys()
    limit = 1e-5 if then == "aot_eager" else 2e-2  # a code that flips in the forward pass moves its gradients too
    for name, grad in want.items():
        assert relative_error(got[name], grad) <= limit, name


def test_ten_steps_follow_eager(net: nn.Module, images: Tensor) -> None:
    net.train()
    eager = abcfx.calibrate(abcfx.quantize_model(net), [images])
    other = copy.deepcopy(eager)
    compiled = torch.compile(other, backend="abc", fullgraph=True, options={"then": "aot_eager"})
    losses: list[list[float]] = [[], []]
    for losses_of, model, trained in ((losses[0], eager, eager), (losses[1], compiled, other)):
        optimizer = torch.optim.SGD(trained.parameters(), lr=1e-3, momentum=0.9)
        for _ in range(10):
            optimizer.zero_grad()
            loss = (model(images) - 1).square().mean()
            loss.backward()
            optimizer.step()
            losses_of.append(loss.item())
    assert losses[0][-1] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@torch._dynamo.config.patch(error_on_recompile=True)
def test_training_with_a_dynamic_batch_takes_one_graph(quantized: nn.Module) -> None:
    compiled = torch.compile(quantized, backend="abc", fullgraph=True, dynamic=True)
    for batch in (4, 7, 2):
        gradients(compiled, torch.randn(batch, 3, 16, 12))


def test_a_float_model_trains_too(net: nn.Module, images: Tensor) -> None:
    compiled: Any = torch.compile(net, backend="abc", fullgraph=True, options={"M": 2, "N": 2, "then": "aot_eager"})
    q = abcfx.calibrate(abcfx.quantize_model(net), [images], correct=False)
    got, want = gradients(compiled, images), gradients(q, images)
    for name, grad in got.items():
        assert relative_error(grad, want[name]) <= 1e-5, name


def test_switching_between_training_and_inference(quantized: nn.Module, images: Tensor) -> None:
    compiled = torch.compile(quantized, backend="abc", options={"then": "aot_eager"})
    optimizer = torch.optim.Adam(quantized.parameters(), lr=1e-2, fused=True)
    for _ in range(3):
        optimizer.zero_grad()
        compiled(images).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            assert relative_error(compiled(images), copy.deepcopy(quantized)(images)) <= 1e-4
