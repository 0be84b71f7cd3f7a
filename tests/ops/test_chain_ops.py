"""abc_k::chain: the compiled op gives what its steps give one by one, and refuses what is no program."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from test_kernel_ops import Levels, conv_arguments, linear_arguments
from torch import Tensor

import abcfx  # noqa: F401  registers the ops
from abcfx.ops import library
from abcfx.ops.kernel_chain import NAMES, chain, program_text, step_text
from abcfx.ops.kernel_pack import NO_LIMIT

aten, k = torch.ops.aten, torch.ops.abc_k
NONE = (-NO_LIMIT, NO_LIMIT)

needs_kernels = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")


class Recorded:
    """Runs ops one by one and writes down the program."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.made: list[Tensor] = []
        self.lines: list[tuple[Any, tuple]] = []

    def __call__(self, op: Any, *args: Any) -> Any:
        self.lines.append((op, args))
        for arg in args:
            if isinstance(arg, Tensor) and not any(arg is known for known in self.inputs + self.made):
                self.inputs.append(arg)
        result = op(*args)
        self.made += [result] if isinstance(result, Tensor) else result
        return result

    def program(self, *returned: Tensor) -> str:
        values = self.inputs + self.made

        def number(tensor: Tensor) -> int:
            return next(place for place, value in enumerate(values) if value is tensor)

        steps = [step_text(op, args, number) for op, args in self.lines]
        return program_text(steps, [number(tensor) for tensor in returned])


def convolutions(levels: str = "coded") -> tuple[Recorded, list[Tensor]]:
    """Two convolutions that exchange bits, and a third one that packs a strided view of the floats."""
    at, run = Levels.random(levels, 2), Recorded()
    x, weights, (_, *layer) = conv_arguments("3x3", at, 2, 2)
    bits = run(k.pack_image.default, x, at.scale, at.shift, 2, levels, layer[-1], (1, 1), None, None, *NONE)
    outputs = weights.alpha.shape[1]
    tail = (None, None, 0.0, 6.0, None, None, *NONE, at.scale, at.shift, 2, levels, 1, (0, 1), True)
    y, planes = run(k.conv2d_emit.default, bits, *layer, *tail)
    channels_first = run(aten.permute.default, y, (0, 3, 1, 2))
    part = run(aten.slice.Tensor, channels_first, 2, 1, 2**63 - 1, 2)
    packed = run(k.pack_image.default, part, at.scale, at.shift, 2, levels, 1, (0, 0), None, None, *NONE)
    pooled = run(k.max_pool_bits.default, packed, levels, (2, 2), (1, 1), (0, 0), (0, 0), (1, 1))
    assert y.shape[-1] == outputs
    return run, [y, planes, pooled]


def rows() -> tuple[Recorded, list[Tensor]]:
    at, run = Levels.random("thermometer", 3), Recorded()
    x, _, (_, *layer) = linear_arguments(at, 1, 3)
    bits = run(k.pack_rows.default, x, at.scale, at.shift, 3, "thermometer", None, None, *NONE)
    y = run(k.linear.default, bits, *layer)
    tail = (y, None, *NONE, None, None, *NONE, None, None, 0, "coded", True)
    z, nothing = run(k.linear_emit.default, bits, *layer, *tail)
    return run, [z, y, nothing]


PROGRAMS = {"coded": convolutions, "thermometer": lambda: convolutions("thermometer"), "rows": rows}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_chain_is_its_steps(name: str) -> None:
    run, wanted = PROGRAMS[name]()
    program = run.program(*wanted)
    for op in (k.chain, chain):  # compiled, if there is a library; and the reference
        got = op(run.inputs, program)
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


def test_every_op_of_a_chain_is_tried_above() -> None:
    used = {op for make in PROGRAMS.values() for op, _ in make()[0].lines}
    assert used | {k.conv2d.default} == set(NAMES), "conv2d: tests/passes"


@pytest.mark.parametrize("bounds", [(0, 2**63 - 1, 2), (-3, -1, 1), (4, 2, 1), (-100, 3, 2), (2, 100, 3)])
def test_a_slice_is_that_of_aten(bounds: tuple[int, int, int]) -> None:
    x, run = torch.randn(3, 7, 5)[:, 1:].transpose(0, 1), Recorded()
    view = run(aten.slice.Tensor, x, -1, *bounds)
    order = run(aten.permute.default, view, (2, 0, -2))
    (got,) = k.chain([x], run.program(order))
    assert (got.shape, got.stride(), got.storage_offset()) == (order.shape, order.stride(), order.storage_offset())
    assert torch.equal(got, order)


@needs_kernels
@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("wander %0; return %1", "no op 'wander' can be part of a chain"),
        ("permute %0; return %1", "permute takes 2 arguments, got 1"),
        ("permute %3 0,1; return %1", "value %3 is read before it is made"),
        ("permute %0 0,1; return %2", "value %2 is returned but never made"),
        ("permute 0 0,1; return %1", "expected a value, got '0'"),
        ("permute - 0,1; return %1", "value %-1 is not there"),
        ("permute %0 0; return %1", "an order of 1 dimensions"),
        ("permute %0 0,5; return %1", "there is no dimension 5"),
        ("slice %0 4 0 1 1; return %1", "cannot slice dimension 4"),
        ("slice %0 zero 0 1 1; return %1", "'zero' is not a whole number"),
        ("pack_rows %0 %0 %0 1x coded - - 0 1; return %1", "'1x' is not a whole number"),
        ("pack_rows %0 %0 %0 1 coded - - low 1; return %1", "'low' is not a number"),
    ],
)
def test_what_is_no_program_is_refused(program: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        k.chain([torch.randn(3, 4)], program)


@needs_kernels
def test_an_error_of_a_kernel_passes_through() -> None:
    run, wanted = rows()
    program = run.program(*wanted)
    with pytest.raises(RuntimeError, match="abc_k::pack_rows: .*"):
        k.chain([run.inputs[0].double(), *run.inputs[1:]], program)
    k.chain(run.inputs, program)  # and leaves nothing behind


@needs_kernels
def test_threads_share_a_program() -> None:
    run, wanted = convolutions()
    program, wrong = run.program(*wanted), []

    def work() -> None:
        for _ in range(20):
            got = k.chain(run.inputs, program)
            if not all(map(torch.equal, got, wanted)):
                wrong.append(got)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
