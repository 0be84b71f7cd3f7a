"""Every CUDA source compiles for every architecture, and what ptxas made of it. Nothing runs: no GPU is needed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from build_kernels import CSRC, run, table, tool

# one compilation makes the PTX of compute_80, which three architectures are assembled from
CODES = {"75": ["75"], "80": ["80", "86", "89"], "90": ["90"], "100": ["100"]}
ARCHITECTURES = [sm for group in CODES.values() for sm in group]
# source → kernels in it
SOURCES = {
    "adjoint/adjoint.cu": 2, "adjoint/window.cu": 3, "bgemm/bgemm.cu": 10, "pack/pack.cu": 6, "pack/weights.cu": 1,
    "pool/pool.cu": 1, "positions/positions.cu": 1, "prepare/prepare.cu": 4, "round/round.cu": 3, "unpack/unpack.cu": 1,
}  # fmt: skip
# a product has 128 threads and two blocks a multiprocessor: 255 registers, all that an instruction can name; four
# blocks of 256 threads a multiprocessor leave 64
BOUNDS = {"bgemm_kernel": 255, "gemv_kernel": 128, "row_sums_kernel": 64, "unpack_kernel": 64, "pack_kernel": 80,
          "pool_kernel": 80, "weights_kernel": 64,
          "round_kernel": 64, "positions_kernel": 64, "window_kernel": 64, "adjoint_kernel": 64,
          "adjoint_finish_kernel": 64, "prepare_kernel": 64, "count_kernel": 64}  # fmt: skip
TILES = 5  # instances of the product


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], str]:
    """One object file a source, for all architectures, and the reports of ptxas."""
    nvcc, folder = tool("nvcc"), tmp_path_factory.mktemp("cuda")
    codes = [
        f"-gencode=arch=compute_{virtual},code=[{','.join(f'sm_{sm}' for sm in real)}]"
        for virtual, real in CODES.items()
    ]
    objects = {name: folder / f"{Path(name).stem}.o" for name in SOURCES}

    def build(name: str) -> str:
        flags = ["-std=c++20", "-O3", "-Xptxas", "-v", f"-I{table().INCLUDE}", *codes]
        return run([nvcc, *flags, "-c", str(CSRC / "cuda" / name), "-o", str(objects[name])]).stderr

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return objects, "".join(pool.map(build, SOURCES))


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
    assert len(seen) == len(ARCHITECTURES) * sum(SOURCES.values())
    for name, sm, *memory, registers in seen:
        bound = next(bound for part, bound in BOUNDS.items() if part in name)
        assert memory == ["0", "0", "0"], (name, sm)
        assert int(registers) <= bound, (name, sm, registers)


def machine_code(compiled: tuple, source: str, sm: str) -> dict[str, str]:
    """Kernel → its instructions."""
    text = run([tool("cuobjdump"), "-sass", "-arch", f"sm_{sm}", str(compiled[0][source])]).stdout
    parts = re.split(r"Function : (\w+)", text)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def kernels_of(codes: dict[str, str], part: str) -> Iterator[tuple[str, str]]:
    return ((name, code) for name, code in codes.items() if part in name)


def assert_no_subroutine(name: str, code: str) -> None:
    assert not re.search(r"\bRET\.(REL|ABS)|LDL|STL", code), name
    # ptxas leaves some loops by a CALL.REL.NOINC to the second next instruction: a jump, nothing returns from it
    for at, to in re.findall(r"/\*(\w+)\*/[^/;]*\bCALL\.[\w.]* 0x(\w+)", code):
        assert int(to, 16) == int(at, 16) + 32, (name, at, to)


@pytest.mark.parametrize(
    ("sm", "instruction"),
    [("75", "BMMA.88128.XOR.POPC"), ("80", "BMMA.168256.AND.POPC"), ("89", "BMMA.168256.AND.POPC"),
     ("90", "BMMA.168256.AND.POPC")],
)  # fmt: skip
def test_native_bit_instructions_and_no_subroutine(compiled: tuple, sm: str, instruction: str) -> None:
    codes = machine_code(compiled, "bgemm/bgemm.cu", sm)
    kernels = list(kernels_of(codes, "bgemm_kernel"))
    assert len(kernels) == TILES
    for name, code in kernels:
        assert instruction in code, name
        assert "IMMA" not in code, name
        assert_no_subroutine(name, code)
        assert re.search(r"\bRED\S*\.OR", code), f"{name} does not emit bits by one instruction"
    rows = list(kernels_of(codes, "gemv_kernel"))
    assert len(rows) == 4
    for name, code in rows:
        assert re.search(r"LDG\.E\.128\S*", code), f"{name} does not read 16 bytes at a time"
        assert "POPC" in code, name
        assert "SHFL" in code, name
        assert not re.search(r"\b[BHI]MMA\b", code), name  # HFMA2.MMA is no tensor core: it loads constants
        assert_no_subroutine(name, code)


def test_without_bit_units_there_is_no_kernel_body(compiled: tuple) -> None:
    codes = machine_code(compiled, "bgemm/bgemm.cu", "100")
    for name, code in kernels_of(codes, "bgemm_kernel"):
        assert not re.search(r"MMA|CALL|LDSM", code), name
    for name, code in kernels_of(codes, "gemv_kernel"):
        assert "POPC" in code, f"{name} has no bit counts, but runs there"


@pytest.mark.parametrize(
    ("source", "part", "pattern"),
    [
        ("pack/pack.cu", "pack_kernel_channels", r"LDG\.E\.128"), ("adjoint/window.cu", "window", r"LDG\.E\.128"),
        ("positions/positions.cu", "positions", r"VOTE"),
    ],
)  # fmt: skip
def test_packs_read_wide_and_votes_are_instructions(compiled: tuple, source: str, part: str, pattern: str) -> None:
    found = list(kernels_of(machine_code(compiled, source, "90"), part))
    assert found
    for name, code in found:
        assert re.search(pattern, code), name


@pytest.mark.parametrize("source", ["adjoint/adjoint.cu", "round/round.cu"])
def test_nothing_is_a_subroutine(compiled: tuple, source: str) -> None:
    """A division of 64 bits, or one in IEEE rounding, would be."""
    for name, code in machine_code(compiled, source, "80").items():
        assert_no_subroutine(name, code)
