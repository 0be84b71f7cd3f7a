"""Builds the kernels: one shared library through the LibTorch stable ABI, no Python.h, so one wheel for any Python 3.

Every file of csrc/cpu that needs instructions of its own is compiled with that file's flags only, those of
csrc/build_table.py; which of them runs is decided on the user's machine. If the library cannot be built, the package is
installed without it, says so, and runs on its pure-torch reference: `python -m abcfx doctor` repeats the reason.

The CUDA kernels are a second library, built where torch has CUDA and nvcc is there. ABCFX_CUDA=0 leaves it out;
ABCFX_CUDA=1 builds it also beside a torch without CUDA, to be taken to a machine that has one.
"""

from __future__ import annotations

import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.errors import CompileError, ExecError, LinkError, PlatformError

try:
    import torch
    from torch.utils import cpp_extension
    from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths
except ImportError:
    BuildExtension = None

ROOT = Path(__file__).resolve().parent
TABLE = SimpleNamespace(**runpy.run_path(str(ROOT / "csrc" / "build_table.py")))
INCLUDE = str(TABLE.INCLUDE)  # absolute: ninja compiles from another directory
COMMON, FLAGS = TABLE.COMMON, TABLE.FLAGS
LIBRARY = "abcfx._kernels"
CUDA_LIBRARY = "abcfx._kernels_cuda"
TORCH_TARGET = "0x020a000000000000"  # the oldest LibTorch that the library loads into: 2.10
BUILD_ERRORS = (CompileError, LinkError, ExecError, PlatformError, RuntimeError, OSError, subprocess.SubprocessError)


def sources() -> list[str]:
    paths = [*TABLE.kernel_sources(platform.machine()), *TABLE.binding_sources()]
    return [path.relative_to(ROOT).as_posix() for path in paths]


def extensions() -> list[Extension]:
    """The torch libraries are named one by one: CppExtension would add torch_python, and with it one Python version."""
    if BuildExtension is None:
        return []
    extension = Extension(
        LIBRARY,
        sources(),
        include_dirs=[INCLUDE, *include_paths()],
        library_dirs=library_paths(),
        libraries=["c10", "torch", "torch_cpu"],
        extra_compile_args=[*COMMON, f"-DTORCH_TARGET_VERSION={TORCH_TARGET}"],
        language="c++",
        optional=True,
    )
    extension.depends = headers()
    return [extension, *cuda_extensions()]


def headers() -> list[str]:
    return [path.as_posix() for path in Path("csrc").rglob("*") if path.suffix in (".h", ".inc", ".cuh")]


