"""Outputs of a network's blocks, for a student that follows its teacher inside too, not at the logits alone.

A quantized network has the blocks of the float one, and begins with its weights: block by block its outputs mean the
same, so that their distance can be made small as it is, without the adapting layers of Romero et al. 2015 ("FitNets:
Hints for Thin Deep Nets"), whose student is another network.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from abcfx.layers import ABCLayer

Distance = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]

SMALLEST_NORM = 1e-6  # mean square of a block's output: below it nothing is divided by it


def block_names(model: nn.Module) -> list[str]:
    """The outermost members of Sequential and ModuleList that hold a quantized layer; without any, the layers."""
    quantized = [name for name, module in model.named_modules() if isinstance(module, ABCLayer)]
    found: dict[str, None] = {}
    for name in quantized:
        parts = name.split(".")
        ways = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        block = next((way for way in ways if _is_member(model, way)), None)
        if block is not None:
            found[block] = None
    return list(found) or quantized


def require_blocks(teacher: nn.Module, names: Sequence[str]) -> None:
    """ValueError for a teacher that has not all of these blocks."""
    for name in names:
        try:
            teacher.get_submodule(name)
        except AttributeError:
            raise ValueError(
                f"the teacher has no block {name!r} to follow: take a teacher of the same network, or follow_blocks=0 "
                "(--follow-blocks 0)"
            ) from None


def _is_member(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Sequential | nn.ModuleList)


@dataclass
class _Seen:
    recording: bool = False
    outputs: dict[str, Tensor] = field(default_factory=dict)


class BlockOutputs:
    """Keeps what the modules `names` of `model` return, while recording. Its hooks go when it goes.

    The hooks are there before a compiled form of the model is first called, and stay, because torch.compile traces
    hooks like any code and does not look again whether there are others.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        seen = self._seen = _Seen()
        for name in names:
            handle = model.get_submodule(name).register_forward_hook(_keeper(seen, name))
            weakref.finalize(self, handle.remove)

    @contextmanager
    def recording(self) -> Iterator[dict[str, Tensor]]:
        """name → output of the runs inside; empty again afterwards, so that no graph is held."""
        self._seen.recording = True
        try:
            yield self._seen.outputs
        finally:
            self._seen.recording = False
            self._seen.outputs.clear()


def _keeper(seen: _Seen, name: str) -> Callable[[nn.Module, tuple, Tensor | tuple], None]:
    # a function and not a bound method: copies of the model share it instead of copying what was seen
    def keep(module: nn.Module, arguments: tuple, output: Tensor | tuple) -> None:
        if seen.recording:
            seen.outputs[name] = output if isinstance(output, Tensor) else output[0]

    return keep


def block_distance(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """Mean over blocks and samples of |s - t|² / |t|²: 0 when all is equal, about 1 when nothing is right.

    student, teacher   name → f[n, …] of the same blocks        →   f32[]

    Relative, so that blocks with large outputs do not count for all; by sample, so that the parts of a batch that
    processes share add up to the whole.
    """
    total = 0.0
    for name, right in teacher.items():
        wrong, right = student[name].float().flatten(1), right.float().flatten(1)
        total = total + ((wrong - right).square().mean(1) / right.square().mean(1).clamp_min(SMALLEST_NORM)).mean()
    return total / len(teacher)
