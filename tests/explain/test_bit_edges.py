"""Reading lowered graphs, also with ops that no pass makes yet: bits that go from layer to layer."""

from __future__ import annotations

import operator

import torch
from abcfx.passes._constants import View
from abcfx.passes.lower import Lowered, WeightInput
from torch import fx

from abcfx.explain.bits import BitGraph, planes_of
from abcfx.explain.drawing import draw

abc_k, aten = torch.ops.abc_k, torch.ops.aten
_LIBRARY = torch.library.Library("abc_k", "FRAGMENT")
_LIBRARY.define("test_linear_pack(Tensor planes, Tensor bits, Tensor alpha, int activation_bases) -> (Tensor, Tensor)")
_LIBRARY.define("test_pool(Tensor planes) -> Tensor")


def fused_graph() -> tuple[fx.GraphModule, Lowered]:
    """x → pack → layer a (emits bits and floats) → pool on bits → reshape → layer b → floats."""
    graph = fx.Graph()

    def node(made: fx.Node, *shape: int, dtype: torch.dtype = torch.float32) -> fx.Node:
        made.meta["val"] = torch.empty(shape, dtype=dtype)
        return made

    planes = {"dtype": torch.int64}
    x, s, t = (node(graph.placeholder(name), 4, 64) for name in ("x", "abc_scale_0", "abc_shift_0"))
    wa, aa = node(graph.placeholder("abc_bits_0"), 2, 64, **planes), node(graph.placeholder("abc_alpha_0"), 2, 64)
    wb, ab = node(graph.placeholder("abc_bits_1"), 2, 64, **planes), node(graph.placeholder("abc_alpha_1"), 2, 64)
    rows = node(graph.call_function(abc_k.pack_rows.default, (x, s, t, 3, "coded")), 4, 3, 1, **planes)
    both = graph.call_function(abc_k.test_linear_pack.default, (rows, wa, aa, 2))
    both.meta["val"] = (torch.empty(4, 2, 1, dtype=torch.int64), torch.empty(4, 64))
    bits = node(graph.call_function(operator.getitem, (both, 0)), 4, 2, 1, **planes)
    floats = node(graph.call_function(operator.getitem, (both, 1)), 4, 64)
    pooled = node(graph.call_function(abc_k.test_pool.default, (bits,)), 2, 2, 1, **planes)
    flat = node(graph.call_function(aten.reshape.default, (pooled, [2, 2])), 2, 2, **planes)
    y = graph.call_function(abc_k.test_linear_pack.default, (flat, wb, ab, 1))
    y.meta["val"] = (torch.empty(2, 1, 1, dtype=torch.int64), torch.empty(2, 64))
    out = node(graph.call_function(operator.getitem, (y, 1)), 2, 64)
    out = node(graph.call_function(aten.add.Tensor, (out, floats)), 2, 64)
    index = node(graph.call_function(aten.argmax.default, (out,)), 1, **planes)  # int64, but no planes
    graph.output((out, index))
    view = View(x, ())
    lowered = Lowered(
        [WeightInput(f"layer.{n}", (f"abc_bits_{i}", f"abc_alpha_{i}"), view, None) for i, n in enumerate("ab")]
    )
    return fx.GraphModule({}, graph), lowered


def test_edges_that_carry_bits() -> None:
    bits = BitGraph(*fused_graph())
    named = {(a.name, b.name) for a, b in bits.edges()}
    assert named == {
        ("pack_rows_default", "test_linear_pack_default"), ("getitem", "test_pool_default"),
        ("test_pool_default", "reshape_default"), ("reshape_default", "test_linear_pack_default_1"),
    }  # fmt: skip


def test_layers_of_fused_ops() -> None:
    layers = BitGraph(*fused_graph()).layers
    assert list(layers) == ["layer.a", "layer.b"]
    a, b = layers["layer.a"], layers["layer.b"]
    assert [n.name for n in a.pack] == ["pack_rows_default"]
    assert (a.reads_bits, a.writes_bits, b.reads_bits, b.writes_bits) == (False, True, True, False)
    assert [n.name for n in b.product] == ["test_linear_pack_default_1"]


def test_planes_are_read_from_the_schema() -> None:
    gm, lowered = fused_graph()
    found = {node.name: planes_of(node) for node in gm.graph.nodes if BitGraph(gm, lowered).carries_bits(node)}
    assert found == {"pack_rows_default": 3, "getitem": 2, "test_pool_default": 2, "reshape_default": 2}


def test_the_drawing_marks_bits_from_layer_to_layer() -> None:
    drawing = draw(*fused_graph())
    boxes = {box.id: box for box in drawing.boxes}
    marked = {(boxes[line.source].label, boxes[line.target].label): line.bits for line in drawing.lines}
    assert marked["pack_rows", "test_linear_pack"] == 3
    assert marked["test_linear_pack", "test_pool"] == 2
    assert marked["test_pool", "test_linear_pack"] == 2
    assert marked["test_linear_pack", "add"] is None
    assert [box.layer for box in drawing.boxes if box.kind == "kernel" and box.layer] == ["layer.a", "layer.b"]
