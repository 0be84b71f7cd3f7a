"""Products rounded to bfloat16 inside training steps, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from tiny import TinyNet

import abcfx
from abcfx.data import Dataset
from abcfx.train import Recipe, Trainer
from abcfx.train.precision import rounded_products

BACKENDS = (torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul, torch.backends.cuda.matmul)


def settings() -> list[str]:
    return [backend.fp32_precision for backend in BACKENDS]


def test_the_setting_holds_inside_only() -> None:
    before = settings()
    with rounded_products("f32"):
        assert settings() == before
    with rounded_products("bf16"):
        assert settings() == ["bf16", "bf16", "tf32"]
    assert settings() == before


def test_an_error_inside_takes_it_back() -> None:
    def fail() -> None:
        with rounded_products("bf16"):
            raise KeyError

    before = settings()
    with pytest.raises(KeyError):
        fail()
    assert settings() == before


def test_steps_are_taken_with_it_and_evaluation_is_not(data: Dataset) -> None:
    torch.manual_seed(0)
    teacher = TinyNet().eval()
    model = abcfx.calibrate(abcfx.quantize_model(teacher, 2, 2), data.calibration_batches(64), progress=False)
    seen: list[tuple[bool, str]] = []
    model.register_forward_hook(lambda module, *_: seen.append((module.training, settings()[0])))
    trainer = Trainer(model, data, Recipe(0.5, 0.01, batch=16, products="bf16"), teacher=teacher)
    trainer.run()
    model(data.prepare(data.test_x[:4]))
    assert set(seen) == {(True, "bf16"), (False, settings()[0])}
    assert trainer.loss_sum > 0
