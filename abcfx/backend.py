"""torch.compile(model, backend="abc"): run the stages of pipeline.py on Dynamo's graph, hand the rest to inductor.

Quantized layers (quantize_model) are lowered to packed kernels. Float layers of a float model are quantized too if the
options give M and N. A graph that needs gradients keeps the differentiable abc:: ops; AOTAutograd makes its backward.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._dynamo.backends.debugging import aot_eager
from torch._inductor import config as inductor
from torch._inductor import list_mode_options
from torch._inductor.compile_fx import compile_fx

from abcfx.debug import Settings, log
from abcfx.graph import AbcConvView, AbcLinearView, attribute, value, view, with_bodies
from abcfx.levels import ObservedGraph, SiteLevels, levels_of, was_trained
from abcfx.ops.choose import tuning
from abcfx.ops.weight_cache import Snapshot
from abcfx.options import Options
from abcfx.passes.hoist import Prologue
from abcfx.passes.lower import Lowered, WeightInput
from abcfx.passes.never_slower import never_slower
from abcfx.passes.plan_layers import plan_layers
from abcfx.passes.save_bits import SaveBits
from abcfx.passes.save_masks import SaveMasks
from abcfx.pipeline import Pipeline, open_graph


def abc(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """The backend that Dynamo calls: a captured graph in, a callable out. Options: abcfx/options.py.

    `mode` ("max-autotune" ...) goes to inductor. Raises ValueError for bad options, naming what is accepted.
    """
    wanted = Options.parse(options)
    pipeline, runner = transform(gm, example_inputs, wanted)
    if wanted.config is None and not _is_quantized(gm):
        warnings.warn(
            "backend 'abc' found no quantized layer in this graph and compiles it as it is; make them with "
            "abcfx.quantize_model, or pass options={'M': 2, 'N': 2}",
            stacklevel=2,
        )
    training = _needs_gradients(example_inputs)
    # New inputs go on as fake tensors of Dynamo's own mode: real ones would get symbolic shapes without a source.
    new = [value(node) for node in pipeline.gm.graph.find_nodes(op="placeholder")[len(example_inputs) :]]
    inputs = [*example_inputs, *new]
    if not training:
        runner.read = _drop_unread(pipeline.gm)
        inputs = [inputs[place] for place in runner.read]
        if wanted.then == "inductor" and not inductor.cpp_wrapper:  # which crashes on a list of one tensor
            pipeline.chain()
    runner.compiled = _hand_over(pipeline.gm, inputs, wanted, mode, training)
    return runner


def transform(gm: fx.GraphModule, example_inputs: Sequence[Any], wanted: Options) -> tuple[Pipeline, Runner]:
    """All of abcfx's own stages on a captured graph, and what fills the inputs that they added. The rest is torch's."""
    pipeline = open_graph(gm, _constant_inputs(gm, example_inputs))
    runner = Runner()
    training = _needs_gradients(example_inputs)
    with tuning(wanted.autotune):
        if wanted.config is not None and not _is_quantized(pipeline.gm):
            _quantize_float_layers(pipeline, wanted, example_inputs, runner)
        if training:
            if wanted.simulate:
                pipeline.simulate()
            pipeline.adjoint()
        else:
            _lower(pipeline, runner)
            if wanted.fuse:
                pipeline.fuse()
            if wanted.float_layers == "bf16":
                pipeline.narrow()
            _hoist(pipeline, runner)
    pipeline.report()
    return pipeline, runner


class Runner:
    """Calls the compiled graph with what its new inputs stand for: levels, and packed weights of live Parameters."""

    def __init__(self) -> None:
        self.compiled: Callable[..., Any] | None = None
        self.levels: list[SiteLevels] = []
        self.weights: list[tuple[int | Tensor, WeightInput]] = []
        self.observed: ObservedGraph | None = None
        self.calibration_batches = 0
        self.packed = Kept()
        self.lowered = Lowered()
        self.folded = Folded()
        self.read: list[int] | None = None  # places of the inputs that the compiled graph takes; None: all

    def __call__(self, *args: Any) -> Any:
        if self.observed is not None and any(s.batches < self.calibration_batches for s in self.levels):
            self.observed.run(args)
        inputs = self.all_inputs(args)
        return self.compiled(*(inputs if self.read is None else [inputs[place] for place in self.read]))

    def all_inputs(self, args: Sequence[Any]) -> list[Any]:
        """What the transformed graph takes where the captured one took `args`."""
        inputs = [*args, *self.level_tensors(), *self.weight_tensors(args)]
        return [*inputs, *self.folded.tensors(inputs)]

    def level_tensors(self) -> list[Tensor]:
        return [tensor for site in self.levels for tensor in (site.scale, site.shift)]

    def weight_tensors(self, args: Sequence[Any]) -> list[Tensor]:
        """What is made of each weight: as last time if all are the same tensors, unchanged; else looked up anew."""
        live = [args[source] if isinstance(source, int) else source for source, _ in self.weights]
        return self.packed.tensors(live, self._pack)

    def _pack(self, live: Sequence[Tensor]) -> list[Tensor]:
        return [t for (_, made), weight in zip(self.weights, live, strict=True) for t in made.tensors(weight)]


class Kept:
    """Tensors made of live ones, until one of these is another tensor or has changed."""

    def __init__(self) -> None:
        self.last: tuple[Snapshot, list[Tensor]] | None = None

    def tensors(self, live: Sequence[Tensor], make: Callable[[Sequence[Tensor]], list[Tensor]]) -> list[Tensor]:
        last = self.last
        if last is not None and last[0].holds(live):
            return last[1]
        snapshot, made = Snapshot(live), make(live)
        self.last = snapshot, made  # one assignment: other threads see both or neither
        return made


class Folded:
    """What a prologue makes of constants, kept until one of them changes."""

    def __init__(self, prologue: Prologue | None = None, position: Mapping[str, int] | None = None) -> None:
        self.prologue = prologue
        self.sources = [position[s] if isinstance(s, str) else s for s in prologue.sources] if prologue else []
        self.kept = Kept()

    def tensors(self, inputs: Sequence[Any]) -> list[Tensor]:
        if self.prologue is None:
            return []
        live = [inputs[source] if isinstance(source, int) else source for source in self.sources]
        return self.kept.tensors(live, self.prologue.tensors)


def _constant_inputs(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[[fx.Node], bool]:
    """Which placeholders are parameters or buffers: Dynamo marks them static. By name, since the graph gets copied."""
    constant = {
        node.name
        for node, value in zip(gm.graph.find_nodes(op="placeholder"), example_inputs, strict=True)
        if isinstance(value, Tensor) and "_dynamo_static_input_type" in (node.meta.get("tensor_dict") or {})
    }
    return lambda node: node.name in constant


def _drop_unread(gm: fx.GraphModule) -> list[int]:
    """Erase the inputs that nothing reads any more, as float weights and folded batch norms; the places of the others.

    Every input costs time in every call. One whose shape has symbols stays: it may be what defines them.
    """
    read = []
    for place, node in enumerate(gm.graph.find_nodes(op="placeholder")):
        tensor = value(node)
        if node.users or not isinstance(tensor, Tensor) or not all(isinstance(size, int) for size in tensor.shape):
            read.append(place)
        else:
            gm.graph.erase_node(node)
    gm.recompile()
    return read


def _is_quantized(gm: fx.GraphModule) -> bool:
    return any(
        isinstance(view(node), (AbcLinearView, AbcConvView)) for part in with_bodies(gm) for node in part.graph.nodes
    )


def _needs_gradients(example_inputs: Sequence[Any]) -> bool:
    return torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in example_inputs)


def _quantize_float_layers(pipeline: Pipeline, wanted: Options, example_inputs: Sequence[Any], runner: Runner) -> None:
    """canonicalize, match, plan, rewrite. Levels hang on the live weights, so that a recompile finds them again."""
    pipeline.canonicalize()
    sites = pipeline.match()
    plan = plan_layers([s.site for s in sites], wanted.config)
    live = dict(zip((n.name for n in pipeline.gm.graph.find_nodes(op="placeholder")), example_inputs, strict=True))
    uses: dict[int, int] = {}
    keys: dict[str, tuple[Tensor, int]] = {}
    for site in sites:
        if site.site.name in plan.layers:
            base = site.weight_base(pipeline.gm)
            weight = live[base.name] if base.op == "placeholder" else attribute(pipeline.gm, str(base.target))
            use = uses[id(weight)] = uses.get(id(weight), -1) + 1
            keys[site.site.name] = weight, use
    training = _needs_gradients(example_inputs)
    if not training:
        trained = [name for name, key in keys.items() if was_trained(*key, plan.layers[name])]
        plan = never_slower(sites, plan, wanted.min_speedup, trained)
    for name, reason in plan.reasons.items():
        log(1, f"{name}: float, {reason}")
    found = {name: levels_of(*keys[name], name, layer_plan) for name, layer_plan in plan.layers.items()}
    for name, levels in found.items():
        levels.trained |= training
        log(1, f"{name}: quantized, {plan.layers[name]}")
    if not found:
        warnings.warn(f"backend 'abc' quantized no layer of this graph: {dict(plan.reasons)}", stacklevel=3)
        return
    runner.observed = ObservedGraph(pipeline.gm, found)
    runner.calibration_batches = wanted.calibration_batches
    added = pipeline.rewrite(sites, plan, lambda site: (found[site.name].scale, found[site.name].shift))
    runner.levels = [found[pair.name] for pair in added]


def _lower(pipeline: Pipeline, runner: Runner) -> None:
    """abc ops become kernels; the runner learns what to make of each live weight."""
    position = {n.name: i for i, n in enumerate(pipeline.gm.graph.find_nodes(op="placeholder"))}
    lowered = runner.lowered = pipeline.lower()
    for name in [*lowered.reasons, *lowered.kernels]:
        log(1, f"{name}: {lowered.choices.get(name) or f'dense, {lowered.reasons[name]}'}")
    for made in lowered.inputs:
        base = made.view.base
        source = position[base.name] if base.op == "placeholder" else attribute(pipeline.gm, str(base.target))
        runner.weights.append((source, made))


def _hoist(pipeline: Pipeline, runner: Runner) -> None:
    """The runner learns what to make of constants."""
    prologue = pipeline.hoist()
    position = {n.name: i for i, n in enumerate(pipeline.gm.graph.find_nodes(op="placeholder"))}
    runner.folded = Folded(prologue, position)


def _hand_over(
    gm: fx.GraphModule, inputs: list[Any], wanted: Options, mode: str | None, training: bool
) -> Callable[..., Any]:
    """The rest is torch's; AOTAutograd makes the backward of a training graph from the rows of passes/adjoint.py."""
    if wanted.then == "eager":
        return gm
    if wanted.then == "aot_eager":
        return aot_eager(gm, inputs)
    patches: dict[str, Any] = dict(list_mode_options(mode)) if mode else {}
    # guards have seen the user's tensors, and the shapes of the kernels' results are what tests check
    patches["size_asserts"] = Settings.now().verify
    if training:
        patches["custom_partitioner_fn"] = SaveMasks()
        if wanted.recompute:
            patches["joint_custom_pre_pass"] = SaveBits()
    return compile_fx(gm, inputs, config_patches=patches)
