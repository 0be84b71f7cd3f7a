"""The file of measured answers: whole at any moment, shared by processes, rebuilt when broken, optional."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from abcfx import store as store_module
from abcfx.store import FORMAT, Store


def entry(ms: float) -> dict:
    return {"ms": {"xnor": ms, "dense": 2 * ms}, "dims": [1, 2, 3]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "autotune.json"


@pytest.fixture(autouse=True)
def _speak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABCFX_DEBUG", "1")


def test_an_entry_is_found_by_the_next_process(path: Path):
    Store(path).put("a", entry(1.5))
    assert Store(path).get("a") == entry(1.5)
    assert Store(path).get("b") is None
    assert json.loads(path.read_text())["format"] == FORMAT


def test_what_another_process_wrote_meanwhile_is_kept_and_seen(path: Path):
    ours, theirs = Store(path), Store(path)
    assert ours.get("b") is None
    theirs.put("b", entry(2))
    ours.put("a", entry(1))
    assert ours.get("b") == entry(2)
    assert theirs.get("a") == entry(1)
    assert set(Store(path).entries()) == {"a", "b"}


BROKEN = {
    "no JSON": "{]",
    "half a file": '{"format": 1, "entries": {"a": {"ms"',
    "empty": "",
    "not text": b"\xff\xfe\x00",
    "another format": json.dumps({"format": FORMAT + 1, "entries": {"a": entry(1)}}),
    "a list": "[1, 2]",
    "entries of another kind": json.dumps({"format": FORMAT, "entries": [1]}),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_ignored_and_rebuilt(path: Path, case: str, capsys: pytest.CaptureFixture):
    path.parent.mkdir()
    content = BROKEN[case]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    store = Store(path)
    assert store.get("a") is None
    store.put("b", entry(3))
    assert Store(path).entries() == {"b": entry(3)}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == (0 if case.startswith("entries") else 1), said
    assert not said or f"{path} is ignored and will be replaced" in said[0]


def test_an_entry_of_the_wrong_shape_is_dropped(path: Path):
    path.parent.mkdir()
    wrong = {"a": {"ms": {"xnor": "fast"}, "dims": []}, "b": 3, "c": {"ms": {}}, "d": entry(1)}
    path.write_text(json.dumps({"format": FORMAT, "entries": wrong}))
    assert set(Store(path).entries()) == {"d"}


def test_where_nothing_can_be_written_entries_last_as_long_as_the_process(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    (tmp_path / "cache").write_text("a file where the folder should be")
    store = Store(tmp_path / "cache" / "autotune.json")
    for key in "ab":
        store.put(key, entry(1))
    assert store.get("a") == entry(1)
    (line,) = capsys.readouterr().err.splitlines()
    assert "timings are not kept" in line


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(path: Path):
    path.parent.mkdir(mode=0o500)
    store = Store(path)
    store.put("a", entry(1))
    assert store.get("a") == entry(1)
    assert not list(path.parent.iterdir())


def test_the_oldest_entries_go_first(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_module, "MAX_ENTRIES", 3)
    store = Store(path)
    for key in "abcd":
        store.put(key, entry(1))
    assert list(Store(path).entries()) == ["b", "c", "d"]


def python(program: str, path: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", program, str(path), *arguments], stdout=subprocess.PIPE, text=True)


WRITER = """
import sys
from pathlib import Path
from abcfx.store import Store
store, go = Store(Path(sys.argv[1])), Path(sys.argv[3])
print("ready", flush=True)
while not go.exists():
    pass
for i in range(50):
    store.put(f"{sys.argv[2]}{i}", {"ms": {"xnor": float(i)}, "dims": [i]})
"""


def test_processes_that_write_at_once_lose_nothing(path: Path, tmp_path: Path):
    go = tmp_path / "go"
    with python(WRITER, path, "a", str(go)) as a, python(WRITER, path, "b", str(go)) as b:
        assert (a.stdout.readline(), b.stdout.readline()) == ("ready\n", "ready\n")
        go.touch()
        while a.poll() is None or b.poll() is None:
            if path.exists():
                json.loads(path.read_text())  # whole at every moment
            time.sleep(1e-3)
    assert (a.returncode, b.returncode) == (0, 0)
    assert set(Store(path).entries()) == {f"{name}{i}" for name in "ab" for i in range(50)}


DYING = """
import os, sys, time
from pathlib import Path
from abcfx.store import Store
def hang(*_):
    print("written, not renamed", flush=True)
    time.sleep(60)
os.replace = hang
Store(Path(sys.argv[1])).put("lost", {"ms": {"xnor": 1.0}, "dims": [1]})
"""


def test_a_writer_killed_in_the_middle_leaves_the_old_file_and_no_lock(path: Path):
    Store(path).put("a", entry(1))
    with python(DYING, path) as writer:
        assert "not renamed" in writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
    assert len(list(path.parent.glob("*.tmp"))) == 1
    start = time.monotonic()
    Store(path).put("b", entry(2))
    assert time.monotonic() - start < 2, "waited for the lock of a dead process"
    assert set(Store(path).entries()) == {"a", "b"}
    assert not list(path.parent.glob("*.tmp"))


def test_a_lock_that_is_never_granted_holds_nothing_up(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    pytest.importorskip("fcntl")
    monkeypatch.setattr(store_module, "LOCK_S", 0.05)
    first, second = Store(path), Store(path)
    first.put("a", entry(1))
    with first._lock():
        second.put("b", entry(2))
    assert second.get("b") == entry(2)
    assert set(Store(path).entries()) == {"a"}
    assert "timings are not kept" in capsys.readouterr().err
