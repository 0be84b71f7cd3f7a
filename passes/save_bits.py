"""joint graph → the same graph, marked: what a training step keeps of a quantized layer is its bits.

    y = product(planes, W), ...     y is computed again from `planes` where the backward pass needs it

Holds because planes and windows are kept for the gradients in any case, and y is a function of planes and parameters:
32 bits a value are not kept, at the price of one more product on bits. The partitioner of AOTAutograd, a minimum cut
between the forward and the backward graph, reads the marks and decides about all other ops itself, so that a batch norm
that normalizes y and the activation behind it are computed again too. Where y is not needed (no batch norm, no mask)
nothing is computed twice.

A float convolution of an input of the graph (the first layer, which stays float by default) is treated alike: its input
is in memory anyway, it is cheap, and its output is the largest of the whole model.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node
from torch.utils.checkpoint import CheckpointPolicy

RECOMPUTED = (torch.ops.abc.product.default,)
KEPT = (torch.ops.abc.save_activation.default,)


class SaveBits(CustomGraphPass):
    """Marks for the partitioner in a joint graph: products and a first convolution PREFER_RECOMPUTE, bits MUST_SAVE.
    """

    def __call__(self, graph: Graph) -> None:
        for node in graph.nodes:
            if node.target in RECOMPUTED or _is_first(node):
                _mark(node, CheckpointPolicy.PREFER_RECOMPUTE)
            elif node.target in KEPT:
                for bits in (node, *node.users):
                    _mark(bits, CheckpointPolicy.MUST_SAVE)

    def uuid(self) -> bytes:
        """Part of the key of compiled graphs on disk: a joint graph also holds the calls of the rows of adjoint.py."""
        return get_hash_for_files((__file__, str(Path(__file__).with_name("adjoint.py"))))


def _is_first(node: Node) -> bool:
    return node.target is torch.ops.aten.convolution.default and node.args[0].op == "placeholder"


def _mark(node: Node, policy: CheckpointPolicy) -> None:
    """A mark that checkpointing put there (torch.utils.checkpoint) stays."""
    node.meta.setdefault("recompute", policy)
    node.meta.setdefault("ac_graph_id", 0)
