"""The cost model: hand-counted cases, the break-even points it was made from, speed, formulas, and fitting rates."""

from __future__ import annotations

import timeit
from dataclasses import replace

import pytest
from sympy import Symbol

from abcfx.cost import FORMULAS, RATES, Dims, Rates, Timing, fit, formula, predict, rates_for

UNIT = Rates(
    ghz=1e-3, efficiency=0.5, bandwidth=1e9, cache_bandwidth=1e9, cache_mb=1e9, kernel_us=1, float_us=1,
    xnor_mac=64, xnor_sum=0.5, pack_value=1, pack_plane=0.25, lookup=1, table_value=0.5, lut_sum=0.125,
    linear_mac=8, convolution_mac=4, reorder=2, quantize=1,
)  # fmt: skip
"""One cycle takes a microsecond and memory is free, so that predictions can be counted by hand."""


def us(form: str, dims: Dims, rates: Rates = UNIT) -> float:
    return 1e3 * predict(dims, rates)[form]


def image(channels: int, size: int, cols: int, kernel: int = 3, batch: int = 1, **more: int) -> Dims:
    """A convolution that keeps the size of its images."""
    pixels = batch * size * size
    return Dims(pixels, cols, channels, kernel**2, values=pixels * channels, convolution=1, threads=2, **more)


def rows(count: int, depth: int, cols: int, **more: int) -> Dims:
    return Dims(count, cols, depth, values=count * depth, threads=2, **more)


def test_xnor_by_hand():
    dims = Dims(rows=10, cols=12, channels=96, taps=9, values=960, M=2, N=3)
    packed = 10 * 128 * (1 + 3 * 0.25)  # 96 channels take two words
    product = 2 * 3 * 10 * 16 * (9 * 128 / 64 + 0.5)  # 12 outputs take two blocks of 8
    assert us("xnor", dims) == pytest.approx(packed + product + 2)


def test_few_channels_cost_as_much_as_a_word():
    small, whole = (Dims(10, 16, c, 9, values=10 * c) for c in (16, 64))
    assert us("xnor", small) == pytest.approx(us("xnor", whole))
    assert us("float", whole) == pytest.approx(4 * us("float", small), rel=0.01)


def test_lut_by_hand():
    dims = Dims(rows=10, cols=40, channels=64, taps=9, values=640, M=2, N=3, vectors=4, run=3)
    packed, tables = 640 * (1 + 3 * 0.25), 640 * 0.5
    product = 10 * 4 * (2 * 9 * 8 + 32 * 0.125)  # 40 outputs and two planes take four vectors
    assert us("lut", dims) == pytest.approx(packed + tables + product + 2)


def test_tiles_multiply_by_coded_weights_once():
    one, three, eight = (Dims(10, 64, 64, 9, values=640, M=m, vectors=2 * m, weight_run=m) for m in (1, 3, 8))
    tiles = replace(UNIT, weight_digit=7, spread=0.125)
    product, spread = 10 * 2 * (2 * 9 * 8 + 32 * 0.125), 2 * 9 * 8 * 32 * 0.125  # of one plane; each plane is spread
    assert us("lut", three, tiles) - us("lut", one, tiles) == pytest.approx(2 * spread)
    assert us("lut", eight, tiles) - us("lut", one, tiles) == pytest.approx(product + 7 * spread)  # two digits
    assert us("lut", three) - us("lut", one) == pytest.approx(2 * product)  # tables look up every plane


def test_planes_up_to_five_cost_the_lut_nothing_but_their_packing():
    one, five, six = (Dims(10, 64, 64, 9, values=640, N=n, run=n) for n in (1, 5, 6))
    assert us("lut", five) - us("lut", one) == pytest.approx(640 * 4 * 0.25)
    assert us("lut", six) > 1.4 * us("lut", five)
    tiles = replace(UNIT, digit=7)  # which take seven
    assert us("lut", six, tiles) - us("lut", five, tiles) == pytest.approx(640 * 0.25)
    assert us("lut", six._replace(run=1)) > 3.5 * us("lut", five)  # planes of thermometer levels, one by one


