"""The precision of float products inside training steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def rounded_products(kind: str) -> Iterator[None]:
    """Inside, with "bf16", oneDNN may round the operands of f32 convolutions and matrix products to bfloat16, and cuDNN
    and cuBLAS to TF32. Sums stay f32; a processor without the instructions goes on as before."""
    if kind == "f32":
        yield
        return
    backends = [torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul]
    wanted = [(backend, "bf16") for backend in backends]
    wanted += [(torch.backends.cudnn.conv, "tf32"), (torch.backends.cuda.matmul, "tf32")]
    before = [backend.fp32_precision for backend, _ in wanted]
    try:
        for backend, precision in wanted:
            backend.fp32_precision = precision
        yield
    finally:
        for (backend, _), precision in zip(wanted, before, strict=True):
            backend.fp32_precision = precision
