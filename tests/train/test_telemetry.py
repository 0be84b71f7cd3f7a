import math

import pytest
import torch
from tiny import quantized_net

from abcfx.data import Dataset
from abcfx.quant.activations import quantize
from abcfx.train.telemetry import Telemetry, TrainingWarning, input_row, troubles, weight_row


def test_flips_and_dead_signs(data: Dataset):
    model = quantized_net(M=1)
    telemetry = Telemetry(model)
    images = data.prepare(data.train_x[:16])
    with torch.no_grad():
        model.conv2.weight[:4, :, 0, 0] *= -1  # 32 of 576 signs
    first = telemetry.look(images, 1)[0]
    assert first["layer"] == "conv2"
    assert first["flip_1"] == pytest.approx(32 / 576)
    assert first["dead_signs"] == pytest.approx(1 - 32 / 576)
    second = telemetry.look(images, 2)[0]
    assert second["flip_1"] == 0
    assert second["dead_signs"] == first["dead_signs"]


def test_what_was_seen_can_be_kept():
    model = quantized_net(M=1)
    telemetry = Telemetry(model)
    with torch.no_grad():
        model.conv2.weight[0] *= -1
    later = Telemetry(model)
    later.load_state_dict(telemetry.state_dict())
    assert later.look_at_weights()["conv2"]["flip_1"] == pytest.approx(1 / 8)


def test_collapsed_bases_are_counted():
    bases = torch.ones(2, 4, 6, dtype=torch.int8)
    bases[:, :, 0] = -1
    bases[1, 1:, 1] = -1  # channel 0: equal
    bases[1, 1] = -bases[0, 1]  # channel 1: opposite
    bases[1, 3] = 1  # channel 3: constant
    scales = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.5, 0.5, 1e-5, 0.5]])  # channel 2: a scale of zero
    row = weight_row(torch.zeros(2, 4, 6, dtype=torch.bool), torch.ones(2, 4, 6, dtype=torch.bool), bases, scales)
    assert row["collapsed"] == 3 / 4
    assert row["constant"] == 1 / 8
    assert row["dead_signs"] == 0


def test_inputs_on_coded_levels():
    scale, shift = torch.tensor([1.0]), torch.tensor([0.0])
    x = torch.tensor([-1.0, 0.0, 0.2, 1.0, 1.2, 5.0, 6.0, 9.0])
    row = input_row(x, scale, shift, 2, "coded")
    assert row["below"] == 1 / 8
    assert row["above"] == 3 / 8
    assert row["codes_used"] == 3 / 4
    shares = [3 / 8, 2 / 8, 3 / 8]
    assert row["entropy_bits"] == pytest.approx(-sum(p * math.log2(p) for p in shares))


def test_inputs_on_thermometer_levels():
    scale, shift = torch.tensor([1.0, 1.0]), torch.tensor([0.0, -1.0])  # thresholds 0.5 and 1.5
    row = input_row(torch.tensor([0.0, 0.6, 1.0, 2.0]), scale, shift, 2, "thermometer")
    assert (row["below"], row["above"], row["codes_used"]) == (1 / 4, 1 / 4, 1.0)
    values = quantize(torch.tensor([0.0, 0.6, 1.0, 2.0]), scale, shift, 2, "thermometer")
    assert len(values.unique()) == 3


def test_a_layer_in_trouble_is_named(data: Dataset):
    model = quantized_net()
    telemetry = Telemetry(model)
    images = data.prepare(data.train_x[:16])
    with torch.no_grad():
        model.conv2.activation_scale.fill_(1e-4)
    with pytest.warns(TrainingWarning, match=r"conv2: \d+% of the inputs lie above the highest level: calibrate again"):
        telemetry.look(images, 1)
    assert model.training  # as it was


def test_a_healthy_layer_has_no_troubles(data: Dataset):
    model = quantized_net()
    rows = Telemetry(model).look(data.prepare(data.train_x[:16]), 1)
    assert troubles(rows[0]) == []
    assert rows[0]["codes_used"] == 1


@pytest.mark.parametrize(
    ("field", "message"),
    [("flip_2", "lower the learning rate"), ("collapsed", "smaller M"), ("constant", "one sign only")],
)
def test_each_trouble_says_what_helps(field: str, message: str):
    row = {"flip_1": 0.0, "flip_2": 0.0, "dead_signs": 0.5, "collapsed": 0.0, "constant": 0.0, field: 0.9}
    (text,) = troubles(row)
    assert text.startswith("90% ")
    assert message in text


def test_signs_that_never_change_are_named_from_the_second_epoch_on(data: Dataset):
    telemetry = Telemetry(quantized_net())
    images = data.prepare(data.train_x[:16])
    assert troubles(telemetry.look(images, 1)[0]) == []
    with pytest.warns(TrainingWarning, match="conv2: 100% of the signs have not changed .* raise the learning rate"):
        telemetry.look(images, 2)
