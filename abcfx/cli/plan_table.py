"""The table of a plan: what each layer becomes, its time in both forms, and what that costs in loss."""

from __future__ import annotations

from rich import box
from rich.table import Table

from abcfx.planner import BudgetPlan
from abcfx.planner.options import FLOAT


def plan_table(planned: BudgetPlan) -> Table:
    """A row for each layer; those that have no choice are dim."""
    table = Table(
        title=f"{planned.measured.setup.get('model', 'model')} for {planned.budget}", title_style="bold",
        title_justify="left", box=box.SIMPLE_HEAD, show_footer=True,
    )  # fmt: skip
    table.add_column("layer", "total", overflow="fold")
    table.add_column("choice")
    table.add_column("weights", f"{sum(layer.weights for layer in planned.measured.layers):,}", justify="right")
    table.add_column("float ms", f"{planned.measured.float_ms:.3g}", justify="right")
    table.add_column("ms", f"{planned.ms:.3g}", justify="right")
    table.add_column("loss", f"{planned.loss:.2g}", justify="right")
    for layer in planned.measured.layers:
        chosen = layer.option(planned.choices[layer.name])
        style = "dim" if len(layer.options) == 1 else None if chosen.label == FLOAT else "green"
        mark = " (fixed)" if layer.name in planned.fixed else ""
        table.add_row(
            layer.name, chosen.label + mark, f"{layer.weights:,}", f"{layer.options[0].ms:.3g}", f"{chosen.ms:.3g}",
            f"{chosen.loss:.2g}", style=style,
        )  # fmt: skip
    table.add_row("between the layers", "", "", *2 * [f"{planned.measured.rest_ms:.3g}"], "", style="dim")
    return table


def verdict(planned: BudgetPlan) -> str:
    """What the plan keeps to, in words: what is predicted, estimated and measured."""
    cost = planned.measured.setup.get("cost", "predicted")
    lines = [
        f"{cost}: {planned.ms:.3g} ms against {planned.measured.float_ms:.3g} ms in float, {planned.speedup:.2f}x; "
        f"{planned.bits:.3g} bits a weight in the layers with a choice",
        f"estimated: the loss rises by {planned.loss:.2g}; at most {100 * planned.gap:.2g} % from the best choice",
    ]
    if found := planned.accuracy:
        lines.append(
            f"measured on {found['images']} held-out samples against the {found['against']}: {found['planned']:.1f} % "
            f"instead of {found['float']:.1f} %, a drop of {found['drop']:.2f} ± {found['standard_error']:.2f} points"
        )
    return "\n".join(lines)
