"""Measuring once: which times are kept, what names them, and that choose and torch.compile use them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import abcfx
from abcfx import autotune
from abcfx.cost import RATES, Dims, fit
from abcfx.ops import candidates, library
from abcfx.ops.choose import choose, forcing, methods, tuning
from abcfx.ops.workload import Workload
from abcfx.plan import LayerPlan

CPU = torch.device("cpu")
LINEAR = Workload.linear((48, 96), torch.float32, (5, 96))
kernels = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store, short rounds, and no answer remembered by choose."""
    from abcfx.ops import choose as module

    monkeypatch.setenv("ABCFX_CACHE", str(tmp_path))
    monkeypatch.setattr(autotune, "ROUND_S", 1e-4)
    module._choose.cache_clear()
    return tmp_path / "autotune.json"


def forget() -> None:
    """As in a new process."""
    from abcfx.ops import choose as module

    module._choose.cache_clear()
    autotune._store.cache_clear()


def test_race_puts_functions_in_order():
    ms = autotune.race({"slow": lambda: time.sleep(2e-3), "fast": lambda: time.sleep(2e-4)})
    assert ms["slow"] > 2 > ms["fast"] > 0.1


def test_a_key_is_measured_once(cache: Path):
    made = []

    def make() -> dict:
        made.append(1)
        return {"xnor": lambda: None, "dense": lambda: time.sleep(1e-3)}

    dims = Dims(1, 2, 3)
    first = autotune.measured("a", ["xnor", "dense"], dims, make)
    forget()
    assert autotune.measured("a", ["dense"], dims, make) == {"dense": first["dense"]}
    assert len(made) == 1
    autotune.measured("a", ["xnor", "lut"], dims, lambda: make() | {"lut": lambda: None})  # a form that is new here
    autotune.measured("b", ["xnor"], dims, make)
    assert len(made) == 3
    assert json.loads(cache.read_text())["entries"]["a"]["dims"] == list(dims)


