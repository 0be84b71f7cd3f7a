"""Packs move up through pooling and concatenation where that moves fewer bytes, and the values stay the same."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from abcfx.passes import carry_bits
from abcfx.passes._commuting import SliceView, commuting
from abcfx.passes.carry_bits import cut
from abcfx.passes.emit_bits import pack_view
from graphs import Net, dynamo, targets, weight_tensors
from test_emit_bits import counts, kept
from test_fuse import fused_matches
from test_rewrite_abc import rewritten
from torch import Tensor
from torch.fx import Node

from abcfx.quant import activations

pytestmark = pytest.mark.usefixtures("kernels")
X = (2, 20, 12, 10)


def vgg(m: Any, x: Tensor) -> Tensor:
    y = F.max_pool2d(F.relu(F.conv2d(x, m.w, padding=1)), 3, 2, 1)
    return F.conv2d(y, m.v, padding=1)


def test_a_pool_between_two_layers_runs_on_planes() -> None:
    pipeline = fused_matches(vgg, torch.randn(X), w=(24, 20, 3, 3), v=(8, 24, 3, 3))
    assert counts(pipeline) == (1, 1)
    assert kept(pipeline) == [False]
    assert targets(pipeline.gm).count("abc_k.max_pool_bits.default") == 1
    assert not [op for op in targets(pipeline.gm) if op.startswith("max_pool2d") or op == "fn"]


def test_pools_in_a_row() -> None:
    def twice(m: Any, x: Tensor) -> Tensor:
        y = F.max_pool2d(F.max_pool2d(F.conv2d(x, m.w, padding=1), 2), (1, 2), 1)
        return F.conv2d(y, m.v, padding=(0, 1))

    pipeline = fused_matches(twice, torch.randn(X), w=(24, 20, 3, 3), v=(8, 24, 3, 3))
    assert targets(pipeline.gm).count("abc_k.max_pool_bits.default") == 2
    assert kept(pipeline) == [False]


def test_a_concatenation_of_whole_words() -> None:
    """As in a fire module: both branches emit, and no floats are written."""

    def fire(m: Any, x: Tensor) -> Tensor:
        y = torch.cat([F.relu(F.conv2d(x, m.a)), F.relu(F.conv2d(x, m.w, padding=1))], 1)
        return F.conv2d(y, m.v, padding=1)

    pipeline = fused_matches(fire, torch.randn(X), a=(64, 20, 1, 1), w=(30, 20, 3, 3), v=(8, 94, 3, 3))
    assert kept(pipeline) == [False, False]
    assert targets(pipeline.gm).count("aten.cat.default") == 1


def test_a_concatenation_whose_floats_are_needed_stays() -> None:
    """No product emits the parts and somebody reads the floats: planes would come on top."""

    def dense_block(m: Any, x: Tensor) -> Tensor:
        y = F.conv2d(x, m.w, padding=1).sigmoid()
        both = torch.cat([x, y], 1)
        return F.conv2d(both, m.v, padding=1) + both.sigmoid()[:, :8]

    pipeline = fused_matches(dense_block, torch.randn(2, 64, 6, 6), w=(32, 64, 3, 3), v=(8, 96, 3, 3))
    assert "aten.cat.default" not in targets(pipeline.gm)
    assert any("more bytes" in reason for reason in pipeline.declined.values())


CANNOT = {
    "ceil_mode": lambda m, x: F.conv2d(F.max_pool2d(F.conv2d(x, m.w), 3, 2, ceil_mode=True), m.v),
    "dilation": lambda m, x: F.conv2d(F.max_pool2d(F.conv2d(x, m.w), 2, dilation=2), m.v),
    "average": lambda m, x: F.conv2d(F.avg_pool2d(F.conv2d(x, m.w), 2), m.v),
    "parts of words": lambda m, x: F.conv2d(torch.cat([F.conv2d(x, m.w), F.conv2d(x, m.w)], 1), m.u),
}


@pytest.mark.parametrize("case", CANNOT)
def test_what_does_not_commute_stays(case: str) -> None:
    pipeline = fused_matches(CANNOT[case], torch.randn(X), w=(24, 20, 3, 3), v=(8, 24, 3, 3), u=(8, 48, 3, 3))
    assert not {"abc_k.max_pool_bits.default", "aten.cat.default"} & set(targets(pipeline.gm))


SPLITS = {
    "chunk": lambda y: y.chunk(2, 1),
    "split": lambda y: torch.split(y, [64, 30], dim=1),
    "narrow": lambda y: (None, torch.narrow(y, 1, 64, 30)),
    "narrow method": lambda y: (None, y.narrow(1, 64, 30)),
    "getitem": lambda y: (y[:, :64], y[:, 64:]),
}


@pytest.mark.parametrize("how", SPLITS)
def test_a_part_of_whole_words_is_a_part_of_the_planes(how: str) -> None:
    """The product emits planes of all channels; one layer reads the words of its own."""

    def branch(m: Any, x: Tensor) -> Tensor:
        _first, second = SPLITS[how](F.relu(F.conv2d(x, m.w, padding=1)))
        return F.conv2d(second, m.v, padding=1)

    outputs, last = (128, 64) if how == "chunk" else (94, 30)
    pipeline = fused_matches(branch, torch.randn(X), w=(outputs, 20, 3, 3), v=(8, last, 3, 3))
    assert counts(pipeline) == (1, 1)
    assert kept(pipeline) == [False]
    assert targets(pipeline.gm).count("aten.slice.Tensor") == 1


def test_a_split_through_pools_and_concatenations() -> None:
    def cross(m: Any, x: Tensor) -> Tensor:
        y = F.relu(F.conv2d(x, m.w, padding=1))
        a, b = F.max_pool2d(y, 2).chunk(2, 1)
        return F.conv2d(torch.cat([b, a], 1), m.v, padding=1)

    pipeline = fused_matches(cross, torch.randn(X), w=(128, 20, 3, 3), v=(8, 128, 3, 3))
    assert counts(pipeline) == (1, 1)
    assert kept(pipeline) == [False]


def test_readers_of_two_parts_share_one_pack() -> None:
    """With the same levels: as a layer that is used twice has them."""

    def twice(m: Any, x: Tensor) -> Tensor:
        a, b = F.relu(F.conv2d(x, m.w, padding=1)).chunk(2, 1)
        return F.conv2d(a, m.v, padding=1) + F.conv2d(b, m.v, padding=1)

    captured = dynamo(Net(twice, w=(128, 20, 3, 3), v=(8, 64, 3, 3)).requires_grad_(False), torch.randn(X))
    pipeline = captured.pipeline()
    rewritten(pipeline)
    pipeline.lower()
    first, second = [n for n in pipeline.gm.graph.nodes if "pack_image" in str(n.target)][1:]
    second.args = (second.args[0], *first.args[1:])
    pipeline.fuse()
    assert counts(pipeline) == (1, 2), "the product of two terms emits too: it adds the other"
    assert kept(pipeline)[0] is False
    assert targets(pipeline.gm).count("aten.slice.Tensor") == 2


def test_readers_with_other_levels_pack_their_part_of_the_floats() -> None:
    def twice(m: Any, x: Tensor) -> Tensor:
        a, b = F.relu(F.conv2d(x, m.w, padding=1)).chunk(2, 1)
        return F.conv2d(a, m.v, padding=1) + F.conv2d(b, m.u, padding=1)

    pipeline = fused_matches(twice, torch.randn(X), w=(128, 20, 3, 3), v=(8, 64, 3, 3), u=(8, 64, 3, 3))
    assert counts(pipeline)[0] == 2
    assert any("more bytes" in reason for reason in pipeline.declined.values())


def test_half_a_word_stays() -> None:
    """ShuffleNetV2: 58 of 116 channels go one way."""

    def unit(m: Any, x: Tensor) -> Tensor:
        y = F.relu(F.conv2d(x, m.w))
        a, b = y.chunk(2, 1)
        both = torch.cat([a, F.conv2d(b, m.v, padding=1)], 1)
        return both.view(2, 2, 58, 12, 10).transpose(1, 2).reshape(2, 116, 12, 10)

    pipeline = fused_matches(unit, torch.randn(X), w=(116, 20, 1, 1), v=(58, 58, 3, 3))
    assert counts(pipeline)[0] == 2
    assert any("channels 58 to 116 of 116 are not whole words" in said for said in pipeline.declined.values())


def test_groups_stay_with_their_floats_below_a_pool() -> None:
    """The words of a group are its own: parts of a concatenation are none of them."""

    def grouped(m: Any, x: Tensor) -> Tensor:
        both = torch.cat([F.conv2d(x, m.w, padding=1), F.conv2d(x, m.v, padding=1)], 1)
        return F.conv2d(F.max_pool2d(both, 2), m.u, groups=2)

    pipeline = fused_matches(grouped, torch.randn(X), w=(64, 20, 3, 3), v=(32, 20, 3, 3), u=(8, 48, 3, 3))
    assert "aten.cat.default" not in targets(pipeline.gm)


def test_an_average_does_not_commute_with_quantizing() -> None:
    levels = torch.tensor([1.0]), torch.tensor([0.0]), 1, "coded"
    x = torch.tensor([0.0, 0.6])
    assert activations.quantize(x.mean(), *levels) == 0
    assert activations.quantize(x, *levels).mean() == 0.5
    pipeline = fused_matches(CANNOT["average"], torch.randn(X), w=(24, 20, 3, 3), v=(8, 24, 3, 3), u=(8, 48, 3, 3))
    assert any("average pooling mixes values" in reason for reason in pipeline.declined.values())


def test_the_cut_is_the_cheapest_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against every way to run two pools, a concatenation and two slices, with random sizes for the values."""

    def net(m: Any, x: Tensor) -> Tensor:
        a, b = F.conv2d(x, m.w, padding=1), F.max_pool2d(x.repeat(1, 4, 1, 1)[:, :64], 1)
        return F.conv2d(F.max_pool2d(torch.cat([a[:, 64:], b], 1), 2), m.v)

    captured = dynamo(Net(net, w=(128, 20, 3, 3), v=(8, 128, 3, 3)).requires_grad_(False), torch.randn(X))
    pipeline = captured.pipeline()
    rewritten(pipeline)
    weight_tensors(captured, pipeline.lower())
    pack = [n for n in pipeline.gm.graph.nodes if "pack_image" in str(n.target)][-1]
    view = pack_view(pack)
    movable = above(view.input)
    assert len(movable) == 5
    generator = torch.Generator().manual_seed(1)
    chosen = set()
    for _ in range(40):
        size = {node: int(torch.randint(1, 40, (1,), generator=generator)) for node in pipeline.gm.graph.nodes}
        monkeypatch.setattr(carry_bits, "_bytes", lambda node, bits, size=size: size[node] * bits)
        plans = [set(p) for r in range(6) for p in itertools.combinations(movable, r) if closed(set(p), movable)]
        best = min(cost(pack, view, plan, size) for plan in plans)
        found = cut(pack, view)
        assert cost(pack, view, found, size) == best
        chosen.add(len(found))
    assert len(chosen) > 1, "one plan won every time: the test shows nothing"


