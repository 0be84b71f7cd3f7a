"""What the parts of `bench` share: options, their checks, and the frame around a run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console, RenderableType

from abcfx.bench.results import Report, command_line
from abcfx.bench.rivals import KINDS
from abcfx.bench.session import Job, finish, run_jobs
from abcfx.bench.workloads import SPEED_BASES, Spec, methods
from abcfx.cli.front import UsageError, positive, usage_errors
from abcfx.ops import library
from abcfx.plan import LayerPlan

DEFAULT_BASES = ("1,1", "2,2", "3,3")


class Part(NamedTuple):
    name: str
    help: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def add_common(parser: argparse.ArgumentParser, seconds: float) -> None:
    parser.add_argument("--threads", type=positive, help="threads of PyTorch (as it has them)")
    parser.add_argument("--seconds", type=float, help=f"to race each workload for ({seconds:g})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--quick", action="store_true", help="a look in under two minutes: fewer workloads, less time")
    parser.set_defaults(usual_seconds=seconds)


def add_bases(parser: argparse.ArgumentParser) -> None:
    shown = " ".join(DEFAULT_BASES)
    parser.add_argument("--bases", nargs="+", default=DEFAULT_BASES, metavar="M,N", help=f"pairs ({shown})")


def add_method(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--method", default="best", metavar="NAME",
        help=f"kernel method: {', '.join(methods())}, or best for the fastest of them (best)",
    )  # fmt: skip


def add_basis(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--basis", choices=SPEED_BASES, default=SPEED_BASES[0],
        help="of the weights; of all kinds only coded ones have a speed of their own (%(default)s)",
    )


def add_rivals(parser: argparse.ArgumentParser, default: Sequence[str], known: Mapping[str, str] = KINDS) -> None:
    parser.add_argument(
        "--rivals", nargs="+", choices=tuple(known), default=list(default), metavar="KIND",
        help="; ".join(f"{kind}: {what}" for kind, what in known.items()) + f" ({' '.join(default)})",
    )  # fmt: skip


def add_only(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", action="append", default=[], metavar="GLOB", help="measure only the shapes with such a name"
    )


def set_up(arguments: argparse.Namespace) -> None:
    """Threads and --seconds checked and set; without the compiled kernels there is nothing to measure."""
    if not library.loaded():
        raise UsageError(f"there is nothing to measure: {library.problem()}")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.seconds is None:
        arguments.seconds = arguments.usual_seconds * (0.3 if arguments.quick else 1)
    if not 0 < arguments.seconds <= 600:
        raise UsageError(f"--seconds must be above 0 and at most 600, got {arguments.seconds:g}")
    if arguments.json is not None:
        require_writable(arguments.json, "--json")


def require_writable(path: Path, option: str) -> None:
    """Now, and not after minutes of measuring."""
    folder = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder; give the name of a file")
    if (folder != path.absolute() and not folder.is_dir()) or not os.access(folder, os.W_OK):
        raise UsageError(f"{option} {path} cannot be written")


def bases_of(arguments: argparse.Namespace) -> list[tuple[int, int]]:
    pairs = []
    for text in arguments.bases:
        values = text.split(",")
        if len(values) != 2 or not all(value.strip().isdigit() for value in values):
            raise UsageError(f"--bases {text}: give pairs M,N such as 2,2")
        with usage_errors(f"--bases {text}: "):
            LayerPlan(int(values[0]), int(values[1]))
        pairs.append((int(values[0]), int(values[1])))
    return list(dict.fromkeys(pairs))


def methods_of(arguments: argparse.Namespace) -> list[str]:
    if arguments.method == "best":
        return methods()
    if arguments.method not in methods():
        raise UsageError(f"--method {arguments.method}: the methods are {', '.join(methods())}, or best")
    return [arguments.method]


def specs_for(arguments: argparse.Namespace, layouts: Sequence[str]) -> list[list[Spec]]:
    """For each layout and pair the specs that differ in their method only."""
    pairs, chosen = bases_of(arguments), methods_of(arguments)
    return [
        [Spec(*pair, method, layout, arguments.basis) for method in chosen] for layout in layouts for pair in pairs
    ]


def new_report(arguments: argparse.Namespace) -> Report:
    options = {name: value for name, value in vars(arguments).items() if name not in ("run_part", "usual_seconds")}
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    return Report(command_line(), settings)


def run_report(
    arguments: argparse.Namespace, jobs: Sequence[tuple[str, Job]], show: Callable[[Any], RenderableType]
) -> int:
    """Measure, print each result as it comes, and write --json, also after Ctrl-C."""
    report, console = new_report(arguments), Console()

    def keep() -> None:
        if arguments.json is not None:
            report.save(arguments.json)

    code = run_jobs(report, jobs, lambda measurement: console.print(show(measurement)), keep)
    finish(report, console, [arguments.json] if arguments.json is not None else [])
    return code
