"""explain(): its rows against what the model really does, its numbers against numbers worked out here."""

from __future__ import annotations

import copy
import io
import json
import math
import re

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

import abcfx
from abcfx.cli.front import main
from abcfx.cost import predict, rates_for
from abcfx.explain import Explanation, LayerExplanation
from abcfx.ops import library

pytestmark = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")


def rows(explanation: Explanation) -> dict[str, LayerExplanation]:
    return {layer.name: layer for layer in explanation.layers}


def db(y: Tensor, other: Tensor) -> float:
    y, other = y.double(), other.double()
    return 10 * math.log10(float(y.square().sum() / (y - other).square().sum()))


def test_every_layer_has_a_row_with_its_form(explanation: Explanation, quantized: nn.Module) -> None:
    found = rows(explanation)
    assert {name: layer.runs for name, layer in found.items()} == {
        "stem": "float", "body": "xnor", "down": "xnor", "narrow": "xnor", "hidden": "dense", "shared": "xnor",
        "head": "float",
    }  # fmt: skip
    assert (found["body"].M, found["body"].N, found["body"].products) == (2, 3, 6)
    assert (found["stem"].M, found["stem"].products) == (None, None)
    assert found["shared"].calls == 2
    assert found["down"].output_shape == (2, 128, 8, 8)
    assert "8 channels per group" in found["hidden"].reason
    assert "first layer stays float" in found["stem"].reason
    assert found["stem"].paste == "abcfx.quantize_model(model, M=2, N=3, overrides={'stem': {'M': 2, 'N': 3}})"


def test_sqnr_alone_and_running(explanation: Explanation, quantized: nn.Module, net: nn.Module, images: Tensor) -> None:
    found = rows(explanation)
    with torch.no_grad():
        x = net.norm(net.stem(images)).relu()
        xq = quantized.norm(quantized.stem(images)).relu()
        body, body_alone = net.body(x), quantized.body(x)
        assert found["body"].alone_db == pytest.approx(db(body, body_alone), abs=1e-6)
        y, yq = (x + body).relu(), (xq + quantized.body(xq)).relu()
        assert found["down"].alone_db == pytest.approx(db(net.down(y), quantized.down(y)), abs=1e-6)
        assert found["down"].running_db == pytest.approx(db(net.down(y), quantized.down(yq)), abs=1e-6)
        assert explanation.output_db == pytest.approx(db(net(images), quantized(images)), abs=1e-6)
    assert found["down"].running_db < found["down"].alone_db
    assert found["stem"].alone_db is None
    assert found["stem"].running_db == math.inf


def test_the_shared_layer_adds_up_its_calls(net: nn.Module, images: Tensor) -> None:
    torch.manual_seed(1)
    twin = abcfx.quantize_model(net, 2, 2, include="shared")
    twin = abcfx.calibrate(twin, [images], progress=False)
    found = rows(abcfx.explain(twin, images, measure=False))
    with torch.no_grad():
        x = net.norm(net.stem(images)).relu()
        x = net.narrow(net.down((x + net.body(x)).relu()).relu()).mean((2, 3))
        a = net.hidden(x).relu()
        b = net.shared(a).relu()
        exact = torch.cat([net.shared(a), net.shared(b)])
        assert found["shared"].alone_db == pytest.approx(db(exact, torch.cat([twin.shared(a), twin.shared(b)])))


def test_bits_in_and_out_are_those_of_the_edges_between_layers(explanation: Explanation) -> None:
    edges = {layer.name: (layer.bits_in, layer.bits_out) for layer in explanation.layers}
    assert edges["stem"] == (32, 32)
    assert edges["body"] == (32, 3)
    assert edges["down"] == (3, 3)
    assert edges["narrow"] == (3, 32)
    assert edges["hidden"] == (32, 32)


