"""The cost model: seconds of each form of a layer as `sympy` formulas in its shape, M, N, threads and machine rates."""

from abcfx.cost.fit import Timing, fit
from abcfx.cost.formulas import FORMULAS
from abcfx.cost.predict import Dims, formula, predict
from abcfx.cost.rates import RATES, Rates, rates_for

__all__ = ["FORMULAS", "RATES", "Dims", "Rates", "Timing", "fit", "formula", "predict", "rates_for"]
