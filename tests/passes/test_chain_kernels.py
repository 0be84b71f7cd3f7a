"""Kernels that follow each other become one op, with the same bits. That it changes nothing is checked of every graph
of test_fuse.py, test_emit_bits.py, test_carry_bits.py … by `fused_matches`; here: what becomes a chain.
"""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from abcfx.passes.chain_kernels import chain_kernels
from graphs import targets
from test_fuse import fused_matches
from torch import Tensor

from abcfx.graph import clone
from abcfx.ops.kernel_chain import KERNELS
from abcfx.pipeline import Pipeline

pytestmark = pytest.mark.usefixtures("kernels")
IMAGE, WEIGHT, NEXT = (2, 20, 9, 9), (24, 20, 3, 3), (20, 24, 3, 3)


def chained(pipeline: Pipeline) -> tuple[list[str], list[list[str]]]:
    """(ops of the graph that are no kernels in chains, the steps of each chain by their ops)"""
    gm = clone(pipeline.gm)
    chain_kernels(gm)
    chains = [n for n in gm.graph.nodes if n.target is torch.ops.abc_k.chain.default]
    return targets(gm), [[step.split()[0] for step in node.args[1].split("; ")] for node in chains]


def image() -> Tensor:
    return torch.randn(IMAGE).contiguous(memory_format=torch.channels_last)


def block(m: Any, x: Tensor) -> Tensor:
    y = F.relu(F.conv2d(x, m.w, padding=1))
    return F.conv2d(y, m.v, padding=1) + x


def test_layers_that_exchange_bits_are_one_chain() -> None:
    pipeline = fused_matches(block, image(), w=WEIGHT, v=NEXT)
    outside, chains = chained(pipeline)
    (steps,) = chains
    assert [step for step in steps if step in KERNELS] == ["pack_image", "conv2d_emit", "conv2d_emit"]
    assert not {f"abc_k.{name}.default" for name in KERNELS} & set(outside)


@pytest.mark.parametrize("cut", [(slice(None), slice(None), slice(None, None, 2)), 0, (0, 1)], ids=str)
def test_an_index_of_one_result_is_no_choice_of_several(cut: Any) -> None:
    """A shortcut that skips pixels, as ResNets for CIFAR-10 have it: x[:, :, ::2]."""

    def sliced(m: Any, x: Tensor) -> Tensor:
        y = F.relu(F.conv2d(F.relu(F.conv2d(x, m.w, padding=1)), m.v, padding=1) + x)
        return F.conv2d(y, m.w, padding=1).sum() + y[cut].exp().sum()

    _, chains = chained(fused_matches(sliced, image(), w=WEIGHT, v=NEXT))
    assert [step for step in chains[0] if step in KERNELS] == ["pack_image", *["conv2d_emit"] * 2, "conv2d"]


def test_a_float_op_between_kernels_cuts_the_chain() -> None:
    """The second part waits for the sigmoid, which waits for the first: one chain would be a cycle."""

    def cut(m: Any, x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, m.w, padding=1).sigmoid(), m.v, padding=1)

    _, chains = chained(fused_matches(cut, image(), w=WEIGHT, v=NEXT))
    assert [chain[-2] for chain in chains] == ["conv2d", "conv2d"]


def test_views_between_kernels_go_along_and_those_of_others_do_not() -> None:
    """The strided layer packs a slice of what comes before; the sigmoid reads a view too, and no chain returns one."""

    def shortcut(m: Any, x: Tensor) -> Tensor:
        y = F.relu(F.conv2d(x, m.w, padding=1))
        return F.conv2d(y, m.u, None, 2).mean() + y.sigmoid()

    pipeline = fused_matches(shortcut, image(), w=WEIGHT, u=(20, 24, 1, 1))
    gm = clone(pipeline.gm)
    chain_kernels(gm)
    (node,) = (n for n in gm.graph.nodes if n.target is torch.ops.abc_k.chain.default)
    *steps, (_, *returned) = [step.split() for step in node.args[1].split("; ")]
    assert {"permute", "slice"} <= {op for op, *_ in steps}
    made, views = len(node.args[0]), set()
    for op, *_ in steps:
        views |= {f"%{made}"} if op in ("permute", "slice") else set()
        made += 2 if "_emit" in op else 1
    assert returned
    assert not views & set(returned)
    assert all(user.target is operator.getitem for user in node.users)


def test_two_permutations_that_undo_each_other_go() -> None:
    pipeline = fused_matches(lambda m, x: block(m, block(m, x)), image(), w=WEIGHT, v=NEXT)
    (steps,) = chained(pipeline)[1]
    assert steps.count("permute") == 2, "of the input and for the pack; the residual is what the kernel wrote"


def test_a_single_kernel_stays_as_it_is() -> None:
    def one(m: Any, x: Tensor) -> Tensor:
        return F.conv2d(x.sigmoid(), m.w).sigmoid()

    pipeline = fused_matches(one, image(), w=WEIGHT)
    (pack,) = (n for n in pipeline.gm.graph.nodes if n.target is torch.ops.abc_k.pack_image.default)
    pack.args[0].meta["val"] = pack.args[0].meta["example_value"] = torch.empty(1, device="meta")
    pack.meta.update({key: torch.empty(1, device="meta") for key in ("val", "example_value")})  # not on the CPU
    assert chained(pipeline)[1] == []


def test_a_stage_that_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = fused_matches(block, image(), w=WEIGHT, v=NEXT)
    monkeypatch.setenv("ABCFX_SKIP", "chain")
    before = targets(pipeline.gm)
    pipeline.chain()
    assert targets(pipeline.gm) == before
    monkeypatch.delenv("ABCFX_SKIP")
    pipeline.chain()
    assert targets(pipeline.gm) != before
    assert pipeline.ran[-1] == "chain"
