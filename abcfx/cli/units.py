"""Numbers as people read them."""

from __future__ import annotations


def count(value: float | None) -> str:
    """1234567 → 1.23 M; 0 and None → a dash."""
    if not value:
        return "–"
    return _scaled(value, ("", " k", " M", " G", " T"))


def size(value: float | None) -> str:
    """1234567 bytes → 1.23 MB, in powers of 1000."""
    return "–" if value is None else "0 B" if not value else _scaled(value, (" B", " kB", " MB", " GB", " TB"))


def milliseconds(value: float) -> str:
    """Three significant digits: 0.123 ms, 1.23 ms, 123 ms."""
    return f"{value:.{max(0, 2 - _digits(value))}f} ms"


def shape(value: tuple[int, ...] | None) -> str:
    return "–" if value is None else "×".join(map(str, value)) or "scalar"


def _digits(value: float) -> int:
    """Digits in front of the point, less one: 0.5 → -1, 5 → 0, 50 → 1."""
    return -1 if value < 1 else len(str(int(value))) - 1


def _scaled(value: float, units: tuple[str, ...]) -> str:
    thousands = 0
    while value >= 999.5 and thousands < len(units) - 1:
        value, thousands = value / 1000, thousands + 1
    whole = value >= 99.95 or (thousands == 0 and value == int(value))
    digits = 0 if whole else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}{units[thousands]}"
