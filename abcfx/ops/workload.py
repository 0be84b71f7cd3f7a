"""The work of one layer at one input shape: what the cost model, the choice and the autotuner ask about."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch

from abcfx.cost import Dims
from abcfx.plan import LayerPlan

TYPICAL_ROWS = 1024  # a layer whose input is not known is judged for this many output positions

# elementwise ops over the whole input that quantize it, run one by one: coded levels, and each thermometer plane
CODED_PASSES, PLANE_PASSES = 8, 6


class Workload(NamedTuple):
    """kind      "linear", "conv1d", "conv2d", "conv3d", "conv_transpose2d" ...
    weight    shape of the float weight; [o, channels/groups, *kernel] for a convolution
    dtype     of the input
    input     shape of the input, None if it is not known
    geometry  stride, padding, dilation, transposed, output_padding, groups as in aten.convolution; () for linear
    compiled  whether the quantizer of the dense form is fused by a compiler
    channels_last  whether channels are innermost in the memory of an image
    """

    kind: str
    weight: tuple[int, ...]
    dtype: torch.dtype
    input: tuple[int, ...] | None = None
    geometry: tuple = ()
    compiled: bool = False
    channels_last: bool = False

    @classmethod
    def linear(
        cls, weight: Sequence[int], dtype: torch.dtype, input: Sequence[int] | None = None, compiled: bool = False
    ) -> Workload:
        """Any leading dimensions of the input count as rows."""
        rows = None if input is None else (prod(input[:-1]), input[-1])
        return cls("linear", tuple(weight), dtype, rows, (), compiled)

    @classmethod
    def convolution(
        cls,
        weight: Sequence[int],
        dtype: torch.dtype,
        input: Sequence[int] | None,
        geometry: Sequence,
        compiled: bool = False,
        channels_last: bool = False,
    ) -> Workload:
        kind = f"conv{'_transpose' if geometry[3] else ''}{len(weight) - 2}d"
        plain = tuple(tuple(item) if isinstance(item, (list, tuple)) else item for item in geometry)
        return cls(kind, tuple(weight), dtype, None if input is None else tuple(input), plain, compiled, channels_last)

    @property
    def groups(self) -> int:
        return self.geometry[5] if self.geometry else 1

    def rows_and_values(self) -> tuple[int, int]:
        """Output positions and input values over the batch, of a layer that is not transposed."""
        channels = self.weight[1] * self.groups
        if self.input is None:
            return TYPICAL_ROWS, TYPICAL_ROWS * channels
        if not self.geometry:
            return self.input[0], prod(self.input)
        stride, padding, dilation = self.geometry[:3]
        sizes = zip(self.input[2:], self.weight[2:], stride, padding, dilation, strict=True)
        out = (max(0, (size + 2 * p - d * (k - 1) - 1) // s + 1) for size, k, s, p, d in sizes)
        return self.input[0] * prod(out), prod(self.input)

    def dims(self, plan: LayerPlan, threads: int) -> Dims:
        rows, values = self.rows_and_values()
        cols = self.weight[0] // self.groups
        coded, n = plan.levels == "coded", plan.activation_bases
        one_by_one = CODED_PASSES if coded else PLANE_PASSES * n
        return Dims(
            rows=rows,
            cols=cols,
            channels=self.weight[1],
            taps=prod(self.weight[2:]),
            groups=self.groups,
            values=values,
            M=plan.weight_bases,
            N=n,
            run=n if coded else 1,
            vectors=-(-plan.weight_bases // 2) if cols <= 16 else plan.weight_bases * -(-cols // 32),
            passes=1 if self.compiled else one_by_one,
            element_bytes=self.dtype.itemsize,
            convolution=int(bool(self.geometry)),
            threads=threads,
            weight_run=plan.weight_bases if plan.basis == "coded" else 1,
        )

    def text(self, plan: LayerPlan) -> str:
        """All that a timing depends on, in one line."""
        order = "channels last" if self.channels_last else "contiguous"
        shapes = f"{self.kind} {list(self.weight)} on {list(self.input or ())} {str(self.dtype).split('.')[-1]} {order}"
        geometry = f" {list(self.geometry)}" if self.geometry else ""
        how = "compiled" if self.compiled else "eager"
        weights = " coded weights" if plan.basis == "coded" else ""  # the others cost the same
        return f"{shapes}{geometry} {how} M{plan.weight_bases} N{plan.activation_bases} {plan.levels}{weights}"
