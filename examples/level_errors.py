"""Relative squared errors ‖x - x̂‖²/‖x‖² of weight bases and activation levels on known distributions (docs/levels.md).

python examples/level_errors.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from abcfx.plan import BASES, LEVELS
from abcfx.quant import activations
from abcfx.quant.weights import dequantize_bases, fit_bases, relative_error

DISTRIBUTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu(N(0,1))": torch.relu,
    "N(0,1)": lambda x: x,
    "gelu(N(0,2²))": lambda x: F.gelu(2 * x),
}


def weight_error(w: Tensor, count: int, basis: str) -> float:
    return float(relative_error(w, dequantize_bases(*fit_bases(w, count, basis))))


def activation_error(x: Tensor, count: int, levels: str) -> float:
    fitted = activations.fit(x, count, levels)
    return float(relative_error(x, activations.quantize(x, *fitted, count, levels)))


def print_table(console: Console, title: str, rows: dict[str, list[float]]) -> None:
    table = Table(title=title)
    table.add_column("")
    for count in range(1, 9):
        table.add_column(str(count), justify="right")
    for name, errors in rows.items():
        table.add_row(name, *(f"{error:.3g}" if error >= 1e-3 else f"{error:.1e}" for error in errors))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    console, counts = Console(width=110), range(1, 9)
    torch.manual_seed(args.seed)
    w = torch.randn(512, 4608)
    rows = {basis: [weight_error(w, count, basis) for count in counts] for basis in BASES}
    print_table(console, "weights, N(0,1), 512 channels of 4608, α per channel: error by M", rows)
    x = torch.randn(1_000_000)
    rows = {}
    for name, transform in DISTRIBUTIONS.items():
        for levels in LEVELS:
            rows[f"{levels}, {name}"] = [activation_error(transform(x), count, levels) for count in counts]
    print_table(console, "activations, a million samples: error by N", rows)


if __name__ == "__main__":
    main()
