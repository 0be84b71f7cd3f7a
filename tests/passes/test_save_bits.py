"""What a compiled training step keeps: bits instead of float activations, and the marks that make it so."""

from __future__ import annotations

import torch
from abcfx.passes.save_bits import SaveBits
from graphs import assert_gradients_of_eager, kept_by_step
from torch import Tensor, nn
from torch.fx import Graph
from torch.utils.checkpoint import CheckpointPolicy

import abcfx

abc = torch.ops.abc


def block(channels: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes kept between the forward and the backward pass, parameters aside; the gradients are computed too."""
    parameters = {p.data_ptr() for p in model.parameters()}
    kept = {(t.data_ptr(), t.shape): t for t in kept_by_step(model, x) if t.data_ptr() not in parameters}
    return sum(t.numel() * t.element_size() for t in kept.values())


def test_a_compiled_step_keeps_a_quarter_of_the_float_one_at_most() -> None:
    """Three blocks of conv, batch norm, ReLU at N = 2: 4 bits a value instead of the 64 of two float tensors."""
    net = nn.Sequential(*(block(64) for _ in range(3)))
    x = torch.randn(4, 64, 12, 12)
    quantized = abcfx.calibrate(abcfx.quantize_model(net, 2, 2, first_last_float=False), [x]).train()
    compiled = torch.compile(quantized, backend="abc", fullgraph=True)
    small, large = saved_bytes(compiled, x), saved_bytes(net, x)
    assert 4 * small <= large
    assert_gradients_of_eager(quantized, x)


def test_marks_keep_those_of_checkpointing() -> None:
    graph = Graph()
    planes = graph.call_function(abc.save_activation.default)
    bits = graph.call_function(getattr, (planes, 0))
    first, second = (graph.call_function(abc.product.default, (bits,)) for _ in range(2))
    second.meta["recompute"] = CheckpointPolicy.MUST_SAVE
    SaveBits()(graph)
    assert planes.meta["recompute"] == bits.meta["recompute"] == CheckpointPolicy.MUST_SAVE
    assert first.meta["recompute"] == CheckpointPolicy.PREFER_RECOMPUTE
    assert second.meta["recompute"] == CheckpointPolicy.MUST_SAVE
