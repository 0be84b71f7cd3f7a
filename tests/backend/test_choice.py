"""Compiled models whose layers take different forms, chosen freely: right, without recompiling for a new batch."""

from __future__ import annotations

import pytest
import torch
from oracle import relative_error
from torch import Tensor, nn

import abcfx
from abcfx import backend
from abcfx.ops import library

pytestmark = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")


@pytest.fixture(autouse=True)
def _free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABCFX_FORM")


class Mixed(nn.Module):
    """A layer that pays on bit planes, one that never does, and one beyond its break-even."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(1024, 1024)
        self.narrow = nn.Linear(1024, 8)
        self.many = nn.Linear(1024, 1024)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(x).relu()
        return self.narrow(x).sum() + self.many(x)


def quantized(x: Tensor) -> nn.Module:
    rules = {"wide": {"M": 1, "N": 2}, "many": {"M": 8, "N": 8}}
    model = abcfx.quantize_model(Mixed(), basis="abc", overrides=rules, first_last_float=False)
    return abcfx.calibrate(model, [x], progress=False)


@pytest.mark.parametrize("then", ["eager", "inductor"])
def test_forms_may_differ_in_one_model(then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered = []
    original = backend.Pipeline.lower
    monkeypatch.setattr(backend.Pipeline, "lower", lambda self: lowered.append(original(self)) or lowered[-1])
    x = torch.randn(256, 1024)
    q = quantized(x)
    compiled = torch.compile(q, backend="abc", fullgraph=True, options={"then": then})
    with torch.no_grad():
        got, want = compiled(x), q(x)
    choices = lowered[0].choices
    assert choices["wide"].form != "dense", choices["wide"].reason
    assert choices["many"].form == "dense", choices["many"].reason
    assert "beyond the break-even" in lowered[0].reasons["many"]
    # where eager and compiled take different forms, an activation within rounding of a threshold flips by one level
    assert relative_error(got, want) <= 5e-3


@torch._dynamo.config.patch(error_on_recompile=True)
def test_the_choice_puts_no_guard_on_a_dynamic_batch() -> None:
    q = quantized(torch.randn(64, 1024))
    compiled = torch.compile(q, backend="abc", fullgraph=True, dynamic=True, options={"then": "eager"})
    with torch.no_grad():
        for batch in (64, 3, 700):
            x = torch.randn(batch, 1024)
            assert relative_error(compiled(x), q(x)) <= 5e-3