def test_predictions_are_those_of_the_cost_model(explanation: Explanation, quantized: nn.Module) -> None:
    from abcfx.ops.workload import Workload

    geometry = ((2, 2), (1, 1), (1, 1), False, (0, 0), 1)
    work = Workload.convolution((128, 64, 3, 3), torch.float32, (2, 64, 16, 16), geometry, compiled=True)
    rates = rates_for(library.kernel_variant("bgemm"), library.kernel_variant("lut"))
    want = predict(work.dims(quantized.down.plan, torch.get_num_threads()), rates)
    down = rows(explanation)["down"]
    assert down.predicted_ms == want["xnor"]
    assert down.predicted_float_ms == want["float"]
    assert down.speedup == want["float"] / want["xnor"]


def test_measured_times_add_up(quantized: nn.Module, images: Tensor) -> None:
    explanation = abcfx.explain(quantized, images)
    for layer in explanation.layers:
        assert layer.float_ms > 0
        if layer.runs == "xnor":
            assert layer.product_ms > 0, layer.name
            assert layer.measured_ms == layer.product_ms + (layer.pack_ms or 0) + (layer.rest_ms or 0)
        elif layer.runs == "float":
            assert layer.measured_ms == layer.float_ms
        else:
            assert layer.measured_ms > 0
            assert layer.pack_ms is None
    assert explanation.total("float_ms") == sum(layer.float_ms for layer in explanation.layers)
    assert explanation.measured
    found = rows(explanation)
    assert found["body"].pack_ms > 0
    assert found["down"].pack_ms is None  # it reads the planes that body writes


def test_nothing_is_left_changed(quantized: nn.Module, images: Tensor) -> None:
    quantized.train()
    quantized.norm.eval()
    before = copy.deepcopy(quantized.state_dict())
    abcfx.explain(quantized, images, measure=False)
    assert quantized.training
    assert not quantized.norm.training
    quantized.eval()
    assert all(torch.equal(before[name], value) for name, value in quantized.state_dict().items())
    assert not any(module._forward_hooks for module in quantized.modules())


