"""The (M, N) map: break-even numbers of a made-up table, the rule that stops, and the page and pictures made of it."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import pytest

from abcfx.bench import breakeven
from abcfx.bench.breakeven import Cell, Pace, ShapeMap, levels, measure_map
from abcfx.bench.contest import Contestant
from abcfx.bench.heatmap import draw_maps
from abcfx.bench.heats import Form
from abcfx.bench.markdown import breakeven_page, breakeven_text
from abcfx.bench.race import Spread
from abcfx.bench.results import Report, RivalResult
from abcfx.bench.workloads import LinearShape, Spec
from abcfx.ops import library


def at(value: float) -> Spread:
    return Spread(value, 0.9 * value, 1.1 * value, 9)


def made_up(ratios: dict[tuple[int, int], dict[str, float]], skipped: list[tuple[int, int]] | None = None) -> ShapeMap:
    cells = [Cell(*pair, "lut", at(1.0), {k: at(v) for k, v in found.items()}) for pair, found in ratios.items()]
    rivals = {"f32": RivalResult("compiled", at(3.0), {"compiled": 3.0, "eager": 4.0})}
    rivals["int8"] = RivalResult("fbgemm", at(2.0), {"fbgemm": 2.0}, note="a note")
    rivals["bf16"] = RivalResult(None, None, {"eager": "absent"}, "eager: absent")
    planned = [*ratios, *(skipped or [])]
    return ShapeMap("net/layer", "64→64, batch 1", {}, planned, rivals, "int8", cells, skipped or [])


TABLE = made_up(
    {
        (1, 1): {"f32": 6.0, "int8": 1.5},
        (1, 2): {"f32": 3.0, "int8": 0.9},
        (2, 1): {"f32": 4.0, "int8": 1.1},
        (2, 2): {"f32": 1.4, "int8": 0.5},
        (1, 4): {"f32": 0.9, "int8": 0.4},
        (2, 3): {"f32": 1.0, "int8": 0.3},
        (3, 3): {"f32": 0.7, "int8": 0.2},
    },
    skipped=[(4, 4)],
)


def test_the_break_even_number():
    assert (TABLE.last_win("f32").M, TABLE.last_win("f32").N) == (2, 3)  # a ratio of 1 still wins
    assert (TABLE.first_loss("f32").M, TABLE.first_loss("f32").N) == (1, 4)
    assert breakeven_text(TABLE, "f32") == "6 (2,3), but not 4 (1,4)"
    assert breakeven_text(TABLE, "int8") == "2 (2,1)"
    assert breakeven_text(TABLE, "bf16") == "–"
    assert breakeven_text(made_up({(1, 1): {"f32": 2.0}, (2, 3): {"f32": 1.2}}), "f32") == "≥ 6"
    assert breakeven_text(made_up({(1, 1): {"f32": 0.8}}), "f32") == "< 1"
    assert breakeven_text(made_up({}), "f32") == ""


def test_levels_go_up_by_product():
    assert list(levels([(2, 2), (1, 1), (4, 1), (1, 2), (1, 4)])) == [[(1, 1)], [(1, 2)], [(1, 4), (2, 2), (4, 1)]]
    assert len(breakeven.ALL_CELLS) == 64


@pytest.fixture
def without_timing(monkeypatch: pytest.MonkeyPatch):
    """Rivals and cells of made-up speed: against f32 8/(M·N), int8 four times as fast."""

    def rivals(workload, found, *_):
        found.rivals = {"f32": RivalResult("eager", at(8.0), {}), "int8": RivalResult("x", at(2.0), {})}
        found.anchor = "int8"
        return Form("x", lambda: None), {"f32": at(4.0), "int8": at(1.0)}

    def cell(ours, anchor, factors, seconds):
        ratio = 2 / (ours.spec.M * ours.spec.N)
        return Cell(ours.spec.M, ours.spec.N, "xnor", at(1), {k: at(ratio).times(f.median) for k, f in factors.items()})

    monkeypatch.setattr(breakeven, "_race_rivals", rivals)
    monkeypatch.setattr(breakeven, "_measure_cell", cell)
    monkeypatch.setattr(
        breakeven, "_ours", lambda workload, pair, *_: Contestant(Spec(*pair, "xnor", "rows"), lambda: None, 1.0)
    )


def run_map(tick=lambda what: None, keep=lambda found: None) -> ShapeMap:
    shape = LinearShape("l", 1, 8, 8)
    return measure_map(shape, breakeven.ALL_CELLS, ["xnor"], ["f32", "int8"], Pace(0.01, 0.01), tick, keep)


@pytest.mark.usefixtures("without_timing")
def test_it_stops_once_a_whole_level_is_hopeless_against_every_rival():
    found = run_map()
    assert breakeven_text(found, "f32") == "8 (1,8)"
    assert breakeven_text(found, "int8") == "2 (1,2)"
    # 8/(M·N) is below 0.8 from 12 on (no product is 11): that level is measured, the next ones are not
    assert max(cell.products for cell in found.cells) == 12
    assert min(M * N for M, N in found.skipped) == 14
    assert len(found.cells) + len(found.skipped) == 64


@pytest.mark.usefixtures("without_timing")
def test_an_interrupted_map_keeps_its_cells():
    kept: list[ShapeMap] = []

    def tick(what: str) -> None:
        if what == "M=2, N=1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_map(tick, kept.append)
    assert [(cell.M, cell.N) for cell in kept[0].cells] == [(1, 1), (1, 2)]


def test_the_ratio_to_another_rival_goes_through_the_anchor():
    if not library.loaded():
        pytest.skip(f"{library.problem()}")
    shape = LinearShape("l", 4, 64, 32)
    found = measure_map(shape, [(1, 1), (2, 2)], ["xnor"], ["f32", "int8"], Pace(0.02, 0.01), lambda what: None)
    anchor = found.rivals[found.anchor].ms.median
    assert anchor == min(rival.ms.median for rival in found.rivals.values())
    for cell in found.cells:
        for kind, rival in found.rivals.items():
            want = cell.ratios[found.anchor].median * rival.ms.median / anchor
            assert cell.ratios[kind].median == pytest.approx(want)


def report(*maps: ShapeMap) -> Report:
    return Report("python -m abcfx bench breakeven", {}, list(maps))


def test_the_page_has_the_numbers_and_every_cell():
    page = breakeven_page(report(TABLE))
    assert "| net/layer | 64→64, batch 1 | 6 (2,3), but not 4 (1,4) | 2 (2,1) | – |" in page
    assert "Against f32, compiled, 3.00 ms:" in page
    assert "| 2 | 4.00 | 1.40 | 1.00 |  |" in page
    assert "| 4 |  |  |  | · |" in page
    assert "bf16 is left out: eager: absent" in page
    assert "; a note:" in page
    assert "**Incomplete:**" in page
    finished = report(TABLE)
    finished.complete = True
    assert "Incomplete" not in breakeven_page(finished)


def test_a_picture_for_each_rival_that_ran(tmp_path: Path):
    other = made_up({(1, 1): {"f32": 20.0}, (2, 2): {"f32": 0.05}})
    del other.rivals["int8"]
    written = draw_maps([TABLE, other, made_up({})], tmp_path, "a machine")
    assert [path.name for path in written] == ["breakeven-f32.png", "breakeven-int8.png"]
    wide, narrow = (matplotlib.image.imread(path) for path in written)
    assert wide.shape[1] > narrow.shape[1]  # two panels, one panel
    assert len({tuple(pixel) for pixel in wide[::9, ::9].reshape(-1, 4)}) > 10


def test_json_has_everything(tmp_path: Path):
    report(TABLE).save(tmp_path / "deep" / "map.json")
    document = json.loads((tmp_path / "deep" / "map.json").read_text())
    assert document["complete"] is False
    assert {"cpu", "threads", "kernels", "torch", "torch_isa"} <= document["machine"].keys()
    assert document["measurements"][0]["cells"][0]["ratios"]["f32"]["median"] == 6.0
    assert document["measurements"][0]["skipped"] == [[4, 4]]
    assert document["command"] == "python -m abcfx bench breakeven"
