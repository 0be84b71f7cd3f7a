"""What a machine does in a cycle, for each kernel variant. One table; `fit` makes a new row of it from timings."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Rates:
    """Rates of one core unless said otherwise.

    ghz              cycles a nanosecond; all "cycles" below are of this clock
    efficiency       what each further thread adds, of one core's work
    bandwidth        GB/s of main memory, all cores together; of what fits into cache_mb megabytes: cache_bandwidth
    kernel_us        fixed cost of a call of an abc_k op         float_us         … of a float op
    xnor_mac         binary multiply-adds a cycle                xnor_sum         cycles a product to add it up
    pack_value       cycles to pack a value                      pack_plane       … and for each plane
    lookup           table lookups a cycle (32 channels × 4 values each)
    table_value      cycles a value to make a table              lut_sum          cycles to add up a byte
    digit            planes of activations that the lut form takes at once
    weight_digit     … of weights whose scales double
    spread           cycles a byte of weights to make signed bytes of its bits (tiles; 0: tables need none)
    linear_mac       f32 multiply-adds a cycle, linear           convolution_mac  … and convolutions
    reorder          cycles a weight at each float convolution   quantize         cycles a value and elementwise pass
    """

    ghz: float
    efficiency: float
    bandwidth: float
    cache_bandwidth: float
    cache_mb: float
    kernel_us: float
    float_us: float
    xnor_mac: float
    xnor_sum: float
    pack_value: float
    pack_plane: float
    lookup: float
    table_value: float
    lut_sum: float
    linear_mac: float
    convolution_mac: float
    reorder: float
    quantize: float
    spread: float = 0.0
    digit: int = 5
    weight_digit: int = 1


RATES: dict[str, Rates] = {
    # Intel, 3.0 GHz, 2 cores. xnor: a line through 285, 307 and 354 MAC/cycle at depths of 576, 1024 and 4608.
    # linear_mac, convolution_mac, reorder, pack: solved from measured break-even points (docs/cost.md).
    # lookup, table_value, lut_sum: counted from instructions, never measured, and kept on the careful side.
    "avx512vpopcnt": Rates(
        ghz=3.0, efficiency=0.9, bandwidth=20, cache_bandwidth=60, cache_mb=16, kernel_us=6, float_us=4,
        xnor_mac=350, xnor_sum=0.35,
        pack_value=0.6, pack_plane=0.2, lookup=1.35, table_value=0.8, lut_sum=0.5,
        linear_mac=22, convolution_mac=29, reorder=0.8, quantize=0.8,
    ),
    # Intel Sapphire Rapids, tiles in the place of tables: fitted to 270 timings of 15 layers of 12 rows or more,
    # xnor, lut and float, six (M, N) from (1, 1) to (5, 5), 2 cores of a shared machine (docs/cost.md)
    "avx512vpopcnt amx": Rates(
        ghz=3.0, efficiency=0.95, bandwidth=20, cache_bandwidth=60, cache_mb=16, kernel_us=30, float_us=60,
        xnor_mac=397, xnor_sum=0.44,
        pack_value=1.05, pack_plane=0.016, lookup=2.52, table_value=0.76, lut_sum=0.012, spread=0.62, digit=7,
        weight_digit=7,
        linear_mac=23.8, convolution_mac=26.7, reorder=3.6, quantize=0.8,
    ),
    # AMD Zen 4, 2 cores of a shared machine: fitted to 252 timings of 14 layers, six (M, N) from (1, 1) to (5, 5)
    # (docs/cost.md); quantize as above
    "avx512vpopcnt amd": Rates(
        ghz=3.0, efficiency=0.95, bandwidth=22, cache_bandwidth=49, cache_mb=16, kernel_us=11.5, float_us=0.75,
        xnor_mac=350, xnor_sum=0.11,
        pack_value=0.53, pack_plane=0.35, lookup=0.97, table_value=0.02, lut_sum=0.84,
        linear_mac=13.2, convolution_mac=17.7, reorder=4.6, quantize=0.8,
    ),
    # AMD Zen 3, 2 cores of a shared machine: fitted to 180 timings of 15 layers, M = N = 1 to 4 (docs/cost.md)
    "avx2": Rates(
        ghz=3.2, efficiency=0.9, bandwidth=21, cache_bandwidth=27, cache_mb=16, kernel_us=10, float_us=5,
        xnor_mac=83, xnor_sum=2.4,
        pack_value=0.7, pack_plane=0.15, lookup=0.67, table_value=1.7, lut_sum=1.1,
        linear_mac=9.9, convolution_mac=11.6, reorder=4.4, quantize=1.3,
    ),
    # popcnt64 reaches 60 to 64 MAC a cycle; packing is a guess; the rest as for avx2
    "portable": Rates(
        ghz=3.2, efficiency=0.9, bandwidth=21, cache_bandwidth=50, cache_mb=16, kernel_us=10, float_us=5,
        xnor_mac=60, xnor_sum=2.0,
        pack_value=2.0, pack_plane=1.0, lookup=0.05, table_value=2, lut_sum=1,
        linear_mac=13, convolution_mac=12.7, reorder=3, quantize=1.3,
    ),
    # Counted, not measured: eor, cnt and a widening add for 128 products, two vector pipes of 128 bits
    "neon": Rates(
        ghz=3.0, efficiency=0.9, bandwidth=20, cache_bandwidth=60, cache_mb=16, kernel_us=8, float_us=4,
        xnor_mac=80, xnor_sum=2.0,
        pack_value=1.0, pack_plane=0.3, lookup=0.7, table_value=0.5, lut_sum=0.5,
        linear_mac=7, convolution_mac=7, reorder=3, quantize=1.5,
    ),
    # GPUs, named by compute capability; one "core" is the whole device. None of it was ever measured: bit units at a
    # third of the data sheet's peak of the largest device of its kind, f32 products at 0.8 of it, convolutions in tf32
    # (as torch has it by default) at half, bandwidth at 0.8. An abc_k product is four launches, a pack one.
    "sm_75": Rates(
        ghz=1.6, efficiency=0, bandwidth=250, cache_bandwidth=700, cache_mb=4, kernel_us=10, float_us=6,
        xnor_mac=5e4, xnor_sum=2e-3,
        pack_value=1e-3, pack_plane=3e-4, lookup=1, table_value=1, lut_sum=1,
        linear_mac=2000, convolution_mac=2000, reorder=0, quantize=5e-4,
    ),
    "sm_80": Rates(
        ghz=1.4, efficiency=0, bandwidth=1250, cache_bandwidth=3500, cache_mb=40, kernel_us=10, float_us=6,
        xnor_mac=6e5, xnor_sum=3e-4,
        pack_value=3e-4, pack_plane=8e-5, lookup=1, table_value=1, lut_sum=1,
        linear_mac=5500, convolution_mac=27000, reorder=0, quantize=1.5e-4,
    ),
    "sm_86": Rates(
        ghz=1.7, efficiency=0, bandwidth=700, cache_bandwidth=2000, cache_mb=6, kernel_us=10, float_us=6,
        xnor_mac=1.1e5, xnor_sum=4e-4,
        pack_value=4e-4, pack_plane=1e-4, lookup=1, table_value=1, lut_sum=1,
        linear_mac=8000, convolution_mac=9000, reorder=0, quantize=2e-4,
    ),
    "sm_89": Rates(
        ghz=2.4, efficiency=0, bandwidth=800, cache_bandwidth=3500, cache_mb=70, kernel_us=10, float_us=6,
        xnor_mac=1.8e5, xnor_sum=3e-4,
        pack_value=3e-4, pack_plane=8e-5, lookup=1, table_value=1, lut_sum=1,
        linear_mac=13000, convolution_mac=15000, reorder=0, quantize=1.5e-4,
    ),
    "sm_90": Rates(
        ghz=1.75, efficiency=0, bandwidth=2700, cache_bandwidth=5500, cache_mb=50, kernel_us=10, float_us=6,
        xnor_mac=1.4e6, xnor_sum=3e-4,
        pack_value=3e-4, pack_plane=8e-5, lookup=1, table_value=1, lut_sum=1,
        linear_mac=15000, convolution_mac=70000, reorder=0, quantize=1.5e-4,
    ),
}  # fmt: skip


def rates_for(variant: str, table: str = "") -> Rates:
    """The row of a machine: of its popcount and table kernels as a pair, else of the popcount kernel on processors of
    this vendor, else of the variant whose name it begins with, else the portable one."""
    names = (f"{variant} {table}", f"{variant} {vendor()}")
    if names[0] in RATES:
        return RATES[names[0]]
    return RATES[max((known for known in RATES if names[1].startswith(known)), key=len, default="portable")]


@cache
def vendor() -> str:
    """ "amd", "intel", or nothing: float rates differ between processors that run the same kernels."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = platform.processor()
    return next((name for name, mark in (("amd", "AuthenticAMD"), ("intel", "GenuineIntel")) if mark in text), "")
