"""Quantized convolutions: every class of torch.nn, each a subclass of the layer it replaces."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abcfx.layers.base import ABCLayer


class _ABCConvNd(ABCLayer):
    """y = conv(Â, Ŵ) + bias: `torch.ops.abc.convolution` on the Parameters of the layer it replaces.

    Padding modes other than zeros pad the input first, which commutes with an elementwise quantizer.
    """

    @property
    def channel_dim(self) -> int:
        return -1 - len(self.kernel_size)

    def forward(self, input: Tensor) -> Tensor:
        if self.observer is not None:
            self.observer(self, input)
            return super().forward(input)
        dims = len(self.kernel_size)
        if input.dim() == dims + 1:
            return self.forward(input.unsqueeze(0)).squeeze(0)
        padding, begin = self._zero_padding()
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding, begin = [0] * dims, [0] * dims
        out = self.run_op(
            torch.ops.abc.convolution.default, input, self.weight, self.bias,
            self.stride, padding, self.dilation, False, [0] * dims, self.groups,
        )  # fmt: skip
        for dim, first in enumerate(begin, start=2):
            out = out.narrow(dim, first, out.shape[dim] - first) if first else out
        return out

    def _zero_padding(self) -> tuple[list[int], list[int]]:
        """Symmetric padding, and how many leading outputs it makes too many.

        padding='same' of an even kernel pads ⌊t/2⌋ in front and ⌈t/2⌉ behind (t = dilation·(kernel − 1), stride 1).
        Padding ⌈t/2⌉ on both sides gives the same outputs after t mod 2 extra ones.
        """
        if not isinstance(self.padding, str):
            return list(self.padding), [0] * len(self.padding)
        if self.padding == "valid":
            return [0] * len(self.kernel_size), [0] * len(self.kernel_size)
        totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        return [(total + 1) // 2 for total in totals], [total % 2 for total in totals]


class ABCConv1d(_ABCConvNd, nn.Conv1d):
    """Quantized nn.Conv1d: f[n, c, w] → f[n, o, w']."""


class ABCConv2d(_ABCConvNd, nn.Conv2d):
    """Quantized nn.Conv2d: f[n, c, h, w] → f[n, o, h', w']."""


class ABCConv3d(_ABCConvNd, nn.Conv3d):
    """Quantized nn.Conv3d: f[n, c, d, h, w] → f[n, o, d', h', w']. Runs in the dequantized form."""


class _ABCConvTransposeNd(ABCLayer):
    """y = conv_transpose(Â, Ŵ) + bias. Runs in the dequantized form: there is no binary kernel for it."""

    @property
    def channel_dim(self) -> int:
        return -1 - len(self.kernel_size)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self.observer is not None:
            self.observer(self, input)
            return super().forward(input, output_size)
        dims = len(self.kernel_size)
        if input.dim() == dims + 1:
            return self.forward(input.unsqueeze(0), output_size).squeeze(0)
        output_padding = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, dims, self.dilation
        )
        return self.run_op(
            torch.ops.abc.convolution.default, input, self.weight, self.bias,
            self.stride, self.padding, self.dilation, True, output_padding, self.groups,
        )  # fmt: skip


class ABCConvTranspose1d(_ABCConvTransposeNd, nn.ConvTranspose1d):
    """Quantized nn.ConvTranspose1d."""


class ABCConvTranspose2d(_ABCConvTransposeNd, nn.ConvTranspose2d):
    """Quantized nn.ConvTranspose2d."""


class ABCConvTranspose3d(_ABCConvTransposeNd, nn.ConvTranspose3d):
    """Quantized nn.ConvTranspose3d."""
