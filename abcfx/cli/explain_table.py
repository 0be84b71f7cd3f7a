"""The table of `abcfx.explain` in a terminal: fits its width; reasons and lines to paste go below as numbered notes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from abcfx.cli.summary_table import MIN_NAME, STYLES, broken_at_dots
from abcfx.cli.units import shape
from abcfx.explain.page import number

if TYPE_CHECKING:
    from abcfx.explain.compare import Comparison
    from abcfx.explain.report import Explanation, LayerExplanation

WIDE = 116  # columns from which the split of the time and the kind of layer have room


class ExplainTable:
    """Rich rendering of an Explanation."""

    def __init__(self, explanation: Explanation) -> None:
        self.explanation = explanation
        self.notes: dict[tuple[str, str | None], int] = {}  # reason and line → number

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.notes.clear()
        yield self._table(options.max_width)
        yield Padding(self._verdict(), (0, 1))
        for (reason, paste), numbered in self.notes.items():
            line = Table.grid(padding=(0, 1))
            line.add_row(Text(str(numbered), style="cyan"), Text(reason, style="dim"))
            if paste:
                line.add_row("", Text(paste, style="green"))
            yield Padding(line, (0, 1))
        for note in self.explanation.notes:
            yield Padding(Text(note, style="yellow"), (0, 1))

    def _table(self, width: int) -> Table:
        e, wide = self.explanation, width >= WIDE
        table = Table(
            title=f"{e.model} on {', '.join(shape(value) for value in e.inputs)}", title_style="bold",
            title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_footer=True, header_style="bold",
        )  # fmt: skip
        table.add_column("layer", "total", overflow="fold", min_width=MIN_NAME)
        for name, total, justify in self._columns(wide):
            table.add_column(name, total, justify=justify, no_wrap=True)
        for layer in e.layers:
            called = f" ({layer.calls}×)" if layer.calls > 1 else ""
            name = broken_at_dots((layer.name or "(root)") + called, max(MIN_NAME, width - (108 if wide else 70)))
            table.add_row(name, *self._cells(layer, wide))
        return table

    def _columns(self, wide: bool) -> list[tuple[str, str, str]]:
        e = self.explanation
        return [
            *([("kind", "", "left")] if wide else []),
            ("runs", "", "left"),
            ("M×N", "", "left"),
            ("bits\nin→out", "", "left"),
            ("predicted\nms", number(e.total("predicted_ms")), "right"),
            ("measured\nms", number(e.total("measured_ms")), "right"),
            ("float\nms", number(e.total("float_ms")), "right"),
            ("float/\nours", number(e.speedup), "right"),
            *([("pack/product/rest\nms", _split(*(e.total(f"{part}_ms") for part in PARTS)), "right")] if wide else []),
            ("alone\ndB", "", "right"),
            ("running\ndB", number(e.output_db), "right"),
        ]

    def _cells(self, layer: LayerExplanation, wide: bool) -> list[str | Text]:
        runs = Text(layer.runs, style=STYLES[layer.runs])
        if layer.reason:
            key = layer.reason, layer.paste if layer.runs in ("float", "dense") else None
            runs.append(f" {self.notes.setdefault(key, len(self.notes) + 1)}", style="cyan")
        bits = "–" if layer.bits_in is None else f"{layer.bits_in}→{layer.bits_out}"
        slow = layer.runs != "float" and (layer.speedup or 1) < 1
        return [
            *([layer.kind.replace("conv_transpose", "convT")] if wide else []),
            runs,
            f"{layer.M}×{layer.N}" if layer.M else "–",
            bits,
            number(layer.predicted_ms),
            number(layer.measured_ms),
            number(layer.float_ms),
            Text(number(layer.speedup), style="red" if slow else ""),
            *([_split(*(getattr(layer, f"{part}_ms") for part in PARTS))] if wide else []),
            number(layer.alone_db),
            number(layer.running_db),
        ]

    def _verdict(self) -> Text:
        e = self.explanation
        quantized = [layer for layer in e.layers if layer.runs != "float"]
        text = Text(f"{len(quantized)} of {len(e.layers)} layers quantized")
        if quantized:
            text.append(f"; {e.packs} pack ops, {e.bit_edges} edges that carry bits; SQNR of the output ")
            text.append(number(e.output_db, " dB"), style="bold")
        if e.slower_than_float:
            slow = ", ".join(e.slower_than_float)
            text.append(f"; {'measured' if e.measured else 'predicted'} slower than in float: {slow}", style="red")
        return text


def comparison_table(comparison: Comparison) -> RenderableType:
    """Of `abcfx.compare_forms`, with a line that names the first layer that is wrong."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("layer", overflow="fold", min_width=MIN_NAME)
    for name in ("packed as", "packed against\ndequantized", "allowed", "alone\ndB", "running\ndB", "packed\ndB"):
        table.add_column(name, justify="left" if name == "packed as" else "right", no_wrap=True)
    for layer in comparison.layers:
        error = "–" if layer.form == "dense" else f"{layer.error:.1e}"
        decibels = (number(value) for value in (layer.alone_db, layer.running_db, layer.packed_db))
        style = "red" if layer.differs else ""
        table.add_row(layer.name, layer.form, error, f"{layer.tolerance:.0e}", *decibels, style=style)
    first = comparison.first_difference
    if first is None:
        verdict = Text("packed equals dequantized in every layer, up to rounding", style="green")
    else:
        verdict = Text(f"{first.name} is the first layer whose packed form is wrong: off by {first.error:.1e}", "red")
    return Group(table, Padding(verdict, (0, 1)))


PARTS = ("pack", "product", "rest")


def _split(*parts: float | None) -> str:
    return "/".join(number(part) for part in parts) if any(part is not None for part in parts) else "–"
