"""Two operator namespaces: `abc::` means mathematics and has adjoints; `abc_k::` is bits and kernels, no autograd."""

from __future__ import annotations

import torch

ABC = torch.library.Library("abc", "DEF")
ABC_K = torch.library.Library("abc_k", "DEF")

# what every quantized layer op takes after its float arguments
PLAN_ARGUMENTS = "int weight_bases, int activation_bases, str basis, str levels, bool per_channel"
