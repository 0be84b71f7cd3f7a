"""What a wheel must hold: `python .ci/check_wheel.py dist/abcfx-….whl`."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

wheel = Path(sys.argv[1])
names = zipfile.ZipFile(wheel).namelist()
assert "-py3-none-" in wheel.name, f"{wheel.name} serves one Python version only"
NEEDED = (
    "abcfx/__init__.py",
    "abcfx/passes/_rule.py",
    "abcfx/explain/page.css",
    "abcfx/_kernels.so",
    "abcfx/data/fashion_mnist_subset.npz",
    "abcfx/data/demo_model.npz",
)
for needed in NEEDED:
    assert needed in names, f"{needed} is not in {wheel.name}"
for top in {name.split("/")[0] for name in names}:
    assert top == "abcfx" or top.endswith((".dist-info", ".data")), f"{wheel.name} would install {top}"
print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 2**20:.1f} MiB")
