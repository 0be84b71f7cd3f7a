"""abc_k::chain: several kernel ops, and views between them, as one op.

Between Python and a kernel a call costs some 25 µs (parsing and boxing of arguments, the dispatcher), as much as the
product of a small layer; the compiled op runs a whole chain from C++. What it runs is a text, so that a compiled graph
can be kept on disk:

    conv2d_emit %0 %1 %2 … coded 64 3,3 1,1 …;      a step: op and its arguments; %i are values, - is None
    return %9 %11                                   what the op returns, none of them a view

The inputs are the values %0, %1, …; the results of the steps take the next numbers, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from abcfx.ops import kernel_conv, kernel_emit, kernel_linear, kernel_pack, kernel_pool, library  # noqa: F401  define
from abcfx.ops.schema import ABC_K

abc_k = torch.ops.abc_k
VIEWS = {"permute": torch.ops.aten.permute.default, "slice": torch.ops.aten.slice.Tensor}
KERNELS = {
    name: getattr(abc_k, name).default
    for name in ("pack_rows", "pack_image", "max_pool_bits", "linear", "conv2d", "linear_emit", "conv2d_emit")
}
OPS: dict[str, OpOverload] = KERNELS | VIEWS
NAMES = {op: name for name, op in OPS.items()}

ABC_K.define("chain(Tensor[] inputs, str program) -> Tensor[]")


def step_text(op: OpOverload, args: Sequence[Any], number: Callable[[Any], int]) -> str:
    """The text of a step; `number` gives that of a value. All arguments of the op's schema must be in `args`."""
    words = [_word(kind, arg, number) for kind, arg in zip(_kinds(op), args, strict=True)]
    return " ".join([NAMES[op], *words])


def _kinds(op: OpOverload) -> list[str]:
    return [str(argument.type) for argument in op._schema.arguments]


def _word(kind: str, arg: Any, number: Callable[[Any], int]) -> str:
    if arg is None:
        return "-"
    if "Tensor" in kind:
        return f"%{number(arg)}"
    if "List" in kind:
        return ",".join(map(str, arg)) or "-"
    if kind == "float":
        return repr(float(arg))
    return str(int(arg)) if kind == "bool" else str(arg)


def _argument(kind: str, word: str, values: Sequence[Tensor]) -> Any:
    if "List" in kind:
        return [] if word == "-" else [int(part) for part in word.split(",")]
    if word == "-":
        return None
    if "Tensor" in kind:
        return values[int(word[1:])]
    if kind == "float":
        return float(word)
    if kind == "bool":
        return word == "1"
    return word if kind == "str" else int(word)


def program_text(steps: Sequence[str], returned: Sequence[int]) -> str:
    return "; ".join([*steps, " ".join(["return", *(f"%{place}" for place in returned)])])


def chain(inputs: Sequence[Tensor], program: str) -> list[Tensor]:
    """Run the steps one after the other; the reference of the compiled op, and its fake."""
    values = list(inputs)
    *steps, (_, *returned) = (step.split() for step in program.split("; "))
    for name, *words in steps:
        op = OPS[name]
        result = op(*(_argument(kind, word, values) for kind, word in zip(_kinds(op), words, strict=True)))
        values += [result] if isinstance(result, Tensor) else result
    return [values[int(word[1:])] for word in returned]


library.register_reference(ABC_K, "chain", chain)
torch.library.register_fake("abc_k::chain", chain, lib=ABC_K)
