"""torch.compile(float_model, backend="abc", options={"M", "N"}): no quantize_model first."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import relative_error
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import abcfx


def compile_(model: nn.Module, **options: Any) -> nn.Module:
    return torch.compile(model, backend="abc", fullgraph=True, options={"M": 2, "N": 2, "then": "eager"} | options)


@pytest.fixture
def quantized(net: nn.Module, images: Tensor) -> nn.Module:
    """What a float model compiled directly must equal: levels fitted, outputs not corrected."""
    return abcfx.calibrate(abcfx.quantize_model(net), [images], correct=False)


def test_equals_quantize_model_and_calibrate(net: nn.Module, quantized: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        assert relative_error(compile_(net)(images), quantized(images)) <= 1e-6


def test_levels_are_frozen_after_the_first_batches(net: nn.Module, quantized: nn.Module, images: Tensor) -> None:
    compiled = compile_(net)
    later = 5 * torch.randn_like(images)
    with torch.no_grad():
        compiled(images)
        assert relative_error(compiled(later), quantized(later)) <= 1e-6
    torch._dynamo.reset()
    both = abcfx.calibrate(abcfx.quantize_model(net, 3, 3), [images, later], correct=False)
    compiled = compile_(net, M=3, N=3, calibration_batches=2)
    with torch.no_grad():
        compiled(images)
        compiled(later)
        assert relative_error(compiled(images), both(images)) <= 1e-6


def test_a_recompile_keeps_the_levels(net: nn.Module, quantized: nn.Module, images: Tensor) -> None:
    compiled = compile_(net)
    with torch.no_grad():
        compiled(images)
        other = 4 * torch.randn(2, 3, 20, 20)
        assert relative_error(compiled(other), quantized(other)) <= 1e-6
    with torch.inference_mode():
        assert relative_error(compiled(other), quantized(other)) <= 1e-6


def test_layer_rules(net: nn.Module, images: Tensor) -> None:
    q = abcfx.calibrate(
        abcfx.quantize_model(net, 1, 1, exclude="down", overrides={"hidden": {"M": 4, "N": 4}}), [images], correct=False
    )
    compiled = compile_(net, M=1, N=1, exclude="down", overrides={"hidden": {"M": 4, "N": 4}})
    with torch.no_grad():
        assert relative_error(compiled(images), q(images)) <= 1e-6


class Functional(nn.Module):
    """Layers written as functions: conv2d with padding='same', addmm, matmul with a constant, a checkpointed block."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(32, 32), nn.Linear(32, 4)
        self.kernel = nn.Parameter(torch.randn(32, 32, 3, 3) / 17)
        self.matrix, self.bias = nn.Parameter(torch.randn(32, 32) / 6), nn.Parameter(torch.randn(32))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.movedim(1, -1)).movedim(-1, 1).relu()
        x = F.conv2d(x, self.kernel, padding="same").relu().mean((2, 3))
        x = torch.addmm(self.bias, x, self.matrix).relu()
        x = checkpoint(lambda y: (y @ self.matrix).relu(), x, use_reentrant=False)
        return self.last(x)


def test_functional_layers(images: Tensor) -> None:
    model, x = Functional().eval(), torch.randn(4, 32, 8, 8)
    with torch.no_grad():
        fine = compile_(model, M=8, N=8)(x)
        torch._dynamo.reset()
        coarse = compile_(model, M=1, N=1)(x)
        # (8, 8) is nearly float, (1, 1) is not: so the functional layers were replaced, and rightly
        assert relative_error(fine, model(x)) < 0.05
        assert relative_error(coarse, model(x)) > 0.05


def test_needs_both_m_and_n(net: nn.Module, images: Tensor) -> None:
    for options, message in (
        ({"M": 2}, "needs both M and N"),
        ({"bits": 2}, r"unknown options \['bits'\]; it takes M, N, basis"),
        ({"M": 2, "N": 9}, "N .* from 1 to 8, got 9"),
        ({"M": 2, "N": 2, "then": "gcc"}, "'then' must be one of inductor"),
        ({"M": 2, "N": 2, "calibration_batches": 0}, "at least 1, got 0"),
    ):
        torch._dynamo.reset()
        with torch.no_grad(), pytest.raises(Exception, match=message):
            torch.compile(net, backend="abc", options=options)(images)


def test_a_float_model_without_options_is_compiled_as_it_is_and_says_so(net: nn.Module, images: Tensor) -> None:
    compiled = torch.compile(net, backend="abc", options={"then": "eager"})
    with torch.no_grad(), pytest.warns(UserWarning, match="found no quantized layer"):
        got = compiled(images)
    with torch.no_grad():
        assert torch.equal(got, net(images))


def test_rules_that_leave_nothing_warn(net: nn.Module, images: Tensor) -> None:
    """A graph may be a part of a model, so a rule that matches nothing in it is no error here."""
    with torch.no_grad(), pytest.warns(UserWarning, match="quantized no layer of this graph: .*not in include"):
        assert torch.equal(compile_(net, include="nothing*")(images), net(images))


def test_batch_norm_statistics_are_written_once(net: nn.Module, images: Tensor) -> None:
    """Observing the first batch runs the float graph once more; a training-mode batch norm must not notice."""
    net.train()
    twin = copy.deepcopy(net)
    with warnings.catch_warnings(), torch.no_grad():
        compile_(net)(images)
        twin(images)
    assert torch.allclose(net.norm.running_mean, twin.norm.running_mean)
    assert net.norm.num_batches_tracked == 1