def nvcc() -> str | None:
    """Where torch will look for it. A torch without CUDA does not look: it is told where the toolkit is."""
    homes = [cpp_extension.CUDA_HOME, os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    places = [*(os.path.join(home, "bin", "nvcc") for home in homes if home), shutil.which("nvcc")]
    found = next((place for place in places if place and os.path.isfile(place)), None)
    if found and not cpp_extension.CUDA_HOME:
        cpp_extension.CUDA_HOME = str(Path(found).parent.parent)
    return found


def cuda_extensions() -> list[Extension]:
    """The fat binary of csrc/cuda and its binding. The CUDA runtime is linked in, so that only the driver must fit."""
    wanted = os.environ.get("ABCFX_CUDA", "")
    compiler = nvcc()
    if wanted == "0" or (wanted != "1" and not torch.version.cuda) or sys.platform != "linux":
        return []
    if compiler is None:
        warn("nvcc is not there: install the CUDA toolkit, or set CUDA_HOME.", "CUDA kernels")
        return []
    torch_libraries = [
        name
        for name in ("c10", "torch", "torch_cpu", "torch_cuda")
        if any((Path(folder) / f"lib{name}.so").is_file() for folder in library_paths())
    ]
    extension = Extension(
        CUDA_LIBRARY,
        [path.relative_to(ROOT).as_posix() for path in TABLE.cuda_sources()],
        include_dirs=[INCLUDE, str(TABLE.ROOT / "binding" / "cuda"), *include_paths()],
        library_dirs=[*library_paths(), *toolkit_libraries(compiler)],
        libraries=["cudart_static", "rt", "dl", "pthread"],
        # Needed, used or not: libtorch is what brings libtorch_cuda along, also if this is built beside a torch
        # that has none. A flag of the linker holds for what follows it.
        extra_link_args=["-Wl,--no-as-needed", *(f"-l{name}" for name in torch_libraries)],
        extra_compile_args={
            "cxx": [*COMMON, "-DUSE_CUDA", f"-DTORCH_TARGET_VERSION={TORCH_TARGET}"],
            "nvcc": TABLE.nvcc_flags(""),
        },
        language="c++",
        optional=True,
    )
    extension.depends = headers()
    return [extension]


def toolkit_libraries(compiler: str) -> list[str]:
    """Folders with the CUDA runtime, as nvcc itself would link it: toolkits differ in where it is."""
    said = subprocess.run([compiler, "--dryrun", "-x", "cu", os.devnull, "-o", "none"], capture_output=True, text=True)
    line = next((line for line in said.stderr.splitlines() if "LIBRARIES=" in line), "")
    return [folder for folder in re.findall(r'-L([^" ]+)', line) if not folder.endswith("stubs")]


def warn(reason: str, what: str = "compiled kernels") -> None:
    lines = [f"abcfx: the {what} were NOT built.", reason, "Everything runs, slowly, on plain torch."]
    print("\n".join(["*" * 78, *lines, "*" * 78]), file=sys.stderr)


class BuildKernels(BuildExtension or object):
    """BuildExtension that gives each group of sources its own flags, and survives a machine without a compiler."""

    def get_ext_filename(self, ext_name: str) -> str:
        suffix = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
        return os.path.join(*ext_name.split(".")) + suffix

    def run(self) -> None:
        try:
            super().run()
        except BUILD_ERRORS as error:
            warn(f"{type(error).__name__}: {error}")

    def build_extensions(self) -> None:
        """One after the other: what is wrong with nvcc must not cost the CPU library."""
        every = self.extensions
        for ext in every:
            self.extensions = [ext]
            try:
                super().build_extensions()
            except BUILD_ERRORS as error:
                warn(f"{type(error).__name__}: {error}", "CUDA kernels" if ext.name == CUDA_LIBRARY else LIBRARY)
        self.extensions = every

    def build_extension(self, ext: Extension) -> None:
        """Compiles the groups with special flags first, then everything else, which it links with them."""
        cuda = ext.name == CUDA_LIBRARY
        flags = {name: {"cxx": [], "nvcc": TABLE.nvcc_flags(name)} for name in TABLE.ONLY_FOR} if cuda else FLAGS
        plain = [path for path in ext.sources if Path(path).name not in flags]
        special = [path for path in ext.sources if Path(path).name in flags]
        for name, own in flags.items():
            group = [path for path in special if Path(path).name == name]
            if not group:
                continue
            directory = os.path.join(self.build_temp, Path(name).stem)  # ninja keeps one build file a directory
            os.makedirs(directory, exist_ok=True)
            ext.extra_objects += self.compiler.compile(
                group,
                output_dir=directory,
                include_dirs=[INCLUDE],
                extra_postargs=own if cuda else [*COMMON, *own],
                depends=ext.depends,
            )
        ext.sources = plain
        build_temp = self.build_temp
        if cuda:  # a build file of its own for ninja, beside that of the CPU library
            self.build_temp = os.path.join(build_temp, "cuda")
        try:
            super().build_extension(ext)
        finally:
            ext.sources, self.build_temp = plain + special, build_temp


class AnyPythonWheel(bdist_wheel):
    """One wheel for every Python 3 of a platform: the library contains no Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


commands = {"bdist_wheel": AnyPythonWheel}
if BuildExtension is None:
    warn("torch cannot be imported in the build environment.")
else:
    commands["build_ext"] = BuildKernels.with_options(no_python_abi_suffix=True)

setup(ext_modules=extensions(), cmdclass=commands)
