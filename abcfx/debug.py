"""Every environment variable, once, and what it does.

ABCFX_DEBUG=1        one line per layer: quantized or kept, and why
ABCFX_DEBUG=2        time and rule counts per stage
ABCFX_DEBUG=3        graph text before and after each stage, numbered, in ./abcfx_dump
ABCFX_VERIFY=1       check what each graph level may contain after every stage
ABCFX_STOP_AFTER=s   run no stage of the compiler after the one called s (abc:: ops run without being lowered)
ABCFX_FORM=form      run layers as "xnor", "lut" or "dense" wherever that form applies, whatever pays
ABCFX_AUTOTUNE=1     measure each layer shape once and keep the answer, instead of asking the cost model
ABCFX_CACHE=folder   where measured answers are kept ($XDG_CACHE_HOME/abcfx or ~/.cache/abcfx)
ABCFX_KERNEL=name    use this kernel variant where it runs (read by the compiled library)
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

FORM, FORMS = "ABCFX_FORM", ("xnor", "lut", "dense")
DUMP_FOLDER = "abcfx_dump"


@dataclass(frozen=True)
class Settings:
    """What the environment asks for, read anew by `Settings.now()` so that it can change between compilations."""

    debug: int = 0
    verify: bool = False
    stop_after: str = ""
    kernel: str = ""
    form: str = ""
    autotune: bool = False

    @classmethod
    def now(cls) -> Settings:
        level = os.environ.get("ABCFX_DEBUG", "") or "0"
        if not level.isdigit():
            raise ValueError(f"ABCFX_DEBUG must be a number from 0 to 3, got {level!r}")
        return cls(
            debug=int(level),
            verify=os.environ.get("ABCFX_VERIFY", "0") not in ("", "0"),
            stop_after=os.environ.get("ABCFX_STOP_AFTER", ""),
            kernel=os.environ.get("ABCFX_KERNEL", ""),
            form=form_wanted(),
            autotune=autotune_wanted(),
        )


def form_wanted() -> str:
    """ABCFX_FORM alone: every call of an eager layer asks. ValueError if it is not a form."""
    form = os.environ.get("ABCFX_FORM", "")
    if form and form not in FORMS:
        raise ValueError(f"ABCFX_FORM must be one of {', '.join(FORMS)}, got {form!r}")
    return form


def autotune_wanted() -> bool:
    """ABCFX_AUTOTUNE alone, as above."""
    return os.environ.get("ABCFX_AUTOTUNE", "0") not in ("", "0")


def log(level: int, message: str) -> None:
    """One line on stderr if ABCFX_DEBUG is at least `level`."""
    if Settings.now().debug >= level:
        print(f"abcfx: {message}", file=sys.stderr)


_dumped = 0


def dump(name: str, text: str) -> None:
    """Write graph text to abcfx_dump/NN_name.txt if ABCFX_DEBUG is at least 3; NN counts up over the process."""
    global _dumped
    if Settings.now().debug < 3:
        return
    folder = Path(DUMP_FOLDER)
    folder.mkdir(exist_ok=True)
    (folder / f"{_dumped:02d}_{name}.txt").write_text(text + "\n")
    _dumped += 1
