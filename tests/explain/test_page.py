"""The page: well-formed, self-contained, every layer in the table, bits marked on the right edges of the graph."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from html.parser import HTMLParser

import pytest
import torch
from torch import Tensor, nn

import abcfx
from abcfx.explain import Explanation
from abcfx.explain.drawing import Box, Drawing, Line
from abcfx.explain.layout import lay_out
from abcfx.ops import library

pytestmark = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")
XHTML, SVG = "{http://www.w3.org/1999/xhtml}", "{http://www.w3.org/2000/svg}"


def parsed(explanation: Explanation) -> ElementTree.Element:
    """Fails if the page is not well-formed."""
    return ElementTree.fromstring(explanation.to_html())


def assert_loads_nothing(root: ElementTree.Element) -> None:
    for element in root.iter():
        for name, value in element.attrib.items():
            if name.rpartition("}")[2] in ("href", "src", "data", "action"):
                assert value.startswith("#"), (element.tag, value)


def test_it_is_well_formed_and_loads_nothing(explanation: Explanation) -> None:
    explanation = dataclasses.replace(explanation, notes=("a & b <c>",))
    root = parsed(explanation)
    assert_loads_nothing(root)
    text = explanation.to_html()
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|<link|<img|<iframe", text)
    assert "a &amp; b &lt;c&gt;" in text
    script = root.find(f".//{XHTML}script").text
    assert not re.search(r"[<&]", script), "HTML reads a script as it stands, XML does not"


def test_open_tags_are_closed_for_an_html_parser_too(explanation: Explanation) -> None:
    class Balance(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: list) -> None:
            self.open.append(tag)

        def handle_startendtag(self, tag: str, attrs: list) -> None:
            assert tag in ("meta", "rect", "path")  # an HTML parser closes void elements, and any in SVG

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    parser = Balance()
    parser.feed(explanation.to_html())
    assert parser.open == []


def test_the_table_has_every_layer_and_every_column(explanation: Explanation) -> None:
    table = parsed(explanation).find(f".//{XHTML}table[@id='layers']")
    headers = table.findall(f"{XHTML}thead/{XHTML}tr/{XHTML}th")
    body = table.findall(f"{XHTML}tbody/{XHTML}tr")
    assert [row.attrib["data-layer"] for row in body] == [layer.name for layer in explanation.layers]
    for row, layer in zip(body, explanation.layers, strict=True):
        cells = {"".join(h.itertext()): cell for h, cell in zip(headers, row.findall(f"{XHTML}td"), strict=True)}
        assert "".join(cells["runs"].itertext()) == layer.runs == row.attrib["class"]
        assert cells["SQNR alone dB"].attrib["data-value"] == ("" if layer.alone_db is None else str(layer.alone_db))
        assert cells["predicted ms"].attrib["data-value"] == str(layer.predicted_ms)
        assert cells["M·N"].attrib["data-value"] == ("" if layer.products is None else "6")
        assert "".join(cells["to change it, paste"].itertext()) == (layer.paste or "–")


def edges(element: ElementTree.Element, section: str, kind: str) -> list[ElementTree.Element]:
    found = element.find(f".//{XHTML}section[@class='{section}']")
    return found.findall(f".//{SVG}path[@class='edge {kind}']")


def test_edges_that_carry_bits_are_marked(explanation: Explanation) -> None:
    root = parsed(explanation)
    assert not edges(root, "before", "bits")
    bits = edges(root, "after", "bits")
    (drawing,) = explanation.after
    boxes = {box.id: box for box in drawing.boxes}
    pairs = {(boxes[e.attrib["data-from"]].kind, boxes[e.attrib["data-to"]].kind) for e in bits}
    assert pairs == {("pack", "kernel"), ("kernel", "kernel")}
    layers = Counter(boxes[e.attrib["data-to"]].layer for e in bits)
    assert layers == {"body": 1, "down": 1, "narrow": 1, "shared": 2}
    labels = [t.text for t in root.iter(f"{SVG}text") if t.attrib.get("class") == "planes"]
    assert labels == ["3 bit planes"] * 5
    assert (explanation.bit_edges, explanation.packs) == (5, 2)


def test_boxes_tell_what_they_are(explanation: Explanation) -> None:
    (before,), (after,) = explanation.before, explanation.after
    assert Counter(box.kind for box in before.boxes)["quantized"] == 6  # shared runs twice
    kinds = Counter(box.kind for box in after.boxes)
    assert (kinds["kernel"], kinds["pack"], kinds["dense"], kinds["layer"]) == (5, 2, 1, 2)
    assert [box.layer for box in after.boxes if box.kind == "dense"] == ["hidden"]
    assert [box.layer for box in after.boxes if box.kind == "layer"] == ["stem", "head"]
    assert [box.kind for box in after.boxes].count("input") == 1
    assert next(box.shape for box in after.boxes if box.kind == "kernel" and box.layer == "down").startswith("int64 ")


def test_no_box_lies_on_another_or_under_a_line(explanation: Explanation) -> None:
    for drawing in (*explanation.before, *explanation.after):
        layout = lay_out(drawing)
        assert len(set(layout.places.values())) == len(drawing.boxes)
        for path in layout.paths.values():
            assert not set(path[1:-1]) & set(layout.places.values())
            assert [row for row, _ in path] == list(range(path[0][0], path[-1][0] + 1))


def test_layout_of_a_chain_with_skips_keeps_the_chain_straight() -> None:
    boxes = tuple(Box(str(i), "op", "", "op", "") for i in range(5))
    chain = [Line(str(i), str(i + 1), None) for i in range(4)]
    skips = [Line("0", "3", None), Line("0", "4", 2), Line("1", "4", None)]
    layout = lay_out(Drawing(boxes, tuple(chain + skips)))
    assert [layout.places[str(i)] for i in range(5)] == [(i, 0) for i in range(5)]
    assert layout.paths["0", "4"][1:3] == layout.paths["0", "3"][1:3]  # one way for both lines of one source
    assert layout.columns == 3


def test_the_picture_of_a_plan(net: nn.Module, images: Tensor, explanation: Explanation) -> None:
    assert "What time buys" not in explanation.to_html()
    planned = abcfx.plan(net, [images], {"bits": 2.5}, samples=2)
    model = abcfx.calibrate(abcfx.quantize_model(net, plan=planned), [images], progress=False)
    drawn = abcfx.explain(model, images, measure=False, plan=planned)
    root = parsed(drawn)
    figure = root.find(f".//{XHTML}div[@class='pareto']/{SVG}svg")
    speedup = drawn.total("predicted_float_ms") / drawn.total("predicted_ms")
    assert drawn.speedup == pytest.approx(speedup)
    assert f"{speedup:.2f}×" in {b.text for b in root.iter(f"{XHTML}b")}
    texts = {"".join(t.itertext()).strip() for t in figure.iter(f"{SVG}text")}
    assert {"2x2", "best plans", f"chosen for {planned.budget}"} <= texts
    assert_loads_nothing(root)


def test_names_are_escaped() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("a", "<b>&\"'", "c"):
                self.add_module(name, nn.Linear(64, 64))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.children():
                x = layer(x).relu()
            return x

    x = torch.randn(4, 64)
    q = abcfx.calibrate(abcfx.quantize_model(Odd().eval()), [x], progress=False)
    page = parsed(abcfx.explain(q, x, measure=False))
    assert [row.attrib["data-layer"] for row in page.iter(f"{XHTML}tr") if "data-layer" in row.attrib][1] == "<b>&\"'"
