"""explain(model, *inputs): per layer what became of it and why, what it costs, what it loses; as a table or a page.

sqnr.py      the values: each layer against float      capture.py   the graphs before and after
bits.py      which edges carry bits                    clock.py     milliseconds, split
advice.py    the line that would change it             compare.py   float, dequantized, packed side by side
drawing.py   layout.py  svg.py  page.py     the page
"""

from abcfx.explain.compare import Comparison, LayerComparison, compare_forms
from abcfx.explain.explain import explain
from abcfx.explain.report import Explanation, LayerExplanation

__all__ = [
    "Comparison",
    "Explanation",
    "LayerComparison",
    "LayerExplanation",
    "compare_forms",
    "explain",
]