def above(node: Node) -> list[Node]:
    found = commuting(node)
    return [] if found is None else [node, *(n for value in found.inputs for n in above(value))]


def closed(plan: set[Node], movable: list[Node]) -> bool:
    """What reads planes of a node on planes runs on planes too."""
    readers = {node: [m for m in movable if node in commuting(m).inputs] for node in movable}
    return all(reader in plan for node in plan for reader in readers[node])


def cost(pack: Node, view: Any, plan: set[Node], size: dict[Node, int]) -> int:
    """Bytes moved, counted node by node."""

    def bytes_(node: Node, bits: int) -> int:
        return size[node] * bits

    total, packed, read_as_floats = 0, set(), set()
    for node in above(view.input):
        inputs = commuting(node).inputs
        width = view.planes if node in plan else 32
        if not isinstance(commuting(node), SliceView):
            total += sum(bytes_(v, width) for v in inputs) + bytes_(node, width)
        elif node in plan:
            total += 2 * bytes_(node, width)
        packed |= {v for v in inputs if node in plan and v not in plan}
        read_as_floats |= {v for v in inputs if node not in plan}
    packed |= set() if view.input in plan else {view.input}
    for value in packed:
        total += carry_bits._packing(value, view)
    for value in read_as_floats:
        if carry_bits.product_of(value) is not None:
            total += bytes_(value, 32)
    return total
