"""abcfx: ABC-Net quantization for PyTorch (W ≈ Σ α_p B_p, A ≈ Σ β_q A_q) on XNOR-popcount kernels.

quantized = abcfx.quantize_model(model, M=2, N=2)
abcfx.calibrate(quantized, batches)
fast = torch.compile(quantized, backend="abc")
"""

from abcfx import _path

_path.extend(__path__)

from abcfx import ops  # noqa: E402, F401  importing registers torch.ops.abc and torch.ops.abc_k
from abcfx.api import plan_of, quantize_, quantize_model  # noqa: E402
from abcfx.calibrate import calibrate, calibration  # noqa: E402
from abcfx.config import Config  # noqa: E402
from abcfx.explain import compare_forms, explain  # noqa: E402
from abcfx.fitting import fit_report  # noqa: E402
from abcfx.layers import NotCalibratedError  # noqa: E402
from abcfx.ops.warm_start import restore_warm_starts, warm_starts  # noqa: E402
from abcfx.ops.weight_cache import invalidate  # noqa: E402
from abcfx.packed import load_packed, save_packed  # noqa: E402
from abcfx.passes import adjoint  # noqa: E402, F401  importing makes the abc ops differentiable
from abcfx.plan import LayerPlan, Plan  # noqa: E402
from abcfx.planner import BudgetPlan, InfeasibleBudget, plan  # noqa: E402  abcfx.plan the function, as abcfx.summary
from abcfx.summary import summary  # noqa: E402

__version__ = "0.1.0"
__all__ = [
    "BudgetPlan",
    "Config",
    "InfeasibleBudget",
    "LayerPlan",
    "NotCalibratedError",
    "Plan",
    "calibrate",
    "calibration",
    "compare_forms",
    "explain",
    "fit_report",
    "invalidate",
    "load_packed",
    "plan",
    "plan_of",
    "quantize_",
    "quantize_model",
    "restore_warm_starts",
    "save_packed",
    "summary",
    "warm_starts",
]
