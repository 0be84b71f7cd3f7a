"""Bad input gives an error that names the layer, what was got and what was needed; never a crash or a silent number."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import abcfx


def three(width: int = 32) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, 2))


def ready(model: nn.Module, x: Tensor) -> nn.Module:
    return abcfx.calibrate(abcfx.quantize_model(model), [x])


@pytest.mark.parametrize("value", [0, 9, -1, 2.0, True, "2", None])
@pytest.mark.parametrize("name", ["M", "N"])
def test_bases_out_of_range(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{name} .* must be an integer from 1 to 8, got"):
        abcfx.quantize_model(three(), **{name: value})


def test_unknown_kinds() -> None:
    with pytest.raises(ValueError, match="basis must be one of alternating, coded, greedy, abc, got 'xnor'"):
        abcfx.quantize_model(three(), basis="xnor")
    with pytest.raises(ValueError, match="levels must be one of coded, thermometer, got 'log'"):
        abcfx.quantize_model(three(), levels="log")


@pytest.mark.parametrize("rule", ["include", "exclude", "overrides"])
def test_unmatched_rules(rule: str) -> None:
    value = {"layer9*": {"M": 1}} if rule == "overrides" else ["layer9*"]
    with pytest.raises(ValueError, match=rf"{rule} rule 'layer9\*' matches no layer; the layers are: 0, 1, 2"):
        abcfx.quantize_model(three(), **{rule: value})


def test_override_with_a_wrong_key_or_value() -> None:
    with pytest.raises(ValueError, match=r"overrides\['1'\] has unknown keys \['K'\]"):
        abcfx.quantize_model(three(), overrides={"1": {"K": 1}})
    with pytest.raises(ValueError, match=r"overrides\['1'\]: M .* got 12"):
        abcfx.quantize_model(three(), overrides={"1": {"M": 12}})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_weights_name_the_layer(bad: float) -> None:
    model = three()
    with torch.no_grad():
        model[1].weight[0, :3] = bad
    with pytest.raises(ValueError, match="1: 3 of 1024 weights are NaN or infinite"):
        abcfx.quantize_model(model)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_turn_bad_later_name_what_is_wrong(bad: float) -> None:
    q = ready(three(), torch.randn(4, 8))
    with torch.no_grad():
        q[1].weight[0, 0] = bad
    with pytest.raises(ValueError, match=r"1: weights must be finite: "):
        q(torch.randn(4, 8))


def test_models_without_a_usable_layer() -> None:
    for model in (nn.Sequential(), nn.ReLU(), nn.Sequential(nn.BatchNorm2d(3), nn.Embedding(4, 4))):
        with pytest.raises(ValueError, match="no layer can be quantized .*no convolution or linear layer"):
            abcfx.quantize_model(model)
    with pytest.raises(ValueError, match="bilinear multiplies two activations"):
        abcfx.quantize_model(nn.Bilinear(4, 4, 4))
    with pytest.raises(TypeError, match="takes an nn.Module, got function"):
        abcfx.quantize_model(lambda x: x)


def test_lazy_layer() -> None:
    with pytest.raises(ValueError, match="0: a lazy layer has no weight yet"):
        abcfx.quantize_model(nn.Sequential(nn.LazyLinear(4)))


def test_wrong_channel_count_names_layer_and_shapes() -> None:
    q = ready(three(), torch.randn(4, 8))
    with pytest.raises((ValueError, RuntimeError), match=r"1: .*\[4, 31\].*needs 32"):
        q[1](torch.randn(4, 31))
    conv = ready(nn.Conv2d(32, 8, 3), torch.randn(2, 32, 8, 8))
    with pytest.raises((ValueError, RuntimeError), match=r"\[2, 16, 8, 8\].* needs 32 channels"):
        conv(torch.randn(2, 16, 8, 8))
    with pytest.raises((ValueError, RuntimeError), match=r"kernel"):
        conv(torch.randn(2, 32, 2, 2))


def test_integer_input() -> None:
    q = ready(three(), torch.randn(4, 8))
    with pytest.raises((ValueError, RuntimeError), match=r"needs a floating-point input, got torch\.int64"):
        q[1](torch.ones(4, 32, dtype=torch.int64))


def test_zero_size_batches_pass_through() -> None:
    q = ready(three(), torch.randn(4, 8))
    assert q(torch.randn(0, 8)).shape == (0, 2)
    conv = ready(nn.Conv2d(32, 8, 3, padding=1), torch.randn(2, 32, 8, 8))
    assert conv(torch.randn(0, 32, 8, 8)).shape == (0, 8, 8, 8)


def test_non_contiguous_inputs_give_the_same_numbers() -> None:
    conv = ready(nn.Conv2d(32, 8, 3, padding=1), torch.randn(2, 32, 8, 8))
    x = torch.randn(2, 32, 8, 8)
    want = conv(x)
    for same in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        assert not same.is_contiguous()
        assert torch.equal(conv(same), want)
    wide = torch.randn(2, 32, 16, 16)
    assert torch.equal(conv(wide[:, :, ::2, ::2]), conv(wide[:, :, ::2, ::2].contiguous()))
    linear = ready(nn.Linear(32, 8), torch.randn(4, 32))
    rows = torch.randn(32, 4).t()
    assert torch.equal(linear(rows), linear(rows.contiguous()))


def test_nan_activations_read_as_the_lowest_level() -> None:
    """Documented: NaN compares false with every threshold, so it is the lowest level; the output has no NaN."""
    linear = ready(nn.Linear(64, 8), torch.randn(64, 64))
    x = torch.randn(4, 64)
    low = x.clone()
    x[1, 3], low[1, 3] = torch.nan, -torch.inf
    assert torch.isfinite(linear(x)).all()
    assert torch.equal(linear(x), linear(low))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_calibration_data_names_the_layer(bad: float) -> None:
    q = abcfx.quantize_model(three())
    x = torch.randn(4, 8)
    x[0, 0] = bad
    with pytest.raises(ValueError, match="1: .* input values are NaN or infinite while calibrating"):
        abcfx.calibrate(q, [x])
    abcfx.calibrate(q, [torch.randn(4, 8)])
    assert torch.isfinite(q(torch.randn(4, 8))).all()


def test_calibration_without_data_or_layers() -> None:
    with pytest.raises(ValueError, match="calibration saw no data"):
        abcfx.calibrate(abcfx.quantize_model(three()), [])
    with pytest.raises(ValueError, match="no quantized layer"):
        abcfx.calibrate(three(), [torch.randn(4, 8)])
    with pytest.raises(ValueError, match="cannot feed a batch of type int"):
        abcfx.calibrate(abcfx.quantize_model(three()), [3])


def test_model_on_meta() -> None:
    with torch.device("meta"):
        model = three()
    q = abcfx.quantize_model(model)
    assert q[1].weight.is_meta
    with pytest.raises(ValueError, match="1: .*meta"):
        abcfx.calibrate(q, [torch.randn(4, 8, device="meta")])
    real = ready(three(), torch.randn(4, 8))
    q = q.to_empty(device="cpu")
    q.load_state_dict(real.state_dict())
    x = torch.randn(3, 8)
    assert torch.equal(q(x), real(x))
