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
from abcfx.explain import Explanation, ParetoPoint
from abcfx.explain.drawing import Box, Drawing, Line
from abcfx.explain.layout import lay_out
from abcfx.explain.report import pareto_front
from abcfx.ops import library

pytestmark = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")
XHTML, SVG = "{http://www.w3.org/1999/xhtml}", "{http://www.w3.org/2000/svg}"


def parsed(explanation: Explanation) -> ElementTree.Element:
    """Fails if the page is not well-formed."""
    return ElementTree.fromstring(explanation.to_html())


def test_it_is_well_formed_and_loads_nothing(explanation: Explanation) -> None:
    points = (ParetoPoint("a<b", 1.0, 0.5), ParetoPoint("2×2", 2.0, 0.1, chosen=True))
    explanation = dataclasses.replace(explanation, pareto=points, notes=("a & b <c>",))
    root = parsed(explanation)
    for element in root.iter():
        for name, value in element.attrib.items():
            if name.rpartition("}")[2] in ("href", "src", "data", "action"):
                assert value.startswith("#"), (element.tag, value)
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


def test_the_pareto_front() -> None:
    points = [ParetoPoint(str(i), ms, loss) for i, (ms, loss) in enumerate([(1, 5), (2, 5), (3, 1), (2, 3), (4, 1)])]
    assert [p.label for p in pareto_front(points)] == ["0", "3", "2"]


def test_the_pareto_picture_is_there_only_with_points(explanation: Explanation) -> None:
    assert "What time buys" not in explanation.to_html()
    drawn = dataclasses.replace(explanation, pareto=(ParetoPoint("plan A", 1.0, 0.5), ParetoPoint("plan B", 2.0, 0.1)))
    figure = parsed(drawn).find(f".//{XHTML}div[@class='pareto']/{SVG}svg")
    texts = {"".join(t.itertext()).strip() for t in figure.iter(f"{SVG}text")}
    assert {"plan A", "plan B", "estimated rise of the loss"} <= texts


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
