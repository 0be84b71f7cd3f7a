"""Every CUDA source compiles for every architecture, and what ptxas made of it. Nothing runs: no GPU is needed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from build_kernels import CSRC, run, table, tool

ARCHITECTURES = ("75", "80", "86", "89", "90", "90a", "100")
SOURCES = ("bgemm/bgemm.cu", "pack/pack.cu", "pack/weights.cu")
# a product has 128 threads and two blocks a multiprocessor: 255 registers, all that an instruction can name
BOUNDS = {"bgemm_kernel": 255, "row_sums_kernel": 64, "pack_kernel": 128, "weights_kernel": 64}
TILES = 5  # instances of the product


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], str]:
    """One object file a source, for all architectures, and the reports of ptxas."""
    nvcc, folder = tool("nvcc"), tmp_path_factory.mktemp("cuda")
    codes = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in ARCHITECTURES]
    objects, reports = {}, ""
    for name in SOURCES:
        objects[name] = folder / f"{Path(name).stem}.o"
        flags = ["-std=c++20", "-O3", "-Xptxas", "-v", f"-I{table().INCLUDE}", *codes]
        reports += run([nvcc, *flags, "-c", str(CSRC / "cuda" / name), "-o", str(objects[name])]).stderr
    return objects, reports


def test_the_sources_are_all_here() -> None:
    found = {p.relative_to(CSRC / "cuda").as_posix() for p in (CSRC / "cuda").rglob("*.cu") if "hopper" not in p.parts}
    assert found == set(SOURCES)


def test_no_spills_and_few_registers(compiled: tuple) -> None:
    entry = re.compile(
        r"Compiling entry function '(\w+)' for '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers",
        re.DOTALL,
    )
    seen = entry.findall(compiled[1])
    assert {sm for _, sm, *_ in seen} == {f"sm_{sm}" for sm in ARCHITECTURES}
    assert len(seen) == len(ARCHITECTURES) * (TILES + 1 + 6 + 1)
    for name, sm, *memory, registers in seen:
        bound = next(bound for part, bound in BOUNDS.items() if part in name)
        assert memory == ["0", "0", "0"], (name, sm)
        assert int(registers) <= bound, (name, sm, registers)


def machine_code(compiled: tuple, sm: str) -> dict[str, str]:
    """Kernel → its instructions."""
    text = run([tool("cuobjdump"), "-sass", "-arch", f"sm_{sm}", str(compiled[0]["bgemm/bgemm.cu"])]).stdout
    parts = re.split(r"Function : (\w+)", text)[1:]
    return {name: code for name, code in zip(parts[::2], parts[1::2], strict=True) if "bgemm_kernel" in name}


@pytest.mark.parametrize(
    ("sm", "instruction"),
    [("75", "BMMA.88128.XOR.POPC"), ("80", "BMMA.168256.AND.POPC"), ("89", "BMMA.168256.AND.POPC"),
     ("90", "BMMA.168256.AND.POPC")],
)  # fmt: skip
def test_native_bit_instructions_and_no_subroutine(compiled: tuple, sm: str, instruction: str) -> None:
    kernels = machine_code(compiled, sm)
    assert len(kernels) == TILES
    for name, code in kernels.items():
        assert instruction in code, name
        assert not re.search(r"\bRET\.(REL|ABS)|IMMA|LDL|STL", code), name
        # ptxas leaves some loops by a CALL.REL.NOINC to the second next instruction: a jump, nothing returns from it
        for at, to in re.findall(r"/\*(\w+)\*/[^/;]*\bCALL\.[\w.]* 0x(\w+)", code):
            assert int(to, 16) == int(at, 16) + 32, (name, at, to)


def test_without_bit_units_there_is_no_kernel_body(compiled: tuple) -> None:
    for name, code in machine_code(compiled, "100").items():
        assert not re.search(r"MMA|CALL|LDSM", code), name