def test_float_and_dense_by_hand():
    linear = Dims(rows=10, cols=16, channels=64, values=640, passes=1)
    assert us("float", linear) == pytest.approx(10 * 16 * 64 / 8 + 1)
    assert us("dense", linear) == pytest.approx(us("float", linear) + 640 + 1)
    convolution = linear._replace(convolution=1)
    assert us("float", convolution) == pytest.approx(10 * 16 * 64 / 4 + 2 * 16 * 64 + 1)


def test_groups_split_the_work():
    whole, halves = Dims(10, 64, 128, 9, values=1280), Dims(10, 32, 64, 9, 2, values=1280)
    assert us("float", halves) - 1 == pytest.approx((us("float", whole) - 1) / 2)
    assert us("xnor", halves) < us("xnor", whole)


def test_threads_share_all_but_the_calls():
    one = Dims(10, 64, 64, 9, values=640)
    for form, calls in (("xnor", 2), ("lut", 2), ("float", 1)):
        three = us(form, one._replace(threads=3))
        assert three - calls == pytest.approx((us(form, one) - calls) / 2)


def test_one_row_is_bound_by_reading_the_weights():
    """67 MB of f32 weights: 16 from the cache, the rest from memory. Two weight planes are a sixteenth of it."""
    rates = replace(UNIT, ghz=1e6, bandwidth=20, cache_bandwidth=50, cache_mb=16, kernel_us=1e-3, float_us=1e-3)
    dims = rows(1, 4096, 4096, M=2)
    size = 4096 * 4096 * 4
    assert us("float", dims, rates) == pytest.approx(size / 50e3 + (size - 16e6) / 20e3, rel=1e-3)
    assert us("xnor", dims, rates) == pytest.approx(size / 16 / 50e3, rel=0.01)


MEASURED = {  # largest M·N that beat f32, two threads, packing included (docs/cost.md)
    "linear 1024², 256 rows": (rows(256, 1024, 1024), 14.1, 14.1),
    "linear 4096², 256 rows": (rows(256, 4096, 4096), 14.3, 14.3),
    "3x3 64 channels 56²": (image(64, 56, 64), 8.5, 9.4),
    "3x3 256 channels 14²": (image(256, 14, 256), 11.8, 13.1),
    "3x3 512 channels 7²": (image(512, 7, 512), 14, 21),
    "1x1 256 to 64 56²": (image(256, 56, 64, kernel=1), 4, 4.8),
}


@pytest.mark.parametrize("case", MEASURED)
def test_break_even_points_on_avx512(case: str):
    """Within 10 % of the measured range: the model decides between forms that differ by more."""
    dims, low, high = MEASURED[case]
    ms = [predict(dims._replace(M=products), RATES["avx512vpopcnt"]) for products in (1, 2)]
    fixed = 2 * ms[0]["xnor"] - ms[1]["xnor"]
    found = (ms[0]["float"] - fixed) / (ms[1]["xnor"] - ms[0]["xnor"])
    assert 0.9 * low <= found <= 1.1 * high


def test_a_prediction_takes_microseconds():
    dims = image(64, 56, 64, M=2, N=2)
    predict(dims, RATES["avx2"])
    fastest = min(timeit.repeat(lambda: predict(dims, RATES["avx2"]), number=200, repeat=9)) / 200
    assert fastest < 100e-6  # 7 µs seen; room for slow machines


