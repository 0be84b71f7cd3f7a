"""The parts of the demo: numbers for people, races, the report and the picture."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import matplotlib.image
import pytest
import torch
from rich.console import Console

from abcfx.bench.race import Race, race
from abcfx.cli.demo_report import Point, Results
from abcfx.cli.picture import draw
from abcfx.cli.units import count, milliseconds, shape, size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0, "–"), (7, "7"), (999, "999"), (1000, "1.00 k"), (1234567, "1.23 M"), (99_960, "100 k"),
        (9_994, "9.99 k"), (9_996, "10.0 k"), (999_499, "999 k"), (999_600, "1.00 M"), (5e15, "5000 T"),
    ],
)  # fmt: skip
def test_count(value: float | None, text: str):
    assert count(value) == text


def test_size():
    assert [size(value) for value in (None, 0, 12, 1500, 2_360_000)] == ["–", "0 B", "12 B", "1.50 kB", "2.36 MB"]


def test_milliseconds_have_three_digits():
    assert [milliseconds(value) for value in (0.1234, 1.234, 12.34, 123.4)] == [
        "0.123 ms", "1.23 ms", "12.3 ms", "123 ms",
    ]  # fmt: skip


def test_shape():
    assert [shape(value) for value in (None, (), (1, 3, 8))] == ["–", "scalar", "1×3×8"]


def test_a_race_finds_the_faster():
    result = race(lambda: time.sleep(0.004), lambda: time.sleep(0.002), batch=3, seconds=0.2)
    assert result.batch == 3
    assert result.rounds >= 5
    # sleep never returns early, and the medians bear single late wake-ups
    assert 1 < result.ratio < 3
    assert result.low <= result.ratio <= result.high


def results() -> Results:
    races = [Race(32, 9.0, 9.0 / ratio, ratio, 0.9 * ratio, 1.1 * ratio, 20) for ratio in (5.0, 3.1, 2.2, 1.6, 0.8)]
    sweep = zip(((1, 1), (1, 2), (2, 2), (2, 3), (3, 3)), (61.0, 80.2, 88.1, 91.0, 92.4), races, strict=True)
    return Results(
        "Fashion-MNIST subset", 2000, 2, 2, {"threads": "2 threads"}, 93.2, 88.1, 92.6, 4_930_000, 360_000,
        [Race(1, 0.84, 0.31, 2.71, 2.52, 2.93, 40), races[2]], [Point(*pair, value, run) for pair, value, run in sweep],
    )  # fmt: skip


@pytest.mark.parametrize("width", [80, 100])
def test_the_tables_fit_the_terminal(width: int):
    console = Console(file=io.StringIO(), width=width)
    console.print(results().table())
    console.print(results().points_table())
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for cell in ("93.2 %", "−0.6 points", "13.7× smaller", "2.71× faster (2.52–2.93)", "0.80× as fast"):
        assert cell in text


def test_the_table_of_an_interrupted_demo():
    console = Console(file=io.StringIO(), width=80)
    console.print(Results("images", 10, 2, 2, {}, float_accuracy=90.0).table())
    text = console.file.getvalue()
    assert "90.0 %" in text
    assert "latency" not in text
    assert "size" not in text


def test_a_disturbed_race_is_noted_once():
    record = results()
    record.note_disturbed_races()
    assert record.notes == []
    record.races += [Race(1, 1.0, 1.0, 1.0, 0.6, 1.4, 9), Race(2, 1.0, 1.0, 1.0, 0.2, 3.0, 9)]
    record.note_disturbed_races()
    assert len(record.notes) == 1
    assert "kept the processor busy" in record.notes[0]


def test_results_go_to_json(tmp_path: Path):
    results().save(tmp_path / "results.json")
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["points"][2]["race"]["ratio"] == 2.2
    assert document["float_accuracy"] == 93.2


@pytest.mark.parametrize("timed", [True, False])
def test_the_picture_is_drawn(tmp_path: Path, timed: bool):
    record = results()
    if not timed:
        record.points = [Point(point.M, point.N, point.accuracy) for point in record.points]
    draw(record, tmp_path / "picture.png")
    pixels = matplotlib.image.imread(tmp_path / "picture.png")
    assert pixels.shape[0] > 600
    assert pixels.shape[1] > (1500 if timed else 900)
    blue = (abs(pixels[..., :3] - torch.tensor([0x25, 0x63, 0xEB]).numpy() / 255) < 0.02).all(-1)
    green = (abs(pixels[..., :3] - torch.tensor([0x0F, 0x9D, 0x6C]).numpy() / 255) < 0.02).all(-1)
    assert blue.sum() > 500
    assert (green.sum() > 500) == timed


def test_a_picture_of_a_single_point(tmp_path: Path):
    record = results()
    record.points, record.tuned_accuracy = record.points[:1], None
    draw(record, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
