"""The debug aids: what each level of ABCFX_DEBUG says, ABCFX_SKIP, ABCFX_STOP_AFTER, and checks between stages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from abcfx.passes import spec
from oracle import relative_error
from torch import Tensor, nn

import abcfx
from abcfx import backend, debug
from abcfx.ops import library

pytestmark = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")


def compiled(model: nn.Module, x: Tensor, **options: object) -> Tensor:
    torch._dynamo.reset()
    with torch.no_grad():
        return torch.compile(model, backend="abc", fullgraph=True, options={"then": "eager"} | options)(x)


def said(capsys: pytest.CaptureFixture) -> list[str]:
    return [line.removeprefix("abcfx: ") for line in capsys.readouterr().err.splitlines() if line.startswith("abcfx: ")]


def lowered(monkeypatch: pytest.MonkeyPatch) -> list:
    found = []
    original = backend.Pipeline.lower
    monkeypatch.setattr(backend.Pipeline, "lower", lambda self: found.append(original(self)) or found[-1])
    return found


def test_level_0_says_nothing(quantized: nn.Module, images: Tensor, capsys: pytest.CaptureFixture) -> None:
    compiled(quantized, images)
    assert said(capsys) == []


def test_level_1_has_a_line_for_each_layer(
    net: nn.Module, images: Tensor, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABCFX_DEBUG", "1")
    compiled(net, images, M=2, N=2)
    lines = said(capsys)
    for name in ("stem", "head"):
        assert any(line.startswith(f"{name}: float, the ") for line in lines)
    for name in ("body", "down", "hidden"):
        assert sum(line.startswith(f"{name}: quantized") for line in lines) == 1
        assert sum(line.startswith(f"{name}: xnor") for line in lines) == 1
    assert not any("ms in the stage" in line for line in lines)


def test_level_2_times_every_stage_and_the_total(
    net: nn.Module, images: Tensor, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABCFX_DEBUG", "2")
    compiled(net, images, M=2, N=2)
    lines = said(capsys)
    for stage in ("canonicalize", "rewrite", "lower", "fuse"):
        assert sum(bool(re.match(rf"{stage}: .*\d ms in the stage$", line)) for line in lines) == 1, stage
    assert any(re.match(r"lower: PackedConvolution x2, PackedLinear x1; ", line) for line in lines)
    (total,) = [line for line in lines if line.startswith("in all ")]
    parts = [float(ms) for ms in re.findall(r"(\d+\.\d) ms", total.partition(": ")[2])]
    assert len(parts) == 4
    assert float(re.match(r"in all (\d+\.\d) ms", total)[1]) == pytest.approx(sum(parts), abs=0.25)


def test_level_3_dumps_numbered_graphs(
    quantized: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABCFX_DEBUG", "3")
    monkeypatch.setattr(debug, "_dumped", 0)
    compiled(quantized, images)
    stages = ("lower", "fuse")
    files = sorted(p.name for p in (tmp_path / "abcfx_dump").iterdir())
    both = [(f"{2 * i:02}_before_{s}.txt", f"{2 * i + 1:02}_after_{s}.txt") for i, s in enumerate(stages)]
    assert files == [name for pair in both for name in pair]
    before, after = ((tmp_path / "abcfx_dump" / name).read_text() for name in files[:2])
    assert "abc.convolution" in before or "convolution.default" in before
    assert "pack_image" not in before
    assert "pack_image" in after


def test_level_4_names_rule_node_and_replacement(
    quantized: nn.Module, images: Tensor, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABCFX_DEBUG", "4")
    compiled(quantized, images)
    lines = [line for line in said(capsys) if " is now " in line]
    assert sum(line.startswith("PackedConvolution: ") for line in lines) == 2
    assert any(re.match(r"PackedLinear: \w+ \(abc\.linear\.default\) is now pack_rows\S* -> linear", x) for x in lines)


def test_level_5_tells_kernels_and_layouts(
    quantized: nn.Module, images: Tensor, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABCFX_DEBUG", "5")
    compiled(quantized, images)
    lines = said(capsys)
    assert any(
        f"bgemm {library.kernel_variant('bgemm')}" in line for line in lines if line.startswith("kernel variants")
    )
    packs = [line for line in lines if "abc_k.pack_image.default reads float32[4, 32, 16, 16] strides" in line]
    assert packs
    assert "writes int64[" in packs[0]


@pytest.mark.parametrize("level", ["6", "yes", "-1"])
def test_bad_levels_are_refused(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABCFX_DEBUG", level)
    with pytest.raises(ValueError, match="ABCFX_DEBUG must be a number from 0 to 5"):
        debug.Settings.now()


def test_a_skipped_layer_of_a_quantized_model_runs_dense(
    quantized: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = lowered(monkeypatch)
    want = compiled(quantized, images)
    monkeypatch.setenv("ABCFX_SKIP", "bo?y, hidden")
    got = compiled(quantized, images)
    assert found[0].kernels == ["body", "down", "hidden"]
    assert found[1].kernels == ["down"]
    assert found[1].reasons == dict.fromkeys(["body", "hidden"], "ABCFX_SKIP names it")
    assert relative_error(got, want) <= 5e-3  # an activation within rounding of a threshold flips by one level


def test_a_skipped_layer_of_a_float_model_stays_float(
    net: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABCFX_SKIP", "body")
    plan = abcfx.plan_of(abcfx.quantize_model(net))
    assert plan.reasons["body"] == "ABCFX_SKIP names it"
    assert list(plan.layers) == ["down", "hidden"]


def test_rules_and_the_fuse_stage_can_be_left_out(
    quantized: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("ABCFX_DEBUG", "2")
    want = compiled(quantized, images)
    all_rules = next(line for line in said(capsys) if line.startswith("fuse: "))
    for rule in ("EmitBits", "FoldAffine"):
        assert f"{rule} x" in all_rules
        monkeypatch.setenv("ABCFX_SKIP", rule)
        assert relative_error(compiled(quantized, images), want) <= 5e-3
        assert rule not in next(line for line in said(capsys) if line.startswith("fuse: "))
    monkeypatch.setenv("ABCFX_SKIP", "fuse")
    assert relative_error(compiled(quantized, images), want) <= 5e-3
    assert not any(line.startswith("fuse: ") for line in said(capsys))


@pytest.mark.parametrize("stage", ["rewrite", "lower"])
def test_stop_after(
    stage: str, net: nn.Module, quantized: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipelines = []
    original = backend.open_graph
    monkeypatch.setattr(backend, "open_graph", lambda *a: pipelines.append(original(*a)) or pipelines[-1])
    monkeypatch.setenv("ABCFX_STOP_AFTER", stage)
    if stage == "rewrite":
        compiled(net, images, M=2, N=2)
    else:
        with torch.no_grad():
            want = quantized(images)
        assert relative_error(compiled(quantized, images), want) <= 5e-3
    assert pipelines[-1].ran == (["canonicalize", "rewrite"] if stage == "rewrite" else ["lower"])


def test_stop_after_refuses_a_stage_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABCFX_STOP_AFTER", "lowering")
    with pytest.raises(ValueError, match="ABCFX_STOP_AFTER must be one of canonicalize, .*, got 'lowering'"):
        debug.Settings.now()


def test_stages_are_those_of_the_pipeline() -> None:
    source = Path(backend.__file__).with_name("pipeline.py").read_text()
    assert set(re.findall(r"self\._stage\(\"(\w+)\"", source)) == set(debug.STAGES)


def test_verify_checks_after_every_stage(net: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    original = spec.verify
    monkeypatch.setattr(spec, "verify", lambda gm, level, ran, declined: checked.append(ran[-1]) or original(
        gm, level, ran, declined
    ))  # fmt: skip
    compiled(net, images, M=2, N=2)
    assert checked == ([] if not debug.Settings.now().verify else ["canonicalize", "rewrite", "lower", "fuse"])
    checked.clear()
    monkeypatch.setenv("ABCFX_VERIFY", "1")
    compiled(net, images, M=2, N=2)
    assert checked == ["canonicalize", "rewrite", "lower", "fuse"]
