"""The sm_90a kernel without a GPU: its layouts emulated on the host, and the machine code that ptxas made of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCE = ROOT / "csrc" / "cuda" / "hopper"
INCLUDE = f"-I{ROOT / 'csrc' / 'include'}"
KERNELS = 12  # four shapes, three output types
REGISTERS = 168  # 65536 / 384 threads: setmaxnreg moves them between warpgroups after entry


def run(*command: str, seconds: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_layouts_and_tiles_give_the_integers_of_a_plain_loop(tmp_path: Path) -> None:
    program = tmp_path / "emulation"
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", INCLUDE]
    built = run("g++", *flags, str(SOURCE / "emulation.cpp"), "-o", str(program), seconds=120)
    assert built.returncode == 0, built.stderr
    result = run(str(program), seconds=60)
    assert (result.returncode, result.stdout) == (0, "ok\n"), result.stdout


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The object file of sm_90a and what ptxas said."""
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    target = tmp_path_factory.mktemp("hopper") / "hopper.o"
    flags = ["-std=c++17", "-gencode=arch=compute_90a,code=sm_90a", "-Xptxas", "-v", INCLUDE]
    built = run("nvcc", *flags, "-c", str(SOURCE / "launch.cu"), "-o", str(target), seconds=300)
    assert built.returncode == 0, built.stderr
    return target, built.stderr + built.stdout


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_other_targets_compile(tmp_path: Path) -> None:
    flags = ["-std=c++17", "-gencode=arch=compute_75,code=sm_75", INCLUDE]
    built = run("nvcc", *flags, "-c", str(SOURCE / "launch.cu"), "-o", str(tmp_path / "other.o"), seconds=300)
    assert built.returncode == 0, built.stderr


def test_ptxas_neither_spills_nor_serializes(compiled: tuple[Path, str]) -> None:
    report = compiled[1]
    assert "Potential Performance Loss" not in report
    assert "serialized" not in report
    assert "C7508" not in report, "setmaxnreg was ignored"
    assert set(re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)", report)) == {("0", "0", "0")}
    used = [int(n) for n in re.findall(r"Used (\d+) registers", report)]
    assert len(used) == KERNELS
    assert max(used) <= REGISTERS


def test_machine_code_multiplies_on_the_bit_units(compiled: tuple[Path, str]) -> None:
    if shutil.which("cuobjdump") is None or shutil.which("nvdisasm") is None:
        pytest.skip("needs cuobjdump and nvdisasm")
    dump = run("cuobjdump", "-sass", str(compiled[0]), seconds=120).stdout
    functions = dump.split("Function : ")[1:]
    assert len(functions) == KERNELS
    for body in functions:
        name = body.split()[0]
        bits = re.findall(r"\bBGMMA\.\S+", body)
        assert bits, f"{name} has no BGMMA"
        assert all(".AND.POPC" in op for op in bits), f"{name}: {set(bits)}"
        assert not re.search(r"\b(?:CALL|LDL|STL)\b", body), f"{name} calls a function or uses local memory"
        assert "UTMALDG.5D" in body, f"{name} does not load by TMA"
        # one wait with a group in flight and one at the end of a tile: more would serialize the tensor core
        assert len(re.findall(r"WARPGROUP\.DEPBAR", body)) <= 2, name
