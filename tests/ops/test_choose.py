"""Which form a layer gets, and why; the work it is judged by; that forcing one never changes what is computed."""

from __future__ import annotations

import timeit
from collections.abc import Iterator

import pytest
import torch
from oracle import TOLERANCE, relative_error

import abcfx  # noqa: F401  registers the ops
from abcfx.cost import rates
from abcfx.ops import library
from abcfx.ops.choose import _choose as choose_from_memory
from abcfx.ops.choose import choose, forcing, methods
from abcfx.ops.workload import CODED_PASSES, PLANE_PASSES, TYPICAL_ROWS, Workload
from abcfx.plan import LayerPlan

CPU = torch.device("cpu")
PLAIN = ((1, 1), (1, 1), (1, 1), False, (0, 0), 1)
AVX512 = "avx512vpopcnt"


def conv(channels: int = 128, size: int = 28, batch: int = 1, geometry: tuple = PLAIN, **more) -> Workload:
    groups = geometry[5]
    weight, image = (channels, channels // groups, 3, 3), (batch, channels, size, size)
    return Workload.convolution(weight, more.pop("dtype", torch.float32), image, geometry, compiled=True, **more)


def pretend(monkeypatch: pytest.MonkeyPatch, popcount: str, table: str) -> None:
    """A machine that runs these variants, of the vendor whose break-even points these tests know."""
    variants = {"bgemm": popcount, "lut": table}
    monkeypatch.setattr(library, "kernel_variant", lambda op="bgemm": variants[op])
    monkeypatch.setattr(rates, "vendor", lambda: "intel")
    choose_from_memory.cache_clear()


@pytest.fixture(autouse=True)
def _forget_the_pretence() -> Iterator[None]:
    yield
    choose_from_memory.cache_clear()


@pytest.fixture
def avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, AVX512, "avx512bw")


NO_KERNEL = {
    "3 dimensions": (
        Workload.convolution((8, 16, 2, 2, 2), torch.float32, None, ((1,) * 3, (0,) * 3, (1,) * 3, False, (0,) * 3, 1)),
        CPU,
        "conv3d has no binary kernel",
    ),
    "transposed": (conv(geometry=(*PLAIN[:3], True, *PLAIN[4:])), CPU, "conv_transpose2d has no binary kernel"),
    "depthwise": (conv(32, geometry=(*PLAIN[:5], 32)), CPU, "1 channels per group; the binary kernel needs 16"),
    "few": (Workload.linear((8, 12), torch.float32), CPU, "12 channels per group"),
    "float64": (conv(dtype=torch.float64), CPU, "float64 input"),
    "another device": (conv(), torch.device("xpu"), "no binary kernel for xpu yet"),
}


@pytest.mark.usefixtures("avx512")
@pytest.mark.parametrize("forced", ["", "xnor", "lut"])
@pytest.mark.parametrize("case", NO_KERNEL)
def test_where_no_kernel_applies_the_layer_is_dense_and_says_why(case: str, forced: str):
    workload, device, reason = NO_KERNEL[case]
    with forcing(forced):
        choice = choose(workload, LayerPlan(), device)
    assert (choice.form, choice.ms) == ("dense", {})
    assert reason in choice.reason
    assert str(choice) == f"dense, {choice.reason}"


def test_without_compiled_kernels(monkeypatch: pytest.MonkeyPatch):
    pretend(monkeypatch, "reference", "reference")
    choice = choose(conv(), LayerPlan(1, 1), CPU)
    assert choice.form == "dense"
    assert "doctor says why" in choice.reason


