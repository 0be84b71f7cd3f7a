"""Lets `abcfx.passes` be found when Python starts in the repository root.

`passes/` is a top-level folder of the repository that installs as `abcfx.passes`. Started in the root, Python finds
`./abcfx` before the installed package, and that folder has no `passes` in it; then the root itself is searched too.
"""

from __future__ import annotations

from pathlib import Path


def extend(package_path: list[str]) -> None:
    package = Path(package_path[0])
    if not (package / "passes").is_dir() and (package.parent / "passes" / "_rule.py").is_file():
        package_path.append(str(package.parent))

