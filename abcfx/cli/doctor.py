"""`python -m abcfx doctor`: what runs here, and what to do about each problem."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

import abcfx
from abcfx.cli import machine
from abcfx.ops import library, library_cuda
from abcfx.ops.choose import forcing
from abcfx.ops.weight_cache import WeightRecipe, dequantized
from abcfx.quant import activations

HELP = "Say what abcfx runs on here: torch, compiled kernels, threads, compilers, CUDA; and what to do about problems."
EXAMPLE = "python -m abcfx doctor --json"
MARKS = {"good": ("✓", "green"), "note": ("·", "cyan"), "problem": ("✗", "bold red")}


@dataclass(frozen=True)
class Finding:
    """state: "good", "note" (nothing to do, or only if it is wanted) or "problem"; advice: what to do."""

    item: str
    value: str
    state: str = "good"
    advice: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """0 if all is well, 1 if there is a problem."""
    findings = examine()
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        show(findings, Console())
    return int(any(finding.state == "problem" for finding in findings))


def examine() -> list[Finding]:
    checks = (
        _torch, _package, _library, *(_kernels_check(op) for op in library.LISTS), _self_test, _threads, _compiler,
        _cuda, _entry_point, _environment,
    )  # fmt: skip
    return [finding for check in checks if (finding := check()) is not None]


def show(findings: list[Finding], console: Console) -> None:
    table = Table.grid(padding=(0, 1))
    table.add_column()
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = MARKS[finding.state]
        text = Text(finding.value)
        if finding.advice:
            text.append(f"\n→ {finding.advice}", style="yellow" if finding.state == "problem" else "dim")
        table.add_row(Text(mark, style=style), finding.item, text)
    console.print(table)
    problems = sum(finding.state == "problem" for finding in findings)
    verdict = Text("all is well", "green") if not problems else Text(f"{problems} to mend, see →", "bold red")
    console.print(verdict)


def _torch() -> Finding:
    text = f"{torch.__version__} on Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if release < (2, 10):
        return Finding("torch", text, "problem", "abcfx needs torch 2.10 or newer: pip install 'torch>=2.10'")
    return Finding("torch", text)


def _package() -> Finding:
    where = Path(abcfx.__file__).parent
    value = f"{abcfx.__version__} in {where}"
    try:
        installed = metadata.version("abcfx")
    except metadata.PackageNotFoundError:
        return Finding("abcfx", f"{value}, not installed", "problem", "pip install . in the repository")
    if installed != abcfx.__version__:
        return Finding("abcfx", f"{value}, but {installed} is installed", "problem", "pip install . once more")
    return Finding("abcfx", value)


def _library() -> Finding:
    found, problem = library.path(), library.problem()
    if problem and found is None:
        advice = "install a C++ compiler, then pip install --force-reinstall --no-deps . and read its warnings"
        return Finding("library", f"{problem}; everything runs on plain torch, slowly", "problem", advice)
    if problem:
        advice = f"unset {library.FORCE} or give it a variant that runs"
        return Finding("library", f"{found}; {problem}", "problem", advice)
    return Finding("library", str(found))


def _kernels_check(op: str) -> Callable[[], Finding]:
    def check() -> Finding:
        chosen = library.kernel_variant(op)
        if not library.loaded():
            return Finding(f"{op} kernel", f"{chosen} (pure torch)", "note")
        others = [f"{name}{f' (CPU lacks {lacks})' if lacks else ''}" for name, lacks in library.variants(op).items()]
        others = [text for text in others if text.split(" ")[0] != chosen]
        return Finding(f"{op} kernel", f"{chosen}; also built: {', '.join(others) or 'none'}")

    return check


def _self_test() -> Finding:
    """One quantized linear layer against the float product of its dequantized operands."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(5, 200, generator=generator), torch.randn(24, 200, generator=generator)
    scale, shift = activations.fit(x.flatten(), 2, "coded")
    with torch.inference_mode(), forcing("xnor"):
        y = torch.ops.abc.linear(x, weight, None, scale, shift, 2, 2, "alternating", "coded", True)
        quantized = dequantized(weight, WeightRecipe(2, "alternating", True))
        exact = activations.quantize(x, scale, shift, 2, "coded") @ quantized.T
    error = float((y - exact).abs().max() / exact.abs().max())
    text = f"a 2×2 layer equals its dequantized form to {error:.0e}"
    if not error < 1e-5:
        advice = "results are wrong here: reinstall; if that does not help, report it with this output"
        return Finding("self test", text, "problem", advice)
    return Finding("self test", text)


def _threads() -> Finding:
    text = f"{machine.threads()}, {machine.usable_cores()} cores usable"
    if torch.get_num_threads() > machine.usable_cores():
        advice = f"more threads than cores slow each other down: OMP_NUM_THREADS={machine.usable_cores()}"
        return Finding("threads", text, "problem", advice)
    return Finding("threads", text)


def _compiler() -> Finding:
    compiler = machine.cpp_compiler()
    if compiler is None:
        advice = "torch.compile on a CPU needs one: install g++ or clang++, or set CXX"
        return Finding("C++ compiler", "none found", "problem", advice)
    return Finding("C++ compiler", machine.version_line(compiler) or compiler)


def _cuda() -> Finding:
    nvcc = shutil.which("nvcc")
    built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is a CPU build"
    if torch.cuda.is_available():
        value = f"{torch.cuda.get_device_name()}, {built}; "
        if reason := library_cuda.refusal(library_cuda.variant()):
            return Finding("CUDA", f"{value}layers there run in dense form: {reason}", "note")
        return Finding("CUDA", f"{value}kernels for {library_cuda.variant()} in {library_cuda.path()}", "good")
    return Finding("CUDA", f"no device, {built}" + (f", nvcc at {nvcc}" if nvcc else ""), "note")


def _entry_point() -> Finding:
    entries = {entry.name: entry for entry in metadata.entry_points(group="torch_dynamo_backends")}
    if "abc" not in entries:
        advice = "pip install . once more: torch.compile(backend='abc') is found through it"
        return Finding("backend", "no entry point 'abc' in torch_dynamo_backends", "problem", advice)
    return Finding("backend", f"torch.compile(backend='abc') finds {entries['abc'].value}")


def _environment() -> Finding | None:
    set_here = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("ABCFX_")]
    return Finding("environment", " ".join(set_here), "note") if set_here else None