@pytest.mark.parametrize("form", FORMULAS)
def test_a_formula_keeps_what_is_not_known(form: str):
    known = dict(cols=64, channels=64, taps=9, groups=1, M=2, N=2, run=2, vectors=1, passes=1, weight_run=1)
    known |= dict(element_bytes=4, convolution=1)
    rows, values = Symbol("rows", positive=True), Symbol("values", positive=True)
    expr = formula(form, RATES["avx2"], threads=2, **known)
    assert {str(symbol) for symbol in expr.free_symbols} <= {"rows", "values"}
    seconds = expr.subs({rows: 784, values: 784 * 64})
    assert float(1e3 * seconds) == pytest.approx(predict(image(64, 28, 64, M=2, N=2, run=2), RATES["avx2"])[form])


@pytest.mark.parametrize(
    ("form", "known", "message"),
    [
        ("int8", {}, "form must be one of xnor, lut, dense, float, got 'int8'"),
        ("xnor", {"K": 1}, r"dimensions \['K'\]"),
    ],
)
def test_unknown_forms_and_dimensions(form: str, known: dict, message: str):
    with pytest.raises(ValueError, match=message):
        formula(form, **known)


def test_rates_by_name():
    assert rates_for("avx2") is RATES["avx2"]
    assert rates_for("avx512vpopcnt_x2") is RATES["avx512vpopcnt"]
    assert rates_for("reference") is RATES["portable"]
    assert rates_for("avx512vpopcnt", "amx") is RATES["avx512vpopcnt amx"]
    assert rates_for("avx2", "amx") is RATES["avx2"]


def test_fit_finds_the_rates_that_made_the_timings():
    truth = replace(RATES["avx2"], xnor_mac=160, xnor_sum=1.2, convolution_mac=20, kernel_us=5)
    layers = [
        image(c, s, c, batch=b, M=m, N=n)
        for c, s in ((64, 56), (128, 28), (512, 7), (16, 4))
        for b in (1, 8)
        for m, n in ((1, 1), (3, 2))
    ]
    layers += [dims._replace(threads=1) for dims in layers]
    timings = [Timing(form, dims, predict(dims, truth)[form]) for dims in layers for form in ("xnor", "float")]
    found = fit(RATES["avx2"], timings)
    assert found.xnor_mac == pytest.approx(160, rel=0.03)
    assert found.xnor_sum == pytest.approx(1.2, rel=0.1)
    assert found.convolution_mac == pytest.approx(20, rel=0.03)
    assert found.kernel_us == pytest.approx(5, rel=0.1)
    assert found.ghz == truth.ghz
    # nothing was timed that tells of these
    assert (found.lookup, found.quantize) == (truth.lookup, truth.quantize)


def test_fit_changes_only_what_it_may():
    timings = [Timing("xnor", image(64, 28, 64), 1.0)]
    found = fit(RATES["avx2"], timings, free=["xnor_mac"])
    assert replace(found, xnor_mac=RATES["avx2"].xnor_mac) == RATES["avx2"]
    assert found != RATES["avx2"]


@pytest.mark.parametrize(
    ("timings", "message"),
    [
        ([], "needs timings"),
        ([Timing("int8", Dims(1, 1, 1), 1.0)], "form of xnor, lut, dense, float"),
        ([Timing("xnor", Dims(1, 1, 1), 0.0)], "time above 0 ms"),
    ],
)
def test_fit_refuses(timings: list, message: str):
    with pytest.raises(ValueError, match=message):
        fit(RATES["avx2"], timings)


def test_rates_depend_on_the_vendor(monkeypatch: pytest.MonkeyPatch) -> None:
    from abcfx.cost import rates

    monkeypatch.setattr(rates, "vendor", lambda: "amd")
    assert rates_for("avx512vpopcnt") is RATES["avx512vpopcnt amd"]
    assert rates_for("avx2") is RATES["avx2"]
    monkeypatch.setattr(rates, "vendor", lambda: "intel")
    assert rates_for("avx512vpopcnt") is RATES["avx512vpopcnt"]
    monkeypatch.setattr(rates, "vendor", lambda: "")
    assert rates_for("something new") is RATES["portable"]
