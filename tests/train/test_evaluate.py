import pytest
import torch
from tiny import TinyNet
from torch import nn

from abcfx.data import Dataset
from abcfx.train.evaluate import evaluate, reestimate_batch_norm


def test_a_score_is_accuracy_and_loss(data: Dataset):
    ticks = []
    right = nn.functional.one_hot(data.test_y[:15], 4).float() * 20
    outputs = torch.cat([right, torch.zeros(5, 4)])  # for equal outputs, class 0 is chosen
    score = evaluate(lambda images: outputs, data, lambda: ticks.append(1))
    assert score.accuracy == 100 * (15 + int((data.test_y[15:] == 0).sum())) / 20
    assert score.loss == pytest.approx(5 / 20 * torch.log(torch.tensor(4.0)).item(), abs=1e-6)
    assert len(ticks) == 1


def test_batch_norm_statistics_are_those_of_the_batches():
    model = TinyNet(dropout=0.5).eval()
    momentum = model.norm.momentum
    batches = [torch.randn(16, 1, 8, 8) * 3 + i for i in range(3)]
    reestimate_batch_norm(model, batches)
    with torch.no_grad():
        values = [model.conv1(batch).transpose(0, 1).flatten(1) for batch in batches]
    torch.testing.assert_close(model.norm.running_mean, torch.stack([v.mean(1) for v in values]).mean(0))
    torch.testing.assert_close(model.norm.running_var, torch.stack([v.var(1) for v in values]).mean(0))
    assert model.norm.momentum == momentum
    assert not any(module.training for module in model.modules())
