"""The structure that the documents promise: imports go one way, files stay small, every pass has a test."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from abcfx import debug

ROOT = Path(__file__).parent.parent
PYTHON = [p for folder in ("abcfx", "passes", "tests", "examples") for p in sorted((ROOT / folder).rglob("*.py"))]
NATIVE = sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".c", ".cpp", ".inc", ".cu", ".cuh"))
CEILING = 400

# part → what it may import of abcfx, besides itself. Parts that are not named (api, backend, cli …) are at the top:
# they may import anything, and nothing named here may import them.
MAY_IMPORT = {
    "plan": set(),
    "debug": set(),
    "_path": set(),
    "quant": set(),
    "cost": set(),
    "store": {"debug"},
    "autotune": {"cost", "store", "debug"},
    "ops": {"quant", "cost", "autotune", "plan", "debug"},
    "graph": {"plan"},
    "config": {"plan"},
    "passes": {"graph", "plan", "config", "ops", "quant", "debug"},
    "pipeline": {"passes", "graph", "plan", "ops", "debug"},
    "layers": {"passes", "graph", "ops", "quant", "plan"},
}


def part_of(path: Path) -> str:
    inside = path.relative_to(ROOT)
    return "passes" if inside.parts[0] == "passes" else Path(inside.parts[1]).stem


def imports(path: Path) -> Iterator[str]:
    """Parts of abcfx that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("abcfx."))
        elif isinstance(node, ast.ImportFrom) and node.module == "abcfx":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("abcfx."):
            yield str(node.module).split(".")[1]


PACKAGE = [p for p in PYTHON if p.relative_to(ROOT).parts[0] in ("abcfx", "passes") and p.name != "__init__.py"]


def test_imports_go_one_way() -> None:
    assert MAY_IMPORT.keys() <= {part_of(path) for path in PACKAGE}, "a part was renamed"
    wrong = [
        f"{path.relative_to(ROOT)} imports abcfx.{found}"
        for path in PACKAGE
        for found in imports(path)
        if (allowed := MAY_IMPORT.get(part_of(path))) is not None and found not in allowed | {part_of(path)}
    ]
    assert not wrong


def test_quant_is_pure_torch() -> None:
    outside = re.compile(r"^\s*(?:from|import) (torch\.(?:fx|library|ops|_dynamo)|abcfx\.(?!quant|plan))", re.MULTILINE)
    assert not [p.name for p in (ROOT / "abcfx" / "quant").glob("*.py") if outside.search(p.read_text())]


def test_the_installed_name_is_used() -> None:
    bare = re.compile(r"^\s*(?:import passes|from passes)\b", re.MULTILINE)
    assert not [str(path.relative_to(ROOT)) for path in PYTHON if bare.search(path.read_text())]


def test_torch_headers_only_in_the_binding() -> None:
    assert NATIVE
    header = re.compile(r"#\s*include\s*[<\"](?:torch|ATen|c10|Python\.h)")
    outside = [p for p in NATIVE if "binding" not in p.relative_to(ROOT).parts]
    assert not [str(p.relative_to(ROOT)) for p in outside if header.search(p.read_text())]


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "passes").glob("[!_]*.py")))
def test_every_pass_has_a_test(name: str) -> None:
    assert (ROOT / "tests" / "passes" / f"test_{name}.py").is_file()


def test_size_ceiling() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in [*PYTHON, *NATIVE]}
    assert not {path: length for path, length in lengths.items() if length > CEILING}


def test_environment_variables_are_documented_once() -> None:
    read = re.compile(r"(?:getenv\(|environ(?:\.get\(|\[)|\bget\()\s*\"(ABCFX_\w+)\"")
    used = {name for path in [*PACKAGE, *NATIVE] for name in read.findall(path.read_text())}
    documented = set(re.findall(r"ABCFX_\w+", debug.__doc__ or ""))
    assert used == documented


def test_every_test_function_is_collected() -> None:
    """A function of a test file is a test, a fixture, or used by one: none is there and never run."""
    idle = []
    for path in (ROOT / "tests").rglob("test_*.py"):
        source = path.read_text()
        for node in ast.parse(source).body:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("test_"):
                continue
            is_fixture = any("fixture" in ast.unparse(decorator) for decorator in node.decorator_list)
            names = sum(p.read_text().count(node.name) for p in path.parent.glob("*.py"))
            if not is_fixture and names < 2:
                idle.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert not idle


def test_names_of_test_files_are_unique() -> None:
    """pytest imports them by their base name, so that two of one name stop the whole collection."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)


def test_every_package_is_installed() -> None:
    """An editable install finds folders that pyproject.toml forgot; a wheel does not hold them."""
    listed = re.search(r"^packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE)
    assert listed, "pyproject.toml lists packages in another way"
    there = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("abcfx/**/__init__.py")}
    assert set(re.findall(r'"([\w.]+)"', listed[1])) == there | {"abcfx.passes"}
