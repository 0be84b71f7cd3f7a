"""`python -m abcfx bench`: tiny runs of each part, files, errors in one sentence, Ctrl-C and wrong kernels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from abcfx.bench import breakeven, contest, fit, model, shapes, workloads
from abcfx.bench.workloads import LinearShape, WrongResult, methods
from abcfx.cli import bench
from abcfx.cli.demo_model import DemoNet
from abcfx.cli.front import main
from abcfx.layers import ABCLayer
from abcfx.ops import library

pytestmark = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")
TINY = ["linear", "--sizes", "32x16", "--batch", "2", "--bases", "1,1", "2,2", "--seconds", "0.02"]


@pytest.fixture(autouse=True)
def no_compiling(monkeypatch: pytest.MonkeyPatch):
    """Compiled rivals take seconds each; here they are absent, with a reason, as on a machine without a compiler."""

    def absent(*_):
        raise RuntimeError("not in this test")

    monkeypatch.setattr("abcfx.bench.rivals.compiled", absent)
    monkeypatch.setattr("abcfx.bench.model.compiled", absent)


def run(*argv: object) -> int:
    return main(["bench", *map(str, argv)])


def test_linear_prints_and_writes_the_same(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert run(*TINY, "--json", tmp_path / "linear.json") == 0
    text = capsys.readouterr().out
    assert "32→16, batch 2" in text
    assert "compiled does not run (RuntimeError: not in this test)" in " ".join(text.split())
    document = json.loads((tmp_path / "linear.json").read_text())
    found = document["measurements"][0]
    assert document["complete"]
    assert [(ours["M"], ours["N"]) for ours in found["ours"]] == [(1, 1), (2, 2)]
    assert set(found["ours"][0]["ratios"]) == {"f32", "bf16", "int8", "int8-only"}
    assert found["ours"][0]["kernel_ms"]["median"] > 0
    assert found["ours"][0]["error"] < workloads.TOLERANCE
    assert found["about"]["threads"] == torch.get_num_threads()
    assert document["machine"]["cpu"] in text


def test_conv_has_both_layouts(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shapes, "CONVOLUTIONS", ((16, 16, 3, 5),))
    small = shapes.conv_shapes((1,), ((16, 16, 3, 5),))
    monkeypatch.setattr(shapes, "conv_shapes", lambda batches, sizes: small)
    assert run("conv", "--bases", "1,1", "--seconds", "0.02", "--rivals", "f32", "dense") == 0
    text = capsys.readouterr().out
    assert "1,1 NHWC" in text
    assert "1,1 NCHW" in text
    assert "dense" in text


def test_gemm_counts_bit_products(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert run("gemm", "--sizes", "4x64x32", "--bases", "2,3", "--seconds", "0.02", "--json", tmp_path / "g.json") == 0
    rate = json.loads((tmp_path / "g.json").read_text())["measurements"][0]["rates"][0]
    assert rate["macs_per_s"] == pytest.approx(2 * 3 * 4 * 64 * 32 / (rate["ms"]["median"] / 1e3))
    assert set(rate["ratios"]) == {"f32", "int8-only"}
    assert "4 x 64 x 32" in capsys.readouterr().out


def test_pack_is_measured_in_bytes_read(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("abcfx.bench.pack.PLACES", {"cache": (1 << 12, 1), "memory": (1 << 14, 3)})
    argv = ["pack", "--channels", 16, "--size", 4, "--planes", 1, 3, "--affine", "--dtypes", "float32", "bfloat16"]
    assert run(*argv, "--seconds", "0.01", "--json", tmp_path / "pack.json") == 0
    found = json.loads((tmp_path / "pack.json").read_text())["measurements"]
    assert len(found) == 2 * 2 * 2  # places, layouts, dtypes
    for one in found:
        about = one["about"]
        assert about["bytes"] == about["batch"] * 16 * 4 * 4 * (2 if about["dtype"] == "bfloat16" else 4)
        assert [rate["N"] for rate in one["rates"]] == [1, 3]
        assert one["rates"][0]["bytes_per_s"] == pytest.approx(about["bytes"] / (one["rates"][0]["ms"]["median"] / 1e3))
        assert one["rates"][0]["ratio"]["median"] > 0
    assert "16ch 4² bfloat16 NCHW in memory, affine" in capsys.readouterr().out


def test_fits_are_timed_against_a_cold_one(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(fit.NETWORKS, "resnet20", (((8, 4, 3, 3), 2), ((8, 8, 1, 1), 1)))
    argv = ["fit", "--networks", "resnet20", "--bases", 1, 3, "--seconds", "0.01", "--json", tmp_path / "fit.json"]
    assert run(*argv) == 0
    found = json.loads((tmp_path / "fit.json").read_text())["measurements"][0]
    assert (found["about"]["layers"], found["about"]["weights"]) == (3, 2 * 288 + 64)
    assert [(one["M"], one["fit"]) for one in found["times"]] == [(m, kind) for m in (1, 3) for kind in fit.FITS]
    assert all(0 < one["fit_ms"]["median"] < 1e3 and one["ratio"]["median"] > 0 for one in found["times"])
    warm = found["times"][5]
    assert warm["fit"] == "warm"
    assert 0 < warm["ratio"]["low"] <= warm["ratio"]["median"] <= warm["ratio"]["high"]  # the machine may be busy
    assert "of a cold fit" in capsys.readouterr().out


def test_breakeven_writes_its_files(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    tiny = [LinearShape("tiny/a", 2, 32, 16), LinearShape("tiny/b", 1, 32, 16)]
    monkeypatch.setattr(shapes, "network_shapes", lambda: tiny)
    argv = ["breakeven", "--out", tmp_path, "--max", 2, "--seconds", "0.01", "--rivals", "f32", "--only", "tiny/*"]
    assert run(*argv) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["breakeven-f32.png", "breakeven.json", "breakeven.md"]
    assert "| tiny/b | 32→16, batch 1 |" in (tmp_path / "breakeven.md").read_text()
    assert "Incomplete" not in (tmp_path / "breakeven.md").read_text()
    assert "tiny/a" in capsys.readouterr().out


def test_ctrl_c_keeps_the_cells_measured_so_far(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shapes, "network_shapes", lambda: [LinearShape("tiny/a", 2, 32, 16)])
    measure, calls = breakeven._measure_cell, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(breakeven, "_measure_cell", interrupted)
    monkeypatch.setattr(breakeven, "HOPELESS", 0.0)  # so small a layer never pays
    assert run("breakeven", "--out", tmp_path, "--max", 2, "--seconds", "0.01", "--rivals", "f32") == 130
    assert "interrupted while measuring tiny/a" in capsys.readouterr().out
    document = json.loads((tmp_path / "breakeven.json").read_text())
    assert not document["complete"]
    assert len(document["measurements"][0]["cells"]) == 2
    assert "**Incomplete:** interrupted" in (tmp_path / "breakeven.md").read_text()


def test_a_wrong_kernel_is_not_timed(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    linear = workloads.LinearWorkload.product
    monkeypatch.setattr(workloads.LinearWorkload, "product", lambda *arguments: 1.001 * linear(*arguments))
    monkeypatch.setattr(contest, "run_laps", lambda *_, **__: pytest.fail("it was timed"))
    assert run(*TINY, "--json", tmp_path / "linear.json") == 1
    captured = capsys.readouterr()
    assert "the kernel is off by 1.0e-03" in captured.err
    document = json.loads((tmp_path / "linear.json").read_text())
    assert document["measurements"] == []
    assert not document["complete"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "PART"),
        (["paint"], "'paint'"),
        (["linear", "--sizes", "axb"], "--sizes axb: give INxOUT"),
        (["linear", "--sizes", "0"], "--sizes 0: give INxOUT"),
        (["gemm", "--sizes", "1x2"], "--sizes 1x2: give rows x depth x columns"),
        (["linear", "--bases", "2"], "--bases 2: give pairs M,N"),
        (["linear", "--bases", "2,9"], "--bases 2,9: N (activation_bases) must be an integer from 1 to 8, got 9"),
        (["linear", "--method", "magic"], f"--method magic: the methods are {', '.join(methods())}, or best"),
        (["linear", "--rivals", "f64"], "'f64'"),
        (["linear", "--seconds", "0"], "--seconds must be above 0"),
        (["linear", "--batch", "0"], "positive integer"),
        (["linear", "--threads", "none"], "positive integer"),
        (["linear", "--json", "/dev/null/x.json"], "--json /dev/null/x.json cannot be written"),
        (["conv", "--layouts", "CHWN"], "'CHWN'"),
        (["conv", "--only", "9x9"], "--only '9x9' matches no shape"),
        (["breakeven", "--only", "alexnet/*"], "--only 'alexnet/*' matches no shape"),
        (["breakeven", "--out", "/dev/null/maps"], "--out /dev/null/maps/breakeven.json cannot be written"),
        (["model"], "MODEL"),
        (["model", "nothing"], "no file 'nothing'"),
        (["model", "torch.nn:ReLU"], "no layer can be quantized"),
        (["model", "demo", "--input", "1,3,28,28"], "demo on an input [1, 3, 28, 28]:"),
    ],
)
def test_bad_arguments_get_one_sentence(argv: list[str], message: str, capsys: pytest.CaptureFixture):
    assert run(*argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize("part", bench.PARTS, ids=lambda part: part.name)
def test_each_part_has_help_with_an_example(part, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit, match="0"):
        run(part.name, "--help")
    assert f"example:\n  python -m abcfx bench {part.name}" in capsys.readouterr().out


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x):
        return {"logits": self.layers(x)}


def test_the_layers_of_a_model_are_checked(monkeypatch: pytest.MonkeyPatch):
    import abcfx

    x = torch.randn(3, 16)
    quantized = abcfx.calibrate(abcfx.quantize_model(Net().eval(), 2, 2), [x], progress=False)
    model.check_layers(quantized, x)
    layer = quantized.layers[2]
    right = type(layer).forward
    monkeypatch.setattr(
        type(layer), "forward", lambda self, x: right(self, x) * (1 if x.dtype == torch.float64 else 1.01)
    )
    with pytest.raises(WrongResult, match=r"layer layers\.2 is off by 1\.0e-02"):
        model.check_layers(quantized, x)


def test_the_first_tensor_of_an_output_is_what_counts():
    x = torch.zeros(2)
    assert model.first_tensor(x) is x
    assert model.first_tensor({"logits": x}) is x
    assert model.first_tensor((None, [x])) is x
    with pytest.raises(ValueError, match="returns a dict without a tensor"):
        model.first_tensor({"a": 1})


def test_a_model_that_compiles_wrong_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "compile", lambda quantized, **_: lambda x: -quantized(x)["logits"])
    with pytest.raises(WrongResult, match="M=2, N=2: the compiled model is off by"):
        model.measure_model("net", Net().eval(), torch.randn(3, 16), [(2, 2)], [], 0.01, lambda what: None)


@pytest.mark.parametrize("options", [[], ["--all-layers"]])
def test_all_layers_of_a_part_are_quantized(options: list[str], monkeypatch: pytest.MonkeyPatch):
    seen = []

    def look(found: nn.Module, *_):
        seen.append(sum(isinstance(layer, ABCLayer) for layer in found.modules()))
        raise RuntimeError("seen enough")

    monkeypatch.setattr(model, "check_layers", look)
    assert run("model", "demo", "--bases", "2,2", *options) != 0
    everything = sum(isinstance(layer, (nn.Conv2d, nn.Linear)) for layer in DemoNet().modules())
    assert seen == [everything if options else everything - 2]


@pytest.mark.parametrize("float_layers", ["f32", "bf16"])
def test_the_float_layers_of_our_forms_multiply_as_asked(float_layers: str, monkeypatch: pytest.MonkeyPatch):
    seen = []

    def look(quantized: nn.Module, **how: object):
        seen.append(how["options"])
        raise RuntimeError("seen enough")

    monkeypatch.setattr(torch, "compile", look)
    assert run("model", "demo", "--bases", "2,2", "--unfused", "--float-layers", float_layers) != 0
    assert seen == [{"fuse": True, "float_layers": float_layers}]
