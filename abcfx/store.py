"""A small dictionary on disk that several processes may read and write at once, and that may vanish or break.

One JSON file, {"format": FORMAT, "entries": {key: entry}}. A writer takes a lock, reads, merges, writes a new file and
renames it into place: a reader sees the old file or the new one, whole, also if the writer is killed. The system drops
the lock of a process that dies. What cannot be read is ignored and replaced at the next write; where nothing can be
written, entries last as long as the process. Each of these is said once, in one line (ABCFX_DEBUG=1).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from abcfx.debug import log

try:
    import fcntl
except ImportError:  # Windows: renaming stays atomic; of two simultaneous writers one may lose its entry
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
MAX_ENTRIES = 10_000  # the oldest go first
LOCK_S = 5.0  # a file system that never grants the lock must not hold up a compilation


class Store:
    """get and put entries by key. An entry is a JSON object with "ms", numbers by name, and "dims", a list."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, dict[str, Any]] = {}
        self._stamp: tuple[int, int] | None = None  # of the file when it was last read
        self._said: set[str] = set()

    def get(self, key: str) -> dict[str, Any] | None:
        if key not in self._known:
            self._refresh()
        return self._known.get(key)

    def entries(self) -> Mapping[str, dict[str, Any]]:
        self._refresh()
        return self._known

    def put(self, key: str, entry: dict[str, Any]) -> None:
        """Keep an entry here and, if possible, on disk, beside what other processes wrote meanwhile."""
        self._known[key] = entry
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock():
                merged = {**self._read(), key: entry}
                self._write(dict(list(merged.items())[-MAX_ENTRIES:]))
        except OSError as error:
            self._say(f"timings are not kept: {self.path} cannot be written ({error})")

    def _refresh(self) -> None:
        try:
            status = self.path.stat()
        except OSError:
            return
        stamp = status.st_mtime_ns, status.st_ino
        if stamp != self._stamp:
            self._stamp = stamp
            self._known = {**self._read(), **self._known}

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self._say(f"{self.path} is ignored and will be replaced: {error}")
            return {}
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            self._say(f"{self.path} is ignored and will be replaced: it is not of format {FORMAT}")
            return {}
        entries = document.get("entries")
        return {k: v for k, v in entries.items() if _is_entry(v)} if isinstance(entries, dict) else {}

    def _write(self, entries: Mapping[str, dict[str, Any]]) -> None:
        for left in self.path.parent.glob(f"{self.path.name}.*.tmp"):  # of writers that were killed: the lock is ours
            left.unlink(missing_ok=True)
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        new.write_text(json.dumps({"format": FORMAT, "entries": entries}, indent=1), encoding="utf-8")
        os.replace(new, self.path)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One writer at a time; OSError if the lock cannot be had within LOCK_S."""
        if fcntl is None:
            yield
            return
        with open(self.path.with_name(f"{self.path.name}.lock"), "w") as file:
            end = time.monotonic() + LOCK_S
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.01)
            yield

    def _say(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            log(1, message)


def _is_entry(value: Any) -> bool:
    """Whether an entry has the fields and types that `autotune` writes."""
    if not isinstance(value, dict) or not isinstance(value.get("dims"), list):
        return False
    ms = value.get("ms")
    return isinstance(ms, dict) and all(isinstance(number, (int, float)) for number in ms.values())
