"""Named views of what stands between layers and can run on bit planes: max pooling, concatenation, slices of channels.

    pack(max_pool(x)) = max_pool_bits(pack(x))          pack(cat(x, y)) = cat(pack(x), pack(y))
    pack(x[:, a:b]) = words a/64 to b/64 of pack(x)

The first holds because quantizing is monotone, the others because it acts on each value alone; where channels are cut
or joined, whole words must be.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from abcfx.passes._constants import is_written
from abcfx.passes._glue import bound_to
from torch import Tensor
from torch.fx import Node

from abcfx.graph import shape_of, value

aten = torch.ops.aten
WORD = 64


class PoolView(NamedTuple):
    """Max pooling in two dimensions without dilation or ceil_mode."""

    input: Node
    kernel: list[int]
    stride: list[int]
    padding: list[int]

    @property
    def inputs(self) -> list[Node]:
        return [self.input]


class CatView(NamedTuple):
    """Concatenation of channels, each part but the last of whole words."""

    inputs: list[Node]


class SliceView(NamedTuple):
    """Channels [begin, end) of an image, from a word's first to a word's last or the last of all; a view of floats."""

    input: Node
    begin: int
    end: int

    @property
    def inputs(self) -> list[Node]:
        return [self.input]

    @property
    def words(self) -> tuple[int, int]:
        return self.begin // WORD, -(-self.end // WORD)


Commuting = PoolView | CatView | SliceView


def _max_pool(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    if return_indices or ceil_mode or pair(dilation) != [1, 1]:
        return None
    return PoolView(input, pair(kernel_size), pair(stride or kernel_size), pair(padding))


def _cat(tensors, dim=0):
    shapes = [shape_of(t) for t in tensors]
    if dim not in (1, -3) or any(s is None or len(s) != 4 for s in shapes):
        return None
    return CatView(list(tensors)) if all(s[1] % WORD == 0 for s in shapes[:-1]) else None  # type: ignore[index]


def _split(tensor, split_size_or_sections, dim=0):
    return tensor if dim in (1, -3) else None


def _chunk(input, chunks, dim=0):
    return input if dim in (1, -3) else None


def _narrow(input, dim, start, length):
    return (input, start, start + length) if dim in (1, -3) else None


def _slice(input, dim=0, start=None, end=None, step=1):
    return (input, start, end) if dim in (1, -3) and step == 1 else None


READERS = {
    F.max_pool2d: _max_pool, torch.max_pool2d: _max_pool, aten.max_pool2d.default: _max_pool,
    torch.cat: _cat, torch.concat: _cat, aten.cat.default: _cat,
}  # fmt: skip
MAX_POOLS = tuple(target for target, reader in READERS.items() if reader is _max_pool)
SPLITS = {
    torch.split: _split, "split": _split, aten.split.Tensor: _split, aten.split_with_sizes.default: _split,
    torch.functional.split: _split, torch.chunk: _chunk, "chunk": _chunk, aten.chunk.default: _chunk,
}  # fmt: skip
SLICES = {torch.narrow: _narrow, "narrow": _narrow, aten.narrow.default: _narrow, aten.slice.Tensor: _slice}


def commuting(node: Any) -> Commuting | None:
    """The view of a node that can run on planes."""
    if not isinstance(node, Node) or node.op not in ("call_function", "call_method") or len(shape_of(node) or ()) != 4:
        return None
    found: Commuting | None = None
    bound = bound_to(READERS.get(node.target), node)
    if bound is not None:
        found = READERS[node.target](*bound.args, **bound.kwargs)
    elif (cut := channels_of(node)) is not None and whole_words(cut):
        found = cut
    return None if found is None or any(is_written(v) for v in found.inputs) else found


def channels_of(node: Node) -> SliceView | None:
    """Which channels of which image a node is: a part of split or chunk, narrow, or x[:, a:b]; whole words or not."""
    if node.target is operator.getitem:
        owner, index = node.args
        if isinstance(index, int):
            return _part(owner, index)  # type: ignore[arg-type]
        if not isinstance(index, tuple) or len(index) < 2 or any(i not in _EVERYTHING for i in (index[0], *index[2:])):
            return None
        cut = index[1]
        plain = isinstance(cut, slice) and cut.step in (None, 1)
        return _bounded(owner, cut.start, cut.stop) if plain else None
    bound = bound_to(SLICES.get(node.target), node)
    found = SLICES[node.target](*bound.args, **bound.kwargs) if bound is not None else None
    return _bounded(*found) if found is not None else None


_EVERYTHING = (slice(None), Ellipsis, slice(None, None, 1))


def _part(owner: Node, index: int) -> SliceView | None:
    bound = bound_to(SPLITS.get(owner.target), owner) if isinstance(owner, Node) else None
    image = SPLITS[owner.target](*bound.args, **bound.kwargs) if bound is not None else None
    parts = value(owner)
    if image is None or not isinstance(parts, (tuple, list)) or not all(isinstance(p, Tensor) for p in parts):
        return None
    sizes = [p.shape[1] for p in parts]
    index %= len(sizes)
    return _bounded(image, sum(sizes[:index]), sum(sizes[: index + 1]))


def _bounded(image: Any, begin: Any, end: Any) -> SliceView | None:
    shape = shape_of(image)
    if shape is None or len(shape) != 4 or not isinstance(shape[1], int):
        return None
    if not all(bound is None or isinstance(bound, int) for bound in (begin, end)):
        return None
    begin, end, _ = slice(begin, end).indices(shape[1])
    return SliceView(image, begin, end) if begin < end else None


def whole_words(cut: SliceView) -> bool:
    channels = shape_of(cut.input)[1]  # type: ignore[index]
    return cut.begin % WORD == 0 and (cut.end % WORD == 0 or cut.end == channels)


def readers(node: Node) -> set[Node]:
    """Who reads a value: of a split, who takes a part of it."""
    return {reader for user in node.users for reader in (user.users if user.target in SPLITS else (user,))}


def pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else [value[0], value[-1]]
