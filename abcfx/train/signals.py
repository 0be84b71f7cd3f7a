"""Ctrl-C and SIGTERM asked for politely: the step under way is finished and the checkpoint written first."""

from __future__ import annotations

import signal
from types import FrameType


class Stopped(Exception):
    """A signal asked the run to end; everything was saved. `code` is the exit status that shells expect."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.code = 128 + number


class StopSignals:
    """A context in which SIGINT and SIGTERM only set `number`; a second SIGINT interrupts at once, as ever."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
