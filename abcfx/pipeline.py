"""The compiler's table of contents: the stages in order, what each level promises, and nothing decided elsewhere.

    capture ── canonicalize ──► ATEN ── match ──► sites ── (plan) ── rewrite ──► ABC ── lower ──► KERNEL ── fuse ──►
    KERNEL, bits from layer to layer ── (narrow) ── chain ──► inductor

`open_graph` makes a Pipeline of a captured graph; its methods are the stages. A training graph ends at ABC, or on
request in dense ops on quantized values (simulate); AOTAutograd makes its backward graph of the rows of
passes/adjoint.py. An inference graph goes on to KERNEL.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor
from torch.fx import GraphModule, Node

from abcfx.debug import Settings, dump, log, skips
from abcfx.graph import clone, text, value, with_bodies
from abcfx.ops import library
from abcfx.passes import spec
from abcfx.passes._constants import mark_constants
from abcfx.passes._rule import Report, add_reason, apply_rules
from abcfx.passes.adjoint import require_adjoints
from abcfx.passes.canonicalize import CANONICALIZE, name_overloads
from abcfx.passes.chain_kernels import chain_kernels
from abcfx.passes.emit_bits import packs_of
from abcfx.passes.fuse import fuse
from abcfx.passes.hoist import Prologue, hoist_constants
from abcfx.passes.lower import Lowered, lower
from abcfx.passes.match_layers import GraphSite, match_layers
from abcfx.passes.narrow_floats import narrow_floats
from abcfx.passes.rewrite_abc import LevelInputs, rewrite_abc
from abcfx.passes.simulate import simulate
from abcfx.plan import LayerSite, Plan

T = TypeVar("T")


@dataclass
class Pipeline:
    """A graph on its way down, and what happened to it: `ran` stages, and nodes that rules `declined`, with reasons.

    ms   milliseconds of each stage, without dumps and checks
    """

    gm: GraphModule
    ran: list[str] = field(default_factory=list)
    ms: dict[str, float] = field(default_factory=dict)
    declined: dict[str, str] = field(default_factory=dict)

    def canonicalize(self) -> Report:
        """One spelling per layer."""
        return self._stage("canonicalize", lambda: apply_rules(self.gm, CANONICALIZE), spec.ATEN)

    def match(self) -> list[GraphSite]:
        """Every layer, with a reason for each one that must stay float."""
        return match_layers(self.gm)

    def rewrite(
        self, sites: list[GraphSite], plan: Plan, levels: Callable[[LayerSite], tuple[Tensor, Tensor]]
    ) -> list[LevelInputs]:
        """Planned layers become abc ops; returns the new graph inputs, the last ones, two per layer."""
        added, _report = self._stage("rewrite", lambda: rewrite_abc(self.gm, sites, plan, levels), spec.ABC)
        return added

    def simulate(self) -> None:
        """Training, if asked for: abc ops become dense ones on quantized values, with the same derivatives."""
        if not self._stopped():
            self._stage("simulate", lambda: simulate(self.gm), spec.ABC)

    def adjoint(self) -> None:
        """Training only: every abc op has a row of adjoints, from which AOTAutograd makes the backward graph."""
        if not self._stopped():
            self._stage("adjoint", lambda: require_adjoints(self.gm), spec.ABC)

    def lower(self) -> Lowered:
        """Inference only: abc ops become kernels, or dense ops with a reason; its `inputs` are the new graph inputs."""
        if self._stopped():
            return Lowered()
        return self._stage("lower", lambda: lower(self.gm), spec.KERNEL)

    def fuse(self) -> None:
        """Inference only: what stands between kernels moves into them."""
        if self._stopped() or skips("fuse"):
            return
        before = packs_of(self.gm)
        self._stage("fuse", lambda: fuse(self.gm), spec.KERNEL)
        log(1, f"fuse: {before} packs before, {packs_of(self.gm)} after; the others are made by the layer before")

    def narrow(self) -> None:
        """Inference, if asked for: layers that stayed in float multiply in bfloat16."""
        if not self._stopped():
            self._stage("narrow", lambda: narrow_floats(self.gm), spec.KERNEL)

    def hoist(self) -> Prologue | None:
        """Inference only, after `fuse` and `narrow`: what to make of constants first."""
        return hoist_constants(self.gm)

    def chain(self) -> None:
        """Inference only: kernels in a row become one op. The last stage, as no pass looks into a chain."""
        if not (self._stopped() or skips("chain")):
            chained = self._stage("chain", lambda: chain_kernels(self.gm), spec.KERNEL)
            log(1, f"chain: {chained} kernels run in chains")

    def report(self) -> None:
        """Level 2: the time of all stages; level 5: what runs, on values of which layout."""
        times = ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in self.ms.items())
        log(2, f"in all {sum(self.ms.values()):.1f} ms{': ' if times else ''}{times}")
        if Settings.now().debug >= 5:
            variants = ", ".join(f"{op} {library.kernel_variant(op)}" for op in library.LISTS)
            log(5, f"kernel variants: {variants}")
            for node in self.gm.graph.nodes:
                if getattr(node.target, "namespace", "") == "abc_k":
                    reads = ", ".join(layout(n) for n in node.all_input_nodes)
                    log(5, f"{node.name}: {node.target} reads {reads}; writes {layout(node)}")

    def _stopped(self) -> bool:
        return bool(self.ran) and self.ran[-1] == Settings.now().stop_after

    def _stage(self, name: str, run: Callable[[], T], then: Mapping[object, spec.Check]) -> T:
        self._dump(f"before_{name}")
        start = time.perf_counter()
        result = run()
        self.ms[name] = 1e3 * (time.perf_counter() - start)
        self.ran.append(name)
        if isinstance(result, Report):
            for node, reason in result.declined.items():
                add_reason(self.declined, node, reason)
        self._dump(f"after_{name}")
        report = result if isinstance(result, Report) else getattr(result, "report", None)
        log(2, f"{name}: {report or ''}{'; ' if report else ''}{self.ms[name]:.1f} ms in the stage")
        if Settings.now().verify:
            spec.verify(self.gm, then, self.ran, self.declined)
        return result

    def _dump(self, name: str) -> None:
        if Settings.now().debug >= 3:
            dump(name, "\n\n".join(text(gm) for gm in with_bodies(self.gm)))


def layout(node: Node) -> str:
    """`f32[2, 64, 8, 8] strides 4096, 1, 512, 64` of a tensor; of each one if there are several."""
    found = value(node)
    tensors = found if isinstance(found, (tuple, list)) else [found]
    return " and ".join(
        f"{str(t.dtype).split('.')[-1]}{list(t.shape)} strides {', '.join(map(str, t.stride()))}"
        for t in tensors
        if isinstance(t, Tensor)
    )


def open_graph(gm: GraphModule, is_constant: Callable[[Node], bool]) -> Pipeline:
    """Start on a copy of a captured graph; `is_constant` says which of its placeholders are parameters or buffers."""
    copied = clone(gm)
    name_overloads(copied)
    mark_constants(copied, is_constant)
    return Pipeline(copied)