@kernels
@pytest.mark.parametrize("levels", ["coded", "thermometer"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("kind", ["linear", "conv2d", "grouped", "conv1d", "bfloat16"])
def test_every_candidate_runs_and_gives_the_shape_of_the_layer(kind: str, compiled: bool, levels: str):
    ones = ([1, 1], [1, 1], [1, 1], False, [0, 0])
    line = ([2], [0], [1], False, [0], 1)
    workload, shape = {
        "linear": (Workload.linear((48, 96), torch.float32, (2, 3, 96), compiled), (6, 48)),
        "bfloat16": (Workload.linear((48, 96), torch.bfloat16, (6, 96), compiled), (6, 48)),
        "conv2d": (
            Workload.convolution((8, 16, 3, 3), torch.float32, (2, 16, 5, 4), (*ones, 1), compiled, True),
            (2, 8, 5, 4),
        ),
        "grouped": (
            Workload.convolution((8, 16, 3, 3), torch.float32, (2, 32, 5, 4), (*ones, 2), compiled),
            (2, 8, 5, 4),
        ),
        "conv1d": (Workload.convolution((8, 16, 3), torch.float32, (2, 16, 9), line, compiled), (2, 8, 4)),
    }[kind]
    forms = ["xnor", "dense"]
    made = candidates.candidates(workload, LayerPlan(2, 3, levels=levels), forms)
    results = {form: run() for form, run in made.items()}
    assert {form: tuple(y.shape) for form, y in results.items()} == dict.fromkeys(forms, shape)
    if not compiled:  # the compiled stand-in quantizes to nothing that means anything
        # f32 sums in another order; bfloat16 outputs are rounded to 8 bits
        tolerance = 1e-2 if kind == "bfloat16" else 1e-4
        torch.testing.assert_close(results["xnor"], results["dense"], rtol=tolerance, atol=tolerance)


@kernels
def test_choose_takes_the_fastest_measured_form(cache: Path, monkeypatch: pytest.MonkeyPatch):
    with tuning():
        choice = choose(LINEAR, LayerPlan(), CPU)
    assert choice.measured
    assert choice.form == min(choice.ms, key=choice.ms.get)
    assert "(measured: " in str(choice)
    (key,) = json.loads(cache.read_text())["entries"]
    for part in (
        autotune.cpu_model(),
        library.kernel_variant(),
        candidates.kernels_digest(),
        "M2 N2 coded",
        "[48, 96]",
    ):
        assert part in key
    # the file decides, whatever the machine would say today
    document = json.loads(cache.read_text())
    for fast in ("dense", "xnor"):
        document["entries"][key]["ms"] = {"xnor": 9.0, "lut": 9.0, "dense": 9.0, fast: 1.0}
        cache.write_text(json.dumps(document))
        forget()
        monkeypatch.setenv("ABCFX_AUTOTUNE", "1")
        assert choose(LINEAR, LayerPlan(), CPU).form == fast
    monkeypatch.setenv("ABCFX_AUTOTUNE", "0")
    assert not choose(LINEAR, LayerPlan(), CPU).measured


@kernels
def test_nothing_is_measured_where_nothing_can_be_chosen(cache: Path):
    with tuning():
        choose(Workload.linear((8, 4), torch.float32, (5, 4)), LayerPlan(), CPU)
        choose(Workload.linear((48, 96), torch.float32), LayerPlan(), CPU)  # no input known
        choose(LINEAR, LayerPlan(), torch.device("meta"))
        with forcing("xnor"):
            choose(LINEAR, LayerPlan(), CPU)
    assert not cache.exists()


@kernels
def test_the_users_random_numbers_and_modes_are_left_alone():
    torch.manual_seed(3)
    want = torch.rand(2)
    torch.manual_seed(3)
    with tuning(), torch.inference_mode():
        assert choose(LINEAR, LayerPlan(), CPU).measured
    assert torch.equal(torch.rand(2), want)


@kernels
def test_timings_can_be_fitted():
    with tuning():
        choose(LINEAR, LayerPlan(), CPU)
        choose(Workload.linear((64, 512), torch.float32, (64, 512)), LayerPlan(), CPU)
    kept = list(autotune.timings())
    variants = library.kernel_variant("bgemm"), library.kernel_variant("lut")
    reasons = methods(LINEAR, "cpu", variants)
    assert {t.form for t in kept} == {form for form, reason in reasons.items() if reason is None}
    assert len(kept) == 2 * sum(reason is None for reason in reasons.values())
    assert fit(RATES["avx2"], kept) != RATES["avx2"]


@kernels
@pytest.mark.filterwarnings("ignore:.*lru_cache:UserWarning")
@pytest.mark.parametrize("then", ["eager", "inductor"])
def test_compiled_layers_are_measured_and_right(cache: Path, then: str):
    model = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 24))
    x = torch.randn(2, 32, 6, 6)
    q = abcfx.calibrate(abcfx.quantize_model(model, first_last_float=False), [x], progress=False)
    torch._dynamo.reset()
    compiled = torch.compile(q, backend="abc", fullgraph=True, options={"autotune": True, "then": then})
    with torch.no_grad():
        got, want = compiled(x), q(x)
    # one code next to its threshold may flip where the forms of the two layers differ
    assert float((got - want).square().sum() / want.square().sum()) < 1e-3
    keys = sorted(json.loads(cache.read_text())["entries"])
    assert len(keys) == 2
    assert all("compiled" in key for key in keys)


@pytest.mark.parametrize("value", ["yes", 1])
def test_the_option_is_a_switch(value: object):
    from abcfx.options import Options

    with pytest.raises(ValueError, match="autotune"):
        Options.parse({"autotune": value})
    assert Options.parse({"autotune": True}).autotune


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert autotune.cache_folder() == tmp_path
    monkeypatch.delenv("ABCFX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert autotune.cache_folder() == Path("/x/abcfx")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert autotune.cache_folder() == Path.home() / ".cache" / "abcfx"
