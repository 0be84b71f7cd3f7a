"""Seconds of each form of a layer, as equations. Symbols have the names of the fields of `Dims` and `Rates`.

    depth   = channels·taps                    values that one output sums over
    outputs = rows·cols·groups                 weights = groups·cols·depth
    workers = 1 + (threads - 1)·efficiency     cores' worth of work that the threads do

Counted cycles become seconds by cycles / (ghz·10⁹·workers). Bytes take bytes / cache_bandwidth, and what does not fit
into cache_mb is read again from memory at `bandwidth`. Where one hides behind the other, the larger counts.
"""

from __future__ import annotations

from sympy import Expr, Integer, Max, Symbol, ceiling, symbols

rows, cols, channels, taps, groups, values = symbols("rows cols channels taps groups values", positive=True)
M, N, run, vectors = symbols("M N run vectors", positive=True)
passes, element_bytes, threads = symbols("passes element_bytes threads", positive=True)
convolution = Symbol("convolution", nonnegative=True)  # 1 for a convolution, 0 for a linear layer
ghz, efficiency, kernel_us, float_us = symbols("ghz efficiency kernel_us float_us", positive=True)
bandwidth, cache_bandwidth, cache_mb = symbols("bandwidth cache_bandwidth cache_mb", positive=True)
xnor_mac, xnor_sum, pack_value, pack_plane = symbols("xnor_mac xnor_sum pack_value pack_plane", positive=True)
lookup, table_value, lut_sum, spread = symbols("lookup table_value lut_sum spread", positive=True)
digit, weight_digit, weight_run = symbols("digit weight_digit weight_run", positive=True)
linear_mac, convolution_mac, reorder, quantize = symbols("linear_mac convolution_mac reorder quantize", positive=True)

WORD, LANES, TABLE_DEPTH = 64, 8, 8
F32_BYTES = 4

depth, outputs = channels * taps, rows * cols * groups
weights = groups * cols * depth
workers = 1 + (threads - 1) * efficiency


def _seconds(cycles: Expr) -> Expr:
    return cycles / (ghz * 10**9 * workers)


def _streamed(size: Expr) -> Expr:
    missed = _larger(size - cache_mb * 10**6, Integer(0))
    return size / (cache_bandwidth * 10**9) + missed / (bandwidth * 10**9)


def _larger(a: Expr, b: Expr) -> Expr:
    return Max(a, b, evaluate=False)  # sympy would compare them term by term, which takes a second


def _blocks(count: Expr, width: int) -> Expr:
    return width * ceiling(count / width)


def pack() -> Expr:
    """Values → N bit planes, one pass:  padded·(pack_value + N·pack_plane) cycles, or reading the values.

    padded  values, each group's channels rounded up to words of 64: 16 channels cost as much as 64
    """
    padded = values * _blocks(channels, WORD) / channels
    return _larger(_seconds(padded * (pack_value + N * pack_plane)), _streamed(values * element_bytes))


def xnor() -> Expr:
    """pack + M·N popcount products + two calls.

    A product of one output takes 64·words/xnor_mac + xnor_sum cycles: its words, and adding it up. Outputs come in
    blocks of 8 channels. With few rows, reading the packed weights (M bits a weight) takes longer.
    """
    padded_depth, padded_cols = taps * _blocks(channels, WORD), _blocks(cols, LANES)
    products = M * N * groups * rows * padded_cols
    weight_bytes = M * groups * padded_cols * padded_depth / 8
    product = _larger(_seconds(products * (padded_depth / xnor_mac + xnor_sum)), _streamed(weight_bytes))
    return pack() + product + 2 * kernel_us / 10**6


def lut() -> Expr:
    """pack + tables + lookups + two calls.

    Eight values of up to five coded planes make two tables of 16 bytes: table_value cycles a value, once a pixel,
    shared by the taps. One lookup then serves 4 values of 32 output channels of one weight plane; `lookup` of them a
    cycle (docs/lookup.md).
    tables   how often that is done: N/run·⌈run/digit⌉. A run of planes whose scales double, all N of coded levels and
             one of thermometer levels, is cut into digits of at most `digit` planes
    products as often the weights are multiplied: M/weight_run·⌈weight_run/weight_digit⌉. Tiles take the planes of coded
             weights, whose scales double, in digits of up to `weight_digit` planes
    vectors  of 32 bytes that hold 8 weight bits of every output channel of a group and of all M planes
    lut_sum  cycles to widen and add up one byte of such a vector
    spread   cycles to make signed bytes of the eight weights of a byte, where tiles want them; else 0
    """
    depth_bytes = taps * ceiling(channels / TABLE_DEPTH)
    tables = N / run * ceiling(run / digit)
    products = M / weight_run * ceiling(weight_run / weight_digit)
    places = tables * groups * rows * vectors / M * products
    weight_bytes = groups * vectors * depth_bytes * 32
    product = _larger(_seconds(places * (2 * depth_bytes / lookup + 32 * lut_sum)), _streamed(weight_bytes))
    operands = tables * (values * table_value + weight_bytes * spread)
    return pack() + _seconds(operands) + product + 2 * kernel_us / 10**6


def float_op() -> Expr:
    """The plain f32 op:  outputs·depth multiply-adds at linear_mac or convolution_mac a cycle, or reading the weights.

    Convolutions reorder their weights at each call (`reorder` cycles a weight), which counts where images are small.
    Output channels come in blocks of 8.
    """
    mac = convolution * convolution_mac + (1 - convolution) * linear_mac
    product = _seconds(groups * rows * _blocks(cols, LANES) * depth / mac)
    return (
        _larger(product, _streamed(weights * F32_BYTES)) + convolution * _seconds(weights * reorder) + float_us / 10**6
    )


def dense() -> Expr:
    """The float op on dequantized operands:  float + passes·values·quantize cycles + a call for each pass.

    passes  1 where a compiler fuses the quantizer, else one for each of its elementwise ops
    """
    once = _larger(_seconds(values * quantize), _streamed(2 * values * F32_BYTES))
    return float_op() + passes * (once + float_us / 10**6)


FORMULAS: dict[str, Expr] = {"xnor": xnor(), "lut": lut(), "dense": dense(), "float": float_op()}
