"""Builds the kernels: one shared library through the LibTorch stable ABI, no Python.h, so one wheel for any Python 3.

Every file of csrc/cpu that needs instructions of its own is compiled with that file's flags only, those of
csrc/build_table.py; which of them runs is decided on the user's machine. If the library cannot be built, the package is
installed without it, says so, and runs on its pure-torch reference: `python -m abcfx doctor` repeats the reason.
"""

from __future__ import annotations

import os
import platform
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.errors import CompileError, ExecError, LinkError, PlatformError

try:
    from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths
except ImportError:
    BuildExtension = None

ROOT = Path(__file__).resolve().parent
TABLE = SimpleNamespace(**runpy.run_path(str(ROOT / "csrc" / "build_table.py")))
INCLUDE = str(TABLE.INCLUDE)  # absolute: ninja compiles from another directory
COMMON, FLAGS = TABLE.COMMON, TABLE.FLAGS
LIBRARY = "abcfx._kernels"
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
    extension.depends = [path.as_posix() for path in Path("csrc").rglob("*") if path.suffix in (".h", ".inc")]
    return [extension]


def warn(reason: str) -> None:
    lines = ["abcfx: the compiled kernels were NOT built.", reason, "Everything runs, slowly, on plain torch."]
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

    def build_extension(self, ext: Extension) -> None:
        """Compiles the groups with special flags first, then everything else, which it links with them."""
        plain = [path for path in ext.sources if Path(path).name not in FLAGS]
        special = [path for path in ext.sources if Path(path).name in FLAGS]
        for name, flags in FLAGS.items():
            group = [path for path in special if Path(path).name == name]
            if not group:
                continue
            directory = os.path.join(self.build_temp, Path(name).stem)  # ninja keeps one build file a directory
            os.makedirs(directory, exist_ok=True)
            ext.extra_objects += self.compiler.compile(
                group,
                output_dir=directory,
                include_dirs=[INCLUDE],
                extra_postargs=[*COMMON, *flags],
                depends=ext.depends,
            )
        ext.sources = plain
        try:
            super().build_extension(ext)
        finally:
            ext.sources = plain + special


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