def test_the_lines_to_paste_do_what_they_say(net: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is run as it stands; the layer then runs in another form."""
    monkeypatch.delenv("ABCFX_FORM")
    model = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 512), nn.Linear(512, 512), nn.Linear(512, 10)).eval()
    x = torch.randn(128, 256)
    q = abcfx.calibrate(abcfx.quantize_model(model, M=8, N=8, basis="abc", exclude=["1"]), [x], progress=False)
    found = rows(abcfx.explain(q, x, measure=False))
    assert (found["2"].runs, found["1"].runs, found["0"].runs) == ("dense", "float", "float")
    for name, layer in found.items():
        if layer.paste is None or "[...]" in layer.paste:
            continue
        changed = eval(layer.paste, {"abcfx": abcfx, "model": model})  # the line, as a user would paste it
        changed = abcfx.calibrate(changed, [x], progress=False)
        assert rows(abcfx.explain(changed, x, measure=False))[name].runs != layer.runs, layer.paste
    assert "without '1'" in found["1"].paste
    assert "overrides={'2':" in found["2"].paste


def test_a_float_model(net: nn.Module, images: Tensor) -> None:
    explanation = abcfx.explain(net, images, measure=False)
    assert {layer.runs for layer in explanation.layers} == {"float"}
    assert explanation.output_db == math.inf
    assert rows(explanation)["body"].paste == "abcfx.quantize_model(model, M=2, N=2)"


def test_functional_layers_and_keyword_inputs() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(64, 64) / 8)
            self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.last(F.linear(self.first(x).relu(), self.matrix).relu() * scale)

    x, scale = torch.randn(5, 64), torch.tensor(2.0)
    model = abcfx.quantize_model(Functional().eval(), 2, 2, first_last_float=False)
    with abcfx.calibration(model):
        model(x, scale)
    explanation = abcfx.explain(model, x, scale=scale)
    matrix = rows(explanation)["matrix"]
    assert matrix.runs == "xnor"
    assert matrix.product_ms > 0
    assert matrix.alone_db > 3


def test_half_precision_has_sixteen_bits(images: Tensor) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 8)).eval().bfloat16()
    x = torch.randn(8, 64).bfloat16()
    q = abcfx.calibrate(abcfx.quantize_model(model), [x], progress=False)
    found = rows(abcfx.explain(q, x, measure=False))["1"]
    assert (found.bits_in, found.bits_out) == (16, 16)


def test_errors(quantized: nn.Module, net: nn.Module, images: Tensor) -> None:
    with pytest.raises(TypeError, match="explain takes an nn.Module, got str"):
        abcfx.explain("resnet18", images)
    with pytest.raises(TypeError, match="needs inputs"):
        abcfx.explain(quantized)
    with pytest.raises(abcfx.NotCalibratedError, match="body: activation levels are not fitted"):
        abcfx.explain(abcfx.quantize_model(net), images)


def test_a_model_that_cannot_be_captured_says_so(images: Tensor) -> None:
    class Untraceable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64))

        def forward(self, x: Tensor) -> Tensor:
            y = self.layers(x)
            torch._dynamo.graph_break()
            return self.layers(y)

    x = torch.randn(4, 64)
    q = abcfx.calibrate(abcfx.quantize_model(Untraceable().eval()), [x], progress=False)
    explanation = abcfx.explain(q, x)
    assert len(explanation.before) == len(explanation.after) == 2  # a part on either side of the break
    assert rows(explanation)["layers.1"].product_ms > 0


@pytest.mark.parametrize("width", [80, 100, 150])
def test_the_table_fits_its_width(explanation: Explanation, width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(explanation)
    text = console.export_text()
    assert all(len(line) <= width for line in text.splitlines())
    for layer in explanation.layers:
        assert re.search(rf"^ ?{layer.name}", text, re.MULTILINE), layer.name
    assert "2×3" in text
    assert "5 of 7 layers quantized" in text


def test_json_and_the_command(tmp_path, capsys: pytest.CaptureFixture) -> None:
    page = tmp_path / "page.html"
    assert main(["explain", "demo", "--no-measure", "--json", "--html", str(page), "--M", "1", "--N", "2"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {"layers", "totals", "slower_than_float"} <= document.keys()
    assert any(layer["M"] == 1 and layer["N"] == 2 and layer["alone_db"] > 0 for layer in document["layers"])
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_faster_plan_drops_the_layers_that_are_slower(explanation: Explanation, quantized: nn.Module) -> None:
    plan = abcfx.plan_of(quantized)
    slow = set(explanation.slower_than_float)
    assert 0 < len(slow) < len(plan.layers)
    faster = explanation.faster_plan(plan)
    assert faster.layers.keys() == plan.layers.keys() - slow
    for name in slow:
        assert faster.reasons[name].startswith(f"predicted {rows(explanation)[name].speedup:.2f} times as fast")
    assert not explanation.faster_plan(plan, 1e9).layers
    assert explanation.faster_plan(plan, 0) == plan


def test_min_speedup_of_the_command(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABCFX_FORM")
    assert main(["explain", "demo", "--no-measure", "--json", "--min-speedup", "1", "--M", "8", "--N", "8"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["slower_than_float"] == []
    kept = [layer for layer in document["layers"] if "min_speedup=1 is asked" in layer["reason"]]
    assert kept
    assert {layer["runs"] for layer in kept} == {"float"}


def test_the_command_refuses_what_it_cannot_use(capsys: pytest.CaptureFixture, tmp_path) -> None:
    assert main(["explain", "demo", "--input", "1,7,28,28", "--no-measure"]) == 2
    assert "give its input with --input" in capsys.readouterr().err
    assert main(["explain", "demo", "--no-measure", "--html", str(tmp_path / "none" / "x.html")]) == 2
    assert "--html" in capsys.readouterr().err
