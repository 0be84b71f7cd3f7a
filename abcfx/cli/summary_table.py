"""The table of `abcfx.summary`: fits itself to the width of the terminal, reasons go below as numbered notes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from abcfx.cli.units import count, shape, size

if TYPE_CHECKING:
    from abcfx.summary import LayerSummary, Summary

STYLES = {"xnor": "green", "lut": "green", "dense": "yellow", "float": "dim", "unknown": "dim"}
WIDE, ROOMY = 96, 108  # columns from which there is room for every column, and for air between them


MIN_NAME = 10


def broken_at_dots(name: str, width: int) -> str:
    """The name on as many lines as it needs, broken after dots."""
    lines = [""]
    for part in re.findall(r"[^.]*\.|[^.]+", name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("  ")
        lines[-1] += part
    return "\n".join(lines)


class SummaryTable:
    """Rich rendering of a Summary."""

    def __init__(self, summary: Summary) -> None:
        self.summary = summary
        self.notes: dict[str, int] = {}  # note → its number

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.notes.clear()
        width = options.max_width
        others = Measurement.get(console, options, self._table(width, lambda name: "")).maximum
        yield self._table(width, lambda name: broken_at_dots(name, max(MIN_NAME, width - others + MIN_NAME)))
        yield Padding(self._verdict(), (0, 1))
        for note, number in self.notes.items():
            line = Table.grid(padding=(0, 1))
            line.add_row(Text(str(number), style="cyan"), Text(note, style="dim"))
            yield Padding(line, (0, 1))

    def _table(self, width: int, shown_name: Callable[[str], str]) -> Table:
        summary = self.summary
        inputs = ", ".join(shape(value) for value in summary.inputs)
        table = Table(
            title=summary.model + (f" on {inputs}" if inputs else ""), title_style="bold", title_justify="left",
            box=box.SIMPLE_HEAD, padding=(0, 1 if width >= ROOMY else 0, 0, 0), show_footer=True, header_style="bold",
        )  # fmt: skip
        table.add_column("layer", "total", overflow="fold", min_width=MIN_NAME)
        for name, total, justify in self._columns(width >= WIDE):
            table.add_column(name, total, justify=justify, no_wrap=True)
        for layer in summary.layers:
            called = f" ({layer.calls}×)" if layer.calls > 1 else ""
            table.add_row(shown_name((layer.name or "(root)") + called), *self._cells(layer, width >= WIDE))
        return table

    def _columns(self, wide: bool) -> list[tuple[str, str, str]]:
        """(header, footer, alignment) after the name. A narrow table has one column of MACs; `runs` says of which."""
        summary = self.summary
        binary, dense = count(summary.binary_macs), count(summary.float_macs)
        macs = [("binary\nMACs", binary, "right"), ("float\nMACs", dense, "right")]
        return [
            ("kind", "", "left"),
            *([("input", "", "left")] if wide else []),
            ("output", "", "left"),
            ("M×N", "", "left"),
            *(macs if wide else [("MACs", count(summary.binary_macs + summary.float_macs), "right")]),
            ("float\nsize", size(summary.float_bytes), "right"),
            ("packed\nsize", size(summary.packed_bytes), "right"),
            ("runs", "", "left"),
        ]

    def _cells(self, layer: LayerSummary, wide: bool) -> list[str | Text]:
        runs = Text(layer.runs, style=STYLES[layer.runs])
        if layer.note:
            runs.append(f" {self.notes.setdefault(layer.note, len(self.notes) + 1)}", style="cyan")
        macs = [count(layer.binary_macs), count(layer.float_macs)]
        return [
            layer.kind.replace("conv_transpose", "convT"),
            *([shape(layer.input_shape)] if wide else []),
            shape(layer.output_shape),
            f"{layer.M}×{layer.N}" if layer.M else "–",
            *(macs if wide else [count((layer.binary_macs or 0) + (layer.float_macs or 0))]),
            size(layer.float_bytes),
            size(layer.packed_bytes),
            runs,
        ]

    def _verdict(self) -> Text:
        summary = self.summary
        quantized = [layer for layer in summary.layers if layer.runs != "float"]
        if not quantized:
            return Text("no layer is quantized")
        text = Text.assemble(
            f"{size(summary.float_bytes)} → {size(summary.packed_bytes)} on disk, ",
            (f"{summary.compression:.1f}× smaller", "bold green"),
            f"; {len(quantized)} of {len(summary.layers)} layers quantized",
        )
        if summary.other_bytes:
            text.append(f"; {size(summary.other_bytes)} in other tensors")
        return text
