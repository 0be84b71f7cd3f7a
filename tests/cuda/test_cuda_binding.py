"""The torch binding of the CUDA kernels without a GPU: it compiles as it will be built, and gives exact integers.

The others build it for CPU tensors, on the emulated kernels (emulated/cuda_device.h): everything but the stream
and the device guard is the code that runs on a GPU.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from build_kernels import CSRC, compiler, run, table
from torch.utils.cpp_extension import include_paths, library_paths

HERE = Path(__file__).parent
SOURCES = sorted((CSRC / "binding").glob("cuda_*.cpp"))
TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"


def includes(device: Path) -> list[str]:
    own = [f"-I{device}", f"-I{table().INCLUDE}", f"-I{CSRC / 'cuda'}", f"-I{HERE / 'emulated'}"]
    return [*own, *(f"-isystem{path}" for path in include_paths())]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_it_compiles_for_cuda(source: Path) -> None:
    flags = [*table().STANDARD, "-Wall", "-Wextra", "-Werror", "-DUSE_CUDA", TARGET]
    run([compiler(), "-fsyntax-only", *flags, *includes(CSRC / "binding" / "cuda"), str(source)])


def test_the_build_takes_every_file() -> None:
    names = [path.name for path in table().cuda_sources()]
    assert {path.name for path in SOURCES} < set(names)
    assert {path.name for path in (CSRC / "cuda").rglob("*.cu")} < set(names)
    assert not [path for path in table().binding_sources() if path.name.startswith("cuda_")]
    assert "-gencode=arch=compute_90a,code=sm_90a" in table().nvcc_flags("launch.cu")
    assert not [flag for flag in table().nvcc_flags("launch.cu") if flag.endswith("sm_90")], "a trap beside the kernel"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The binding for CPU tensors, on the emulated kernels."""
    cxx, folder = compiler(), tmp_path_factory.mktemp("binding")
    flags = [*table().STANDARD, "-O1", "-fPIC", "-Wno-unknown-pragmas", TARGET, *includes(HERE / "emulated")]
    sources = [*SOURCES, HERE / "emulated" / "cuda.cpp", HERE / "emulated" / "no_hopper.cpp",
               CSRC / "cpu" / "padding" / "padding.cpp"]  # fmt: skip
    objects = [str(folder / f"{path.stem}.o") for path in sources]
    for source, target in zip(sources, objects, strict=True):
        run([cxx, *flags, "-c", str(source), "-o", target])
    made = folder / "ops.so"
    folders = [flag for path in library_paths() for flag in (f"-L{path}", f"-Wl,-rpath,{path}")]
    run([cxx, "-shared", "-Wl,-Bsymbolic", *objects, *folders, "-lc10", "-ltorch", "-ltorch_cpu", "-o", str(made)])
    return made


def output_of(program: str, library: Path) -> str:
    """A process of its own: loading the library replaces the CPU kernels of the ops."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / program), str(library)],
        capture_output=True, text=True, check=False, cwd=CSRC.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_products_on_emulated_kernels_give_exact_integers(library: Path) -> None:
    said = output_of("emulated_ops.py", library)
    assert said.count("conv2d") == 10
    assert said.count("linear") == 6
    assert "refusals" in said


def test_training_on_emulated_kernels_is_that_of_the_cpu(library: Path) -> None:
    said = output_of("emulated_backward.py", library)
    for part in ("round_gradient", "pack_positions", "windows", "unpack and pool", "refusals", "training step"):
        assert part in said
    assert said.count("backward products") == 5