@pytest.mark.parametrize(
    ("workload", "below", "above"),
    [
        (conv(64, 56), 6, 16),
        (conv(256, 14), 9, 20),
        (Workload.linear((1024, 1024), torch.float32, (256, 1024), True), 9, 20),
        (Workload.linear((1024, 1024), torch.float32, (1, 1024), True), 25, 64),
    ],
    ids=["conv 64", "conv 256", "linear", "linear, one row"],
)
def test_break_even_depends_on_the_shape(workload: Workload, below: int, above: int, monkeypatch: pytest.MonkeyPatch):
    pretend(monkeypatch, AVX512, "reference")
    for products, form in ((below, "xnor"), (above, "dense")):
        m = next(m for m in range(8, 0, -1) if products % m == 0)
        choice = choose(workload, LayerPlan(m, products // m), CPU)
        assert choice.form == form, choice.reason
        assert choice.form == min(choice.ms, key=choice.ms.get)
        assert set(choice.ms) == {"xnor", "dense"}
    assert f"M·N = {above} is beyond the break-even of this shape on {AVX512} with" in choice.reason
    assert f"(predicted: dense {choice.ms['dense']:.3g} ms, xnor" in str(choice)


def test_the_table_kernel_is_weighed_where_it_runs():
    assert "no vector shuffle" in methods(conv(), "cpu", ("portable", "reference"))["lut"]
    assert methods(conv(), "cpu", ("avx2", "avx2")) == {"xnor": None, "lut": None, "dense": None}
    large = Workload.convolution((8, 64, 17, 17), torch.float32, None, PLAIN)
    assert "289 taps; the table kernel takes at most 256" in methods(large, "cpu", ("avx2", "avx2"))["lut"]


@pytest.mark.parametrize(("m", "n"), [(1, 4), (2, 2), (4, 4), (3, 5)])
def test_more_activation_bases_cost_the_table_kernel_almost_nothing(m: int, n: int, monkeypatch: pytest.MonkeyPatch):
    pretend(monkeypatch, "avx2", "avx2")
    choice = choose(Workload.linear((1024, 1024), torch.float32, (256, 1024), True), LayerPlan(m, n), CPU)
    assert choice.form == "lut"
    one = choose(Workload.linear((1024, 1024), torch.float32, (256, 1024), True), LayerPlan(m, 1), CPU)
    assert choice.ms["lut"] < 1.2 * one.ms["lut"]


@pytest.mark.usefixtures("avx512")
@pytest.mark.parametrize("form", ["xnor", "lut", "dense"])
def test_a_form_can_be_forced(form: str, monkeypatch: pytest.MonkeyPatch):
    with forcing(form):
        assert choose(conv(), LayerPlan(3, 3), CPU).form == form
    monkeypatch.setenv("ABCFX_FORM", form)
    choice = choose(conv(), LayerPlan(3, 3), CPU)
    assert (choice.form, choice.reason) == (form, f"ABCFX_FORM={form}")
    monkeypatch.setenv("ABCFX_FORM", "int8")
    with pytest.raises(ValueError, match="ABCFX_FORM must be one of xnor, lut, dense, got 'int8'"):
        choose(conv(), LayerPlan(), CPU)


@pytest.mark.usefixtures("avx512")
def test_asking_again_takes_microseconds():
    workload, plan = conv(), LayerPlan()
    choose(workload, plan, CPU)
    fastest = min(timeit.repeat(lambda: choose(workload, plan, CPU), number=200, repeat=9)) / 200
    assert fastest < 100e-6  # 6 µs seen; room for slow machines


def test_the_work_of_a_convolution():
    geometry = ((2, 1), (1, 0), (1, 2), False, (0, 0), 2)
    workload = Workload.convolution((24, 16, 3, 3), torch.bfloat16, (4, 32, 9, 10), geometry, compiled=True)
    assert workload.kind == "conv2d"
    dims = workload.dims(LayerPlan(3, 2), threads=2)
    rows = torch.nn.functional.conv2d(torch.zeros(4, 32, 9, 10), torch.zeros(24, 16, 3, 3), None, *geometry[:3], 2)
    assert dims.rows == rows.numel() // 24
    assert (dims.cols, dims.channels, dims.taps, dims.groups) == (12, 16, 9, 2)
    assert (dims.values, dims.element_bytes, dims.M, dims.N) == (4 * 32 * 9 * 10, 2, 3, 2)
    assert (dims.run, dims.vectors, dims.passes, dims.convolution) == (2, 2, 1, 1)  # two planes share a vector


def test_the_work_of_a_linear_layer():
    dims = Workload.linear((24, 96), torch.float32, (2, 5, 96)).dims(LayerPlan(2, 5), threads=1)
    assert (dims.rows, dims.cols, dims.channels, dims.values) == (10, 24, 96, 960)
    assert (dims.run, dims.vectors, dims.passes, dims.convolution) == (5, 2, CODED_PASSES, 0)
    thermometer = Workload.linear((24, 96), torch.float32).dims(LayerPlan(2, 5, levels="thermometer"), 1)
    assert (thermometer.rows, thermometer.run, thermometer.passes) == (TYPICAL_ROWS, 1, 5 * PLANE_PASSES)


def test_everything_that_a_time_depends_on_is_in_its_text():
    texts = {
        workload.text(plan)
        for plan in (LayerPlan(), LayerPlan(3, 2), LayerPlan(levels="thermometer"))
        for workload in (
            conv(), conv(64), conv(size=14), conv(batch=2), conv(dtype=torch.bfloat16), conv(channels_last=True),
            conv(geometry=((2, 2), *PLAIN[1:])), Workload.linear((128, 128), torch.float32, (4, 128)),
            Workload.linear((128, 128), torch.float32, (4, 128), compiled=True),
        )
    }  # fmt: skip
    assert len(texts) == 3 * 9


FORMS = ("xnor", "dense")


@pytest.mark.parametrize("levels", ["coded", "thermometer"])
@pytest.mark.parametrize("shape", [(7, 40), (2, 3, 40)], ids=str)
def test_a_linear_layer_is_the_same_in_every_form(shape: tuple, levels: str):
    n = 1 if levels == "coded" else 3
    x, weight, bias = torch.randn(shape), torch.randn(24, 40), torch.randn(24)
    made = []
    for form in FORMS:
        with forcing(form):
            made.append(
                torch.ops.abc.linear(
                    x, weight, bias, torch.full((n,), 0.4), torch.linspace(-1, 1, n), 2, 3, "greedy", levels, True
                )
            )
    assert relative_error(made[0], made[1]) <= TOLERANCE


@pytest.mark.parametrize("geometry", [PLAIN, ((2, 1), (1, 0), (1, 2), False, (0, 0), 2)], ids=["plain", "grouped"])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_a_convolution_is_the_same_in_every_form(order: torch.memory_format, geometry: tuple):
    x = torch.randn(2, 32, 7, 6).contiguous(memory_format=order)
    weight = torch.randn(24, 32 // geometry[5], 3, 3)
    arguments = (weight, None, torch.tensor([0.4]), torch.tensor([-1.0]), *geometry, 2, 3, "greedy", "coded", True)
    made = []
    for form in FORMS:
        with forcing(form):
            made.append(torch.ops.abc.convolution(x, *arguments))
    assert relative_error(made[0], made[1]) <= TOLERANCE
    assert made[0].stride() == made[1].stride()
