"""doctor: a healthy installation has no problem; each fault that can be staged is found and comes with advice."""

from __future__ import annotations

import importlib.metadata
import io
import json
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from abcfx.cli import doctor, machine
from abcfx.cli.front import main
from abcfx.ops import library


def findings() -> dict[str, doctor.Finding]:
    return {finding.item: finding for finding in doctor.examine()}


def test_it_names_what_runs():
    found = findings()
    assert torch.__version__ in found["torch"].value
    assert library.kernel_variant("bgemm") in found["bgemm kernel"].value
    assert found["self test"].state == "good"
    assert f"{torch.get_num_threads()} thread" in found["threads"].value


def test_the_exit_code_tells_of_problems(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    code = main(["doctor", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert code == int(any(finding["state"] == "problem" for finding in document))
    monkeypatch.setattr(machine, "cpp_compiler", lambda: None)
    assert main(["doctor"]) == 1
    assert "→ torch.compile on a CPU needs one" in " ".join(capsys.readouterr().out.split())


def test_without_the_library(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(library, "_load", lambda: (None, "the compiled kernels are not installed"))
    library.kernel_variant.cache_clear()
    try:
        found = findings()
    finally:
        monkeypatch.undo()
        library.kernel_variant.cache_clear()
    assert found["library"].state == "problem"
    assert "everything runs on plain torch, slowly" in found["library"].value
    assert "reference" in found["bgemm kernel"].value
    assert found["self test"].state == "good"


def test_wrong_results_are_a_problem(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "dequantized", lambda weight, recipe: weight)
    assert findings()["self test"].state == "problem"


def test_too_many_threads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert findings()["threads"].advice.endswith("OMP_NUM_THREADS=1")


def test_an_old_torch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    assert "pip install 'torch>=2.10'" in findings()["torch"].advice


def test_a_missing_entry_point(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [SimpleNamespace(name="inductor")])
    assert findings()["backend"].state == "problem"


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert findings()["abcfx"].advice == "pip install . in the repository"


def test_a_variant_that_does_not_exist(monkeypatch: pytest.MonkeyPatch):
    if not library.loaded():
        pytest.skip("the compiled kernels are not loaded")
    monkeypatch.setenv(library.FORCE, "abacus")
    assert "ABCFX_KERNEL=abacus is ignored" in findings()["library"].value


@pytest.mark.parametrize("width", [80, 100])
def test_it_fits_the_terminal(width: int):
    console = Console(file=io.StringIO(), width=width)
    doctor.show(doctor.examine(), console)
    assert max(map(len, console.file.getvalue().splitlines())) <= width
