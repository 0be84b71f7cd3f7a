"""The planner: M, N and kind of each layer, or float, for a budget of time, bits or accuracy (docs/planner.md)."""

from abcfx.planner.budget import Budget, InfeasibleBudget
from abcfx.planner.options import LayerOptions, Measurements, Option
from abcfx.planner.planning import plan
from abcfx.planner.result import BudgetPlan

__all__ = ["Budget", "BudgetPlan", "InfeasibleBudget", "LayerOptions", "Measurements", "Option", "plan"]
