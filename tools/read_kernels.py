"""Reads the machine code of the x86 GEMM kernels: what each tile's innermost loop is made of, and whether it spills.

    python tools/read_kernels.py            a markdown table of every hot loop
    python tools/read_kernels.py --asm 'carry_save_tile<1>' | llvm-mca -mcpu=sapphirerapids
                                            a pipeline simulator's opinion of the loops of one function

Compiles the sources with the flags of setup.py (a compiler for x86-64 and objdump are needed, an AVX-512 CPU is not).
A hot loop is an innermost loop that counts bits: it holds vpopcntq, or the vpshufb of the AVX2 table. The accumulators
of a tile live in registers, so its hot loop stores nothing: any store there is a spill.
"""

from __future__ import annotations

import argparse
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [ROOT / "csrc/cpu/bgemm" / name for name in ("x86_avx512vpopcnt.cpp", "x86_avx2.cpp")]
KINDS = {
    "popcount": r"vpopcnt|vpshufb",
    "xor": r"vpxor",
    "ternary": r"vpternlog",
    "add": r"vpadd|vpsadbw",
    "and, shift": r"vpand|vpsrl",
    "copy": r"vmovdqa?\d* \wmm\d+,\wmm\d+$",
}
COLUMNS = ("code", *KINDS, "load", "reload", "store")


@dataclass(frozen=True)
class Loop:
    function: str
    body: tuple[str, ...]  # instructions in Intel syntax

    def counts(self) -> Counter[str]:
        """Instructions by kind. An operation that reads memory counts as itself and as a load."""
        found: Counter[str] = Counter(code=len(self.body))
        for line in self.body:
            kind = next((kind for kind, pattern in KINDS.items() if re.match(pattern, line)), None)
            found[kind or "other"] += 1
            target, *sources = line.partition(" ")[2].split(",") or [""]
            writes = not line.startswith(("cmp", "test", "lea", "nop", "j"))
            found["store"] += writes and "[" in target
            found["load"] += any(re.search(r"(?:PTR|BCST) \[", source) is not None for source in sources)
            found["reload"] += any(re.search(r"\[r[sb]p[+-]", source) for source in sources)
        return found


def flags(source: Path) -> list[str]:
    """The flags that setup.py compiles this file with."""
    with mock.patch("setuptools.setup"), mock.patch.object(sys, "argv", ["setup.py"]):
        setup = runpy.run_path(str(ROOT / "setup.py"))
    return [*setup["COMMON"], "-fPIC", f"-I{setup['INCLUDE']}", *setup["FLAGS"][source.name]]


def disassemble(source: Path, compiler: str, syntax: str) -> str:
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "kernel.o"
        subprocess.run([compiler, *flags(source), "-c", str(source), "-o", str(target)], check=True)
        command = ["objdump", "-d", "-C", "-M", syntax, "--no-show-raw-insn", str(target)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def functions(text: str) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """(name, [(address, instruction)]) of every function of an objdump listing."""
    for part in re.split(r"\n(?=[0-9a-f]{8,} <)", text)[1:]:
        head, *lines = part.splitlines()
        pairs = [line.split("\t", 1) for line in lines if "\t" in line]
        code = [(int(address.strip(" :"), 16), re.sub(r"\s+", " ", rest).strip()) for address, rest in pairs]
        name = head[head.index("<") + 1 : head.rindex(">")]
        yield name.replace("(anonymous namespace)::", "").removeprefix("void ").split("(")[0], code


def hot_loops(text: str) -> Iterator[Loop]:
    for name, code in functions(text):
        start = code[0][0]
        jumps = [(address, re.match(r"j\w+ ([0-9a-f]+) <", line)) for address, line in code]
        backward = [
            (int(match[1], 16), address) for address, match in jumps if match and start <= int(match[1], 16) <= address
        ]
        for first, last in backward:
            if any((a, b) != (first, last) and first <= a and b <= last for a, b in backward):
                continue
            body = tuple(line for address, line in code if first <= address <= last)
            if any(re.match(KINDS["popcount"], line) for line in body):
                yield Loop(name, body)


def loops_of(source: Path, syntax: str = "intel") -> list[Loop]:
    """The hot loops of a source. Their counts need the Intel syntax; "att" is what other tools read."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None or shutil.which("objdump") is None:
        raise RuntimeError("reading the kernels needs g++ (or c++) and objdump; install a compiler and binutils")
    return list(hot_loops(disassemble(source, compiler, syntax)))


def print_assembly(function: str) -> None:
    for source in SOURCES:
        for loop in loops_of(source, "att"):
            if loop.function == function:
                print("loop:", *loop.body[:-1], "jne loop", sep="\n")


def print_table() -> None:
    print("| hot loop | " + " | ".join(COLUMNS) + " |\n|---" + "|---:" * len(COLUMNS) + "|")
    for source in SOURCES:
        for loop in loops_of(source):
            counts = loop.counts()
            print(f"| {loop.function} | " + " | ".join(str(counts[column]) for column in COLUMNS) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asm", metavar="FUNCTION", help="print the hot loops of this function, in AT&T syntax")
    function = parser.parse_args().asm
    print_assembly(function) if function else print_table()


if __name__ == "__main__":
    main()
