"""summary(): MACs and bytes against numbers worked out by hand; what it says of layers that stay float; its tables."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import abcfx
from abcfx.cli.demo_model import DemoNet
from abcfx.cli.front import main
from abcfx.ops import library
from abcfx.summary import LayerSummary

compiled = pytest.mark.skipif(not library.loaded(), reason="the compiled kernels are not loaded")


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, groups=2, bias=True), nn.ReLU(),
        nn.ConvTranspose2d(64, 16, 2, stride=2), nn.Flatten(), nn.Linear(16 * 6 * 6, 10),
    ).eval()  # fmt: skip


def rows(model: nn.Module, *inputs: Tensor) -> dict[str, LayerSummary]:
    return {layer.name: layer for layer in abcfx.summary(model, *inputs).layers}


def test_macs_and_shapes_of_each_kind():
    found = rows(net(), torch.randn(2, 3, 8, 8))
    assert {name: layer.float_macs for name, layer in found.items()} == {
        "0": 2 * 32 * 8 * 8 * 3 * 9,
        "2": 2 * 64 * 3 * 3 * 16 * 9,
        "4": 2 * 64 * 3 * 3 * 16 * 4,
        "6": 2 * 10 * 576,
    }
    assert [layer.kind for layer in found.values()] == ["conv2d", "conv2d", "conv_transpose2d", "linear"]
    assert (found["4"].input_shape, found["4"].output_shape) == ((2, 64, 3, 3), (2, 16, 6, 6))


@compiled
def test_binary_layers_count_m_times_n_products(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ABCFX_FORM", "xnor")
    model = abcfx.quantize_model(net(), M=3, N=2)
    found = rows(model, torch.randn(2, 3, 8, 8))
    assert found["2"].runs == "xnor"
    assert found["2"].binary_macs == 3 * 2 * 2 * 64 * 3 * 3 * 16 * 9
    assert found["2"].float_macs == 0
    assert (found["2"].weight_bits, found["2"].activation_bits) == (3, 2)


@compiled
def test_what_runs_is_what_the_cost_model_says():
    def of(m: int, n: int) -> LayerSummary:
        layer = nn.Sequential(nn.Conv2d(128, 128, 3, padding="same"))
        return rows(abcfx.quantize_model(layer, m, n, first_last_float=False), torch.randn(1, 128, 28, 28))["0"]

    few, many = of(1, 1), of(8, 8)
    assert (few.runs, few.note) == (min(few.predicted_ms, key=few.predicted_ms.get), None)
    assert few.runs != "dense"
    assert many.runs == "dense"
    assert "M·N = 64 is beyond the break-even" in many.note
    assert many.predicted_ms["xnor"] > many.predicted_ms["dense"] > 0


def test_a_layer_without_a_kernel_is_dense_and_says_why():
    layer = rows(abcfx.quantize_model(net(), M=3, N=2), torch.randn(2, 3, 8, 8))["4"]
    assert layer.runs == "dense"
    assert layer.binary_macs == 0
    assert layer.float_macs == 2 * 64 * 3 * 3 * 16 * 4
    assert layer.note == "conv_transpose2d has no binary kernel"


def test_bytes_are_those_of_the_files(tmp_path: Path):
    model = net()
    quantized = abcfx.quantize_model(model, M=3, N=2)
    layer = rows(quantized)["2"]
    assert layer.float_bytes == 4 * (64 * 16 * 9 + 64)
    # 3 bits a weight, 3 f32 scales for each of 64 channels, the bias, the scale and the shift of the activations
    assert layer.packed_bytes == 3 * 64 * 16 * 9 // 8 + 4 * 3 * 64 + 4 * 64 + 8
    summary = abcfx.summary(quantized)
    assert summary.float_bytes == sum(4 * parameter.numel() for parameter in model.parameters())
    assert summary.compression == pytest.approx(summary.float_bytes / summary.packed_bytes)


def test_what_calibration_adds_counts_as_packed_only():
    quantized = abcfx.quantize_model(net())
    before = abcfx.summary(quantized)
    abcfx.calibrate(quantized, [torch.randn(4, 3, 8, 8)], progress=False)
    after = abcfx.summary(quantized)
    assert after.float_bytes == before.float_bytes
    assert after.other_bytes == before.other_bytes
    # a gain and a shift for each output channel
    assert after.packed_bytes - before.packed_bytes == 4 * 2 * (64 + 16)


def test_first_and_last_stay_float_and_say_why():
    found = rows(abcfx.quantize_model(net()))
    assert (found["0"].runs, found["6"].runs) == ("float", "float")
    assert "first" in found["0"].note
    assert "last" in found["6"].note


def test_a_float_model_has_only_float_layers():
    summary = abcfx.summary(net(), torch.randn(1, 3, 8, 8))
    assert {layer.runs for layer in summary.layers} == {"float"}
    assert {layer.note for layer in summary.layers} == {"the model is not quantized"}
    assert summary.compression == 1


def test_a_shared_layer_is_counted_as_often_as_it_runs_and_stored_once():
    shared = nn.Linear(32, 32)
    summary = abcfx.summary(nn.Sequential(shared, nn.ReLU(), shared), torch.randn(4, 32))
    assert [(layer.calls, layer.float_macs) for layer in summary.layers] == [(2, 2 * 4 * 32 * 32)]
    assert summary.float_bytes == 4 * (32 * 32 + 32)


def test_opaque_layers_have_bytes_and_no_macs():
    summary = abcfx.summary(nn.Sequential(nn.LSTM(8, 16)), torch.randn(5, 2, 8))
    assert summary.layers[0].float_macs is None
    assert summary.layers[0].float_bytes == 4 * (4 * 16 * (8 + 16) + 2 * 4 * 16)
    assert "recurrent" in summary.layers[0].note


def test_the_model_is_left_as_it_was():
    model = abcfx.quantize_model(net()).train()
    model[1].eval()
    abcfx.summary(model, torch.randn(1, 3, 8, 8))
    assert model.training
    assert not model[1].training
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(abcfx.NotCalibratedError):
        model(torch.randn(1, 3, 8, 8))


def test_an_error_of_the_model_goes_through_and_leaves_no_hook():
    model = net()
    with pytest.raises(RuntimeError, match="channels"):
        abcfx.summary(model, torch.randn(1, 4, 8, 8))
    assert not any(module._forward_hooks for module in model.modules())


def test_something_else_is_a_type_error():
    with pytest.raises(TypeError, match="summary takes an nn.Module, got dict"):
        abcfx.summary({})


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_table_fits_the_terminal(width: int):
    console = Console(file=io.StringIO(), width=width)
    console.print(abcfx.summary(abcfx.quantize_model(DemoNet()), torch.randn(1, 1, 28, 28)))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    # every layer on one line, with its bytes
    for layer in ("stem.0", "stage1.conv1", "stage2.shortcut.0", "head.2"):
        assert [line for line in lines if line.split()[:1] == [layer] and "kB" in line]
    assert not any("…" in line for line in lines)


def test_long_names_break_at_dots():
    model = nn.Module()
    model.add_module("encoder_of_model", nn.Module())
    model.encoder_of_model.add_module("self_attention", nn.Linear(16, 16))
    console = Console(file=io.StringIO(), width=70)
    console.print(abcfx.summary(model))
    text = [line.strip() for line in console.file.getvalue().splitlines()]
    assert any(line.startswith("encoder_of_model. ") for line in text)
    assert "self_attention" in text


def test_str_is_the_table():
    text = str(abcfx.summary(abcfx.quantize_model(net()), torch.randn(1, 3, 8, 8)))
    assert "Sequential on 1×3×8×8" in text
    assert "2 of 4 layers quantized" in text


def test_the_command_prints_json(capsys: pytest.CaptureFixture):
    assert main(["summary", "demo", "--json", "--M", "3", "--exclude", "stage1.*"]) == 0
    document = json.loads(capsys.readouterr().out)
    layers = {layer["name"]: layer for layer in document["layers"]}
    assert layers["stage1.conv1"]["note"] == "excluded by 'stage1.*'"
    assert layers["stage3.conv2"]["M"] == 3
    assert document["totals"]["compression"] > 5


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture):
    assert main(["summary", "demo", "--include", "stage3.*"]) == 0
    assert "3 of 10 layers quantized" in capsys.readouterr().out


def test_a_state_dict_has_no_architecture(tmp_path: Path, capsys: pytest.CaptureFixture):
    torch.save(net().state_dict(), tmp_path / "weights.pt")
    assert main(["summary", str(tmp_path / "weights.pt")]) == 2
    assert "holds a state_dict" in capsys.readouterr().err


def test_a_pickled_module_is_read_only_on_request(tmp_path: Path, capsys: pytest.CaptureFixture):
    torch.save(DemoNet(), tmp_path / "model.pt")
    argv = ["summary", str(tmp_path / "model.pt"), "--input", "1,1,28,28"]
    assert main(argv) == 2
    assert "add --unsafe-load if you trust" in capsys.readouterr().err
    assert main([*argv, "--unsafe-load"]) == 0
    assert "8 of 10 layers quantized" in capsys.readouterr().out


def test_a_file_that_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "notes.txt").write_text("hello")
    assert main(["summary", str(tmp_path / "notes.txt")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
