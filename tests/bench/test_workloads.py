"""Workloads: the binary form is the float op on the dequantized operands, and one that is not does not get through."""

from __future__ import annotations

import fnmatch

import pytest
import torch

from abcfx.bench import shapes, workloads
from abcfx.bench.contest import best_method
from abcfx.bench.workloads import ConvShape, LinearShape, Spec, WrongResult, methods
from abcfx.ops import library

pytestmark = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")
SHAPES = [LinearShape("l", 5, 70, 21), ConvShape("c", 2, 18, 9, 3, 7, stride=2), ConvShape("p", 1, 32, 16, 1, 5)]


def test_macs_are_worked_out_by_hand():
    assert LinearShape("", 4, 10, 3).macs == 4 * 10 * 3
    assert ConvShape("", 2, 64, 128, 3, 56, stride=2).macs == 2 * 28 * 28 * 128 * 64 * 9
    assert ConvShape("", 1, 256, 64, 1, 56).macs == 56 * 56 * 64 * 256


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_binary_form_is_the_layer(shape: workloads.Shape, method: str):
    workload = shape.workload()
    for layout in shape.layouts:
        binary = workload.binary(Spec(2, 3, method, layout))
        assert binary.check() < workloads.TOLERANCE
        want = workload.module(binary.x)
        got = binary.whole()
        assert got.shape == want.shape
        if got.dim() == 4:
            wanted = torch.channels_last if layout == "channels_last" else torch.contiguous_format
            assert got.is_contiguous(memory_format=wanted)
        assert torch.equal(binary.kernel()(), got)


@pytest.mark.parametrize("method", methods())
def test_one_wrong_plane_is_found(method: str):
    workload = LinearShape("l", 5, 70, 21).workload()
    binary = workload.binary(Spec(2, 2, method, "rows"))
    binary.weight.bits[0, 0, -1] ^= 1  # 64 lanes hold both planes of 21 outputs in one vector
    with pytest.raises(WrongResult, match=r"70→21, batch 5, M=2, N=2, \w+, rows: the kernel is off by"):
        binary.check()


def test_a_result_that_is_nan_or_has_another_shape_is_found(monkeypatch: pytest.MonkeyPatch):
    workload = LinearShape("l", 5, 70, 21).workload()
    binary = workload.binary(Spec(1, 1, "xnor", "rows"))
    monkeypatch.setattr(workload, "product", lambda *_: torch.full((5, 21), torch.nan))
    with pytest.raises(WrongResult, match="off by nan"):
        binary.check()
    monkeypatch.setattr(workload, "product", lambda *_: torch.zeros(5, 1))
    with pytest.raises(WrongResult, match=r"gives \[5, 1\], the float op \[5, 21\]"):
        binary.check()


def test_the_fastest_method_races_and_a_wrong_one_stops_everything(monkeypatch: pytest.MonkeyPatch):
    workload = LinearShape("l", 5, 70, 21).workload()
    specs = [Spec(1, 1, method, "rows") for method in methods()]
    assert best_method(workload, specs).spec in specs
    monkeypatch.setattr(workload, "product", lambda *_: torch.zeros(5, 21))
    with pytest.raises(WrongResult):
        best_method(workload, specs)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method must be one of xnor, .*got 'magic'"):
        workloads.recipe_for(1, "magic")


def test_the_dense_form_has_the_same_value():
    workload = ConvShape("c", 2, 16, 9, 3, 7).workload()
    spec = Spec(2, 2, "xnor", "channels_last")
    module, x = workload.dense(spec)
    torch.testing.assert_close(module(x), workload.binary(spec).whole(), rtol=0, atol=1e-4)


def test_network_shapes_have_names_of_their_own():
    names = [shape.name for shape in shapes.network_shapes()]
    assert len(set(names)) == len(names)
    assert set(shapes.QUICK) <= set(names)
    assert {name.split("/")[0] for name in names} >= {"resnet18", "resnet50", "wrn-28-10", "vit-b", "bert-base"}


def test_select_takes_globs_and_refuses_one_without_a_match():
    found = shapes.select(shapes.network_shapes(), ["resnet18/*", "*/qkv"])
    assert all(fnmatch.fnmatch(shape.name, "resnet18/*") or shape.name.endswith("/qkv") for shape in found)
    assert len(found) == 9
    with pytest.raises(ValueError, match="--only 'alexnet/\\*' matches no shape; the names are linear/1024-b1"):
        shapes.select(shapes.network_shapes(), ["resnet18/*", "alexnet/*"])
