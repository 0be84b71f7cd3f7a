"""The kernels for aarch64: built with a cross compiler, run under an emulator, every variant against the reference.

On an aarch64 machine the other tests of this folder do the same, and more; this one says nothing about speed.
"""

from __future__ import annotations

from pathlib import Path

from build_kernels import compile_kernels, link_driver, run, tool

FLAGS = ["-O3"]
PROBLEMS = 60  # an emulator is some twenty times slower than the processor


def test_random_problems_on_an_emulated_processor(tmp_path: Path) -> None:
    cxx, emulator = tool("aarch64-linux-gnu-g++"), tool("qemu-aarch64", "qemu-aarch64-static")
    objects = compile_kernels(cxx, "aarch64", tmp_path, FLAGS)
    program = link_driver(cxx, objects.values(), tmp_path, [*FLAGS, "-static"])
    said = run([emulator, str(program), str(PROBLEMS)]).stdout
    assert said.splitlines() == [
        "bgemm: neon portable reference",
        "lut: reference",
        "pack: neon portable reference",
        f"{PROBLEMS} problems of each op agree",
    ]
