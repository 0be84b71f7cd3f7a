"""What `abcfx.explain` returns: one row a layer, the totals, the graphs; as data, as a table, and as a page."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abcfx.plan import Plan

if TYPE_CHECKING:
    from rich.console import RenderableType

    from abcfx.explain.drawing import Drawing

KERNELS = ("xnor", "lut")
TIMES = ("predicted_ms", "measured_ms", "float_ms", "predicted_float_ms", "pack_ms", "product_ms", "rest_ms")


@dataclass(frozen=True)
class LayerExplanation:
    """One layer.

    runs     "xnor" (popcount) or "lut" (lookup) on bit planes, "dense": one op on dequantized operands, or "float"
    reason   why it runs so     paste   the line of code that would change it, None if none can
    bits_in, bits_out   of a value on the edges into and out of the layer: planes where it travels as bits, else 32
    predicted_ms        of this form, by the cost model     measured_ms   of this form     float_ms   of the float layer
    pack_ms, product_ms, rest_ms   what measured_ms is made of, for a layer on bits
    alone_db, running_db   SQNR of its output against float: alone, on float inputs; running, after the layers before it
    """

    name: str
    kind: str
    runs: str
    reason: str
    paste: str | None
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None
    calls: int
    M: int | None
    N: int | None
    bits_in: int | None = None
    bits_out: int | None = None
    predicted_ms: float | None = None
    predicted_float_ms: float | None = None
    measured_ms: float | None = None
    float_ms: float | None = None
    pack_ms: float | None = None
    product_ms: float | None = None
    rest_ms: float | None = None
    alone_db: float | None = None
    running_db: float | None = None

    @property
    def products(self) -> int | None:
        """M·N binary products for each float one."""
        return self.M * self.N if self.M and self.N else None

    @property
    def speedup(self) -> float | None:
        """Measured float time over measured time; predicted over predicted if nothing was measured."""
        for ours, rival in ((self.measured_ms, self.float_ms), (self.predicted_ms, self.predicted_float_ms)):
            if ours and rival:
                return rival / ours
        return None


@dataclass(frozen=True)
class Explanation:
    """layers in order of registration; `output_db`: SQNR of the model's output; `before` and `after`: its graphs.

    notes   what could not be found out, and why        picture   SVG of loss against time of other plans, or empty
    packs   pack ops and edges that carry bits, in `after`
    """

    model: str
    inputs: tuple[tuple[int, ...], ...]
    layers: tuple[LayerExplanation, ...]
    output_db: float | None = None
    before: tuple[Drawing, ...] = ()
    after: tuple[Drawing, ...] = ()
    notes: tuple[str, ...] = ()
    machine: str = ""
    measured: bool = False
    picture: str = ""

    def total(self, name: str) -> float | None:
        """Sum of a time over the layers that have it; None if none has."""
        values = [value for layer in self.layers if (value := getattr(layer, name)) is not None]
        return sum(values) if values else None

    @property
    def speedup(self) -> float | None:
        """Of all layers together, measured; predicted if nothing was measured."""
        for ours, rival in (("measured_ms", "float_ms"), ("predicted_ms", "predicted_float_ms")):
            if (mine := self.total(ours)) and (other := self.total(rival)):
                return other / mine
        return None

    @property
    def packs(self) -> int:
        return sum(box.kind == "pack" for drawing in self.after for box in drawing.boxes)

    @property
    def bit_edges(self) -> int:
        return sum(line.bits is not None for drawing in self.after for line in drawing.lines)

    @property
    def slower_than_float(self) -> tuple[str, ...]:
        """Layers that are quantized and slower than in float: the never-slower mode keeps these in float."""
        return tuple(x.name for x in self.layers if x.runs != "float" and x.speedup is not None and x.speedup < 1)

    def faster_plan(self, plan: Plan, min_speedup: float = 1.0) -> Plan:
        """`plan`, of the explained model, without the layers that are not min_speedup times as fast as in float.

        By measured times if there are any, else by predicted ones. `quantize_model(model, plan=...)` takes the result.
        """
        how, layers, reasons = "measured" if self.measured else "predicted", dict(plan.layers), dict(plan.reasons)
        for row in self.layers:
            if row.name in layers and row.speedup is not None and row.speedup < min_speedup:
                del layers[row.name]
                reasons[row.name] = (
                    f"{how} {row.speedup:.2f} times as fast as in float when it ran as {row.runs}; "
                    f"min_speedup={min_speedup:g} is asked"
                )
        return Plan(layers, reasons)

    def to_dict(self) -> dict[str, Any]:
        """All of it but the graphs, totals included, in types that JSON has (an infinite SQNR is the text "inf")."""
        totals = {name: self.total(name) for name in TIMES}
        totals |= {"output_db": self.output_db, "packs": self.packs, "bit_edges": self.bit_edges}
        rows = [asdict(layer) | {"speedup": layer.speedup} for layer in self.layers]
        return _plain(
            {
                "model": self.model,
                "inputs": self.inputs,
                "machine": self.machine,
                "measured": self.measured,
                "layers": rows,
                "totals": totals,
                "slower_than_float": self.slower_than_float,
                "notes": self.notes,
            }
        )

    def to_html(self) -> str:
        """One page that needs nothing else: the graphs, the table, the Pareto picture if there is one."""
        from abcfx.explain.page import page

        return page(self)

    def save_html(self, path: str | Path) -> None:
        Path(path).write_text(self.to_html(), encoding="utf-8")

    def __rich__(self) -> RenderableType:
        from abcfx.cli.explain_table import ExplainTable

        return ExplainTable(self)

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=shutil.get_terminal_size((120, 24)).columns)
        console.print(self)
        return console.file.getvalue().rstrip("\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
