"""Every environment variable, once, and what it does.

ABCFX_DEBUG=1        one line per layer: quantized or kept, and why
ABCFX_DEBUG=2        time and rule counts per stage, and the total of a compilation
ABCFX_DEBUG=3        graph text before and after each stage, numbered, in ./abcfx_dump
ABCFX_DEBUG=4        one line per node that a rule replaced: the rule, the node, what stands there now
ABCFX_DEBUG=5        the kernel variants that run, and the layout of every value that a kernel reads or writes
ABCFX_VERIFY=1       check what each graph level may contain after every stage
ABCFX_SKIP=a,b       leave rules out by name (FoldAffine), a stage that may be left out (fuse, chain), or layers by glob
                     (layer1.*): a layer stays float in a float model, and runs as one dense op in a quantized one
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
from fnmatch import fnmatchcase
from pathlib import Path

FORM, FORMS = "ABCFX_FORM", ("xnor", "lut", "dense")
STAGES = ("canonicalize", "rewrite", "simulate", "adjoint", "lower", "fuse", "narrow", "chain")
DUMP_FOLDER = "abcfx_dump"
SKIPPED = "ABCFX_SKIP names it"


@dataclass(frozen=True)
class Settings:
    """What the environment asks for, read anew by `Settings.now()` so that it can change between compilations."""

    debug: int = 0
    verify: bool = False
    stop_after: str = ""
    skip: tuple[str, ...] = ()
    kernel: str = ""
    form: str = ""
    autotune: bool = False

    @classmethod
    def now(cls) -> Settings:
        level = os.environ.get("ABCFX_DEBUG", "") or "0"
        if not level.isdigit() or int(level) > 5:
            raise ValueError(f"ABCFX_DEBUG must be a number from 0 to 5, got {level!r}")
        return cls(
            debug=int(level),
            verify=os.environ.get("ABCFX_VERIFY", "0") not in ("", "0"),
            stop_after=stage_wanted(),
            skip=skipped(),
            kernel=os.environ.get("ABCFX_KERNEL", ""),
            form=form_wanted(),
            autotune=autotune_wanted(),
        )


def stage_wanted() -> str:
    """ABCFX_STOP_AFTER. ValueError if no stage has this name: a typo would run them all."""
    stage = os.environ.get("ABCFX_STOP_AFTER", "")
    if stage and stage not in STAGES:
        raise ValueError(f"ABCFX_STOP_AFTER must be one of {', '.join(STAGES)}, got {stage!r}")
    return stage


def skipped() -> tuple[str, ...]:
    """ABCFX_SKIP: names of rules and stages, globs of layers."""
    return tuple(name for part in os.environ.get("ABCFX_SKIP", "").split(",") if (name := part.strip()))


def skips(name: str) -> bool:
    """Whether ABCFX_SKIP names this rule, stage or layer."""
    return any(fnmatchcase(name, glob) for glob in skipped())


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
