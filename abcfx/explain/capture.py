"""The graphs of a model before and after abcfx's stages, with the tensors that fill them: what Dynamo hands over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.fx import GraphModule

from abcfx.explain.sqnr import evaluating
from abcfx.graph import clone
from abcfx.options import Options
from abcfx.passes.lower import Lowered

if TYPE_CHECKING:
    from abcfx.backend import Runner

MANY = 1 << 16  # graphs of one piece of code: each capture adds some, and Dynamo gives up beyond a few


@dataclass
class Captured:
    """before   as Dynamo captured it: layers are float ops, or abc:: ops of quantize_model
    after    after the last stage that is abcfx's     lowered   what became of each layer
    inputs   what `after` takes: live parameters, the inputs of the model, levels, packed weights
    """

    before: GraphModule
    after: GraphModule
    lowered: Lowered
    inputs: list[Any]


def capture(
    model: nn.Module, args: tuple, kwargs: Mapping[str, Any], options: Options | None = None
) -> tuple[list[Captured], str | None]:
    """Run the model once through the stages, without inductor → its graphs, one for each part between graph breaks.

    The second value says, in one sentence, why there is none: Dynamo cannot capture every model.
    """
    from abcfx.backend import transform  # it imports inductor, which takes seconds

    found: list[Captured] = []
    wanted = options or Options()

    def backend(gm: GraphModule, example_inputs: Sequence[Any]) -> Any:
        before = clone(gm)
        pipeline, runner = transform(gm, example_inputs, wanted)
        return _Recorder(before, pipeline.gm, runner, found)

    limits = {"recompile_limit": MANY, "accumulated_recompile_limit": MANY}
    with evaluating(model), torch.no_grad(), torch._dynamo.config.patch(**limits):
        try:
            torch.compile(model, backend=backend, dynamic=False)(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            return [], f"the graph cannot be captured: {str(error).strip().splitlines()[0]}"
    return found, None


class _Recorder:
    """Runs the transformed graph as it is, and keeps what it was given."""

    def __init__(self, before: GraphModule, after: GraphModule, runner: Runner, found: list[Captured]) -> None:
        self.before, self.after, self.runner, self.found = before, after, runner, found
        runner.compiled = after

    def __call__(self, *args: Any) -> Any:
        result = self.runner(*args)
        inputs = self.runner.all_inputs(args)
        self.found.append(Captured(self.before, self.after, self.runner.lowered, inputs))
        return result
