"""What is prepared around the GEMM: packed weights, padding classes and the base table; and the choice of variants."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from kernel_abi import (
    BAD_SHAPE,
    BITWEIGHTS,
    INT64,
    OK,
    OTHER,
    PADDING,
    VARIANTS,
    Guarded,
    P,
    call,
    handle,
    variant,
    variants,
)
from torch.nn.functional import conv2d, pad

from abcfx.ops import library
from abcfx.ops.kernel_weights import pack_weights


@pytest.mark.parametrize("channels", [1, 3, 63, 64, 65, 200])
@pytest.mark.parametrize(("m", "groups", "cols", "taps"), [(1, 1, 1, 1), (3, 2, 9, 4), (8, 1, 16, 9)])
def test_bitweights(m: int, groups: int, cols: int, taps: int, channels: int) -> None:
    variant("bgemm", "reference")
    bases = torch.randint(0, 2, (m, groups * cols, taps, channels), dtype=torch.int8) * 2 - 1
    wanted = pack_weights(bases, groups)
    dst = Guarded(*wanted.shape, dtype=torch.int64)
    total = wanted.shape[0] * wanted.shape[1]
    args = BITWEIGHTS(bases.data_ptr(), dst.tensor.data_ptr(), m, groups, cols, taps, channels, 1, total)
    assert call("abcfx_bitweights_pack", args) == OK
    assert dst.untouched().flatten(0, 1)[0].all()
    args.block_begin = 0
    assert call("abcfx_bitweights_pack", args) == OK
    assert torch.equal(dst.tensor, wanted)
    assert dst.walls_intact()
    args.block_end = total + 1
    assert call("abcfx_bitweights_pack", args) == BAD_SHAPE


def classes(out: int, size: int, taps: int, stride: int, dilation: int, before: int) -> tuple[torch.Tensor, ...]:
    tables = [Guarded(out, dtype=torch.int32).tensor for _ in range(3)]
    count = handle().abcfx_padding_classes(
        *map(INT64, (out, size, taps, stride, dilation, before)), *(P(t.data_ptr()) for t in tables)
    )
    return tables[0], tables[1][:count], tables[2][:count]


def test_three_by_three_with_pad_one_has_nine_classes() -> None:
    variant("bgemm", "reference")
    class_of, first, last = classes(out=5, size=5, taps=3, stride=1, dilation=1, before=1)
    assert class_of.tolist() == [0, 1, 1, 1, 2]
    assert (first.tolist(), last.tolist()) == ([1, 0, 0], [3, 3, 2])


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "padding"),
    [
        ((5, 6), (3, 3), (1, 1), (1, 1), (1, 1)),
        ((7, 4), (5, 3), (2, 1), (1, 2), (4, 3)),
        ((3, 9), (7, 1), (1, 3), (1, 1), (5, 0)),
        ((2, 2), (3, 3), (1, 1), (3, 2), (9, 7)),  # some windows see no pixel at all
    ],
)
def test_base_is_the_convolution_of_the_constant(size, kernel, stride, dilation, padding) -> None:
    """base + (what the planes give) = float result.

    With every plane +1, the planes give Σβ·Σ_t S[t] at every pixel, and the float image is Σβ + c inside, 0 outside.
    """
    variant("bgemm", "reference")
    cols, constant, beta_sum = 5, 0.75, 1.5
    sums, bias = torch.randn(cols, *kernel), torch.randn(cols)
    image = pad(torch.full((1, 1, *size), beta_sum + constant), (padding[1], padding[1], padding[0], padding[0]))
    wanted = conv2d(image, sums[:, None], bias, stride, 0, dilation)[0].permute(1, 2, 0)
    axes = [
        classes(wanted.shape[i], size[i], kernel[i], stride[i], dilation[i], padding[i]) for i in range(2)
    ]  # fmt: skip
    (class_h, first_h, last_h), (class_w, first_w, last_w) = axes
    base = Guarded(len(first_h), len(first_w), cols, dtype=torch.float32).tensor
    tables = (first_h, last_h, first_w, last_w)
    args = PADDING(
        sums.data_ptr(), bias.data_ptr(), base.data_ptr(), cols, *kernel, len(first_h), len(first_w),
        *(t.data_ptr() for t in tables), constant, beta_sum,
    )  # fmt: skip
    assert call("abcfx_padding_base", args) == OK
    planes = beta_sum * sums.sum((1, 2))
    # a few f32 sums of at most 25 terms of order 1
    torch.testing.assert_close(base[class_h.long()][:, class_w.long()] + planes, wanted, rtol=1e-5, atol=1e-5)


def test_the_lists_name_every_variant_best_first() -> None:
    variant("bgemm", "reference")
    for op in ("bgemm", "pack"):
        assert [name for name in VARIANTS if name in variants(op)] == list(variants(op))
    for op in ("unpack", "window", "adjoint", "refit", "epilogue"):
        assert [name for name in ("avx2", "portable") if name in variants("pack")] == list(variants(op))
    order = ("amx", "avx512bw", "avx2", "reference")
    assert [name for name in order if name in variants("lut")] == list(variants("lut"))


def run(variant_name: str, expression: str) -> str:
    if OTHER:
        pytest.skip("a matter of the installed library")
    code = f"from abcfx.ops import library; print({expression})"
    environment = {**os.environ, library.FORCE: variant_name}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_a_variant_can_be_forced() -> None:
    variant("bgemm", "portable")
    wanted = "*(library.kernel_variant(op) for op in library.LISTS if op != 'lut'), library.problem()"
    assert run("portable", wanted).split() == ["portable"] * (len(library.LISTS) - 1) + ["None"]


def test_an_unknown_variant_is_ignored_and_reported() -> None:
    variant("bgemm", "portable")
    chosen, problem = run("quick", "library.kernel_variant(), library.problem(), sep='\\n'").splitlines()
    best = next(name for name, missing in library.variants().items() if missing is None)
    assert chosen == best
    known = dict.fromkeys(name for op in library.LISTS for name in library.variants(op))
    assert problem == f"ABCFX_KERNEL=quick is ignored: the variants are {', '.join(known)}"
