"""Rivals: each form runs and gives the float layer's output; one that fails is kept with its reason."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from abcfx.bench import contest, heats
from abcfx.bench.contest import Contestant
from abcfx.bench.heats import Form, fastest, is_slow, run_heats
from abcfx.bench.rivals import engines, layer_rivals
from abcfx.bench.workloads import ConvShape, LinearShape, Spec
from abcfx.ops import library

pytestmark = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")
# int8 with per-tensor activations of step 0.1 and an output of the same step: errors of about a step, values of about 1
INT8_ERROR = 0.25


def as_float(output: Tensor) -> Tensor:
    return output.dequantize() if output.is_quantized else output.float()


@pytest.mark.parametrize("shape", [LinearShape("l", 6, 64, 32), ConvShape("c", 2, 16, 24, 3, 6)], ids=str)
def test_every_form_computes_the_layer(shape):
    workload = shape.workload()
    spec = Spec(2, 2, "xnor", shape.layouts[0])
    want = workload.module(workload.input(spec.layout))
    seen = 0
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's quantized tensors are deprecated, and still its fastest int8
        for kind, forms in layer_rivals(workload, spec, ["f32", "bf16", "int8", "int8-only"]).items():
            for name, build in forms.items():
                if name.startswith("compiled"):
                    continue  # a minute of compiling; `bench` itself checks its shape
                got = build()()
                assert got.shape == want.shape, (kind, name)
                if not name.startswith("_int_mm"):  # integers without their scales
                    error = (as_float(got) - want).abs().max() / want.abs().max()
                    assert error < (1e-5 if kind == "f32" else INT8_ERROR), (kind, name)
                    seen += 1
    assert seen >= 2 + 2 * len(engines())


def test_a_form_that_fails_keeps_its_reason():
    def broken():
        raise RuntimeError("no such engine\nsecond line")

    found = run_heats({"broken": lambda: broken, "wrong": lambda: lambda: torch.zeros(3)}, (2, 2), 1.0)
    assert [form.call for form in found] == [None, None]
    assert found[0].reason == "RuntimeError: no such engine"
    assert found[1].reason == "RuntimeError: its output has the shape [3], not [2, 2]"
    assert fastest(found) == []


def test_the_fastest_and_the_close_ones_race():
    forms = [Form("a", rough_ms=2.2), Form("b", rough_ms=2.0), Form("c", rough_ms=3.0), Form("d", reason="absent")]
    assert [form.name for form in fastest(forms)] == ["b", "a"]
    assert is_slow(Form("a", rough_ms=heats.SLOW * 1.1), 1.0)
    assert not is_slow(Form("d", reason="absent"), 1.0)


def test_a_race_has_every_kind_in_its_result():
    ours = Contestant(Spec(1, 1, "xnor", "rows"), lambda: torch.zeros(1), 0.001, lambda: torch.zeros(1), 0.0)
    entrants = {
        "f32": [Form("eager", lambda: torch.zeros(1), 0.001), Form("compiled", None, None, "no compiler")],
        "int8": [Form("fbgemm", None, None, "absent")],
        "bf16": [Form("eager", lambda: torch.ones(40_000).sum(), 1.0)],
    }
    rivals, results = contest.hold([ours], entrants, 0.02)
    assert rivals["f32"].form == "eager"
    assert rivals["f32"].forms["compiled"] == "no compiler"
    assert (rivals["int8"].form, rivals["int8"].reason) == (None, "fbgemm: absent")
    assert rivals["bf16"].ms.rounds == 3
    assert "3 rounds only" in rivals["bf16"].note
    assert set(results[0].ratios) == set(results[0].kernel_ratios) == {"f32", "bf16"}
