"""The page of `explain --html`: one file, nothing loaded from anywhere; well-formed XML, so it can be read as data."""

from __future__ import annotations

import math
from html import escape
from importlib.resources import files

from abcfx.cli.units import shape
from abcfx.explain.report import Explanation, LayerExplanation
from abcfx.explain.svg import svg

LEGEND = (
    ("layer", "float layer"), ("quantized", "quantized layer"), ("pack", "pack: values → bit planes"),
    ("kernel", "product on bits"), ("dense", "dense: one op on dequantized operands"), ("op", "other op"),
)  # fmt: skip
# header, hint, numeric
COLUMNS = (
    ("layer", "", False), ("kind", "", False), ("runs", "xnor and lut on bits; dense: one float op", False),
    ("M·N", "binary products for each float one", True), ("in", "bits of a value on the edge into the layer", True),
    ("out", "bits of a value on the edge out of the layer", True), ("output", "shape", False),
    ("predicted ms", "of this form", True), ("measured ms", "of this form", True),
    ("float ms", "of the float layer", True), ("speedup", "float / ours", True), ("pack ms", "", True),
    ("product ms", "the kernel with its epilogue", True), ("rest ms", "after the kernel", True),
    ("SQNR alone dB", "of its output, on float inputs", True),
    ("SQNR running dB", "of its output, after the layers before it", True), ("why", "", False),
    ("to change it, paste", "", False),
)  # fmt: skip


def page(explanation: Explanation) -> str:
    """XHTML text. Raises nothing: what is not known shows as a dash."""
    e = explanation
    style, script = (
        files("abcfx.explain").joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    inputs = ", ".join(shape(value) for value in e.inputs)
    parts = [
        "<!DOCTYPE html>",
        '<html xmlns="http://www.w3.org/1999/xhtml" lang="en"><head><meta charset="utf-8"/>',
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
        f"<title>abcfx: {escape(e.model)}</title><style>{style}</style></head><body>",
        f"<h1>{escape(e.model)} <small>on {escape(inputs)}</small></h1>",
        f'<p class="machine">{escape(e.machine)}</p>',
        *(f'<p class="note">{escape(note)}</p>' for note in e.notes),
        _cards(e),
        "<h2>Layers</h2>",
        '<p class="hint">Click a header to sort. Times are sums over the calls of a layer.</p>',
        _table(e),
        *_pareto(e),
        "<h2>Graph</h2>",
        _legend(),
        _graphs(e),
        f"<script>{script}</script></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _cards(e: Explanation) -> str:
    quantized = [layer for layer in e.layers if layer.runs != "float"]
    names = ("measured_ms", "float_ms") if e.measured else ("predicted_ms", "predicted_float_ms")
    ours, rival = (e.total(name) for name in names)
    cards = [
        (f"{len(quantized)} of {len(e.layers)}", "layers quantized"),
        (f"{sum(layer.runs in ('xnor', 'lut') for layer in quantized)}", "of them on bits"),
        (number(e.output_db, " dB"), "SQNR of the output"),
        (f"{e.packs}", "pack ops"),
        (f"{e.bit_edges}", "edges that carry bits"),
    ]
    if e.speedup is not None:
        kind = "measured" if e.measured else "predicted"
        cards.append((f"{e.speedup:.2f}×", f"layers, {kind}: {number(rival, ' ms')} float → {number(ours, ' ms')}"))
    return '<div class="cards">' + "".join(f"<div><b>{escape(a)}</b>{escape(b)}</div>" for a, b in cards) + "</div>"


def number(value: float | None, unit: str = "") -> str:
    """Three digits; a dash for what is not known, ∞ for no error at all."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "∞" if value > 0 else "NaN"
    return f"{value:.3g}{unit}" if abs(value) < 1000 else f"{value:.0f}{unit}"


def _table(e: Explanation) -> str:
    head = "".join(
        f'<th scope="col" class="{"n" if numeric else "t"}" title="{escape(hint)}">{escape(name)}</th>'
        for name, hint, numeric in COLUMNS
    )
    totals = {"predicted ms": "predicted_ms", "measured ms": "measured_ms", "float ms": "float_ms"}
    totals |= {"pack ms": "pack_ms", "product ms": "product_ms", "rest ms": "rest_ms"}
    foot = []
    for name, _, numeric in COLUMNS:
        text = number(e.total(totals[name])) if name in totals else "total" if name == "layer" else ""
        foot.append(f'<td class="{"n" if numeric else "t"}">{escape(text)}</td>')
    rows = "\n".join(_row(layer) for layer in e.layers)
    return (
        f'<div class="wide"><table id="layers"><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody>'
        f"<tfoot><tr>{''.join(foot)}</tr></tfoot></table></div>"
    )


def _row(layer: LayerExplanation) -> str:
    numbers = iter(
        (layer.products, layer.bits_in, layer.bits_out, layer.predicted_ms, layer.measured_ms, layer.float_ms,
         layer.speedup, layer.pack_ms, layer.product_ms, layer.rest_ms, layer.alone_db, layer.running_db)
    )  # fmt: skip
    name = layer.name or "(root)"
    words = iter((name, layer.kind, layer.runs, shape(layer.output_shape), layer.reason, layer.paste or "–"))
    cells = []
    for title, _, numeric in COLUMNS:
        if numeric:
            value = next(numbers)
            key = "" if value is None else str(value)
            slow = " slow" if title == "speedup" and value is not None and value < 1 and layer.runs != "float" else ""
            cells.append(f'<td class="n{slow}" data-value="{key}">{escape(number(value))}</td>')
        else:
            text, tag = escape(next(words)), "code" if title.endswith("paste") and layer.paste else "span"
            cells.append(f'<td class="t"><{tag}>{text}</{tag}></td>')
    return f'<tr class="{layer.runs}" data-layer="{escape(name)}">{"".join(cells)}</tr>'


def _pareto(e: Explanation) -> list[str]:
    return ["<h2>What time buys</h2>", f'<div class="pareto">{e.picture}</div>'] if e.picture else []


def _legend() -> str:
    entries = "".join(f'<span><i class="{kind}"></i>{escape(text)}</span>' for kind, text in LEGEND)
    lines = (
        '<span><i class="line bits"></i>edge of bit planes</span><span><i class="line float"></i>edge of floats</span>'
    )
    return f'<p class="legend">{entries}{lines}</p>'


def _graphs(e: Explanation) -> str:
    columns = []
    for title, drawings in (("before", e.before), ("after", e.after)):
        drawn = "\n".join(svg(drawing, f"the graph {title}, part {i + 1}") for i, drawing in enumerate(drawings))
        columns.append(f'<section class="{title}"><h3>{title}</h3>{drawn or "<p>no graph</p>"}</section>')
    return f'<div class="graphs">{"".join(columns)}</div>'
