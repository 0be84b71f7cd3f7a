"""Rules and their driver.

A Rule is small and stateless: `root` (the last node of its pattern), `match` (bind what the pattern names, or
`decline(reason)`), `rewrite` (build the replacement from those bindings). Its docstring is a theorem with examples,
`Before::`, `After::` and `Declines::`, that tests/test_examples.py runs. Everything else is the driver's business.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from abcfx.passes._glue import glue
from torch import Tensor
from torch.fx import GraphModule, Node

from abcfx import debug
from abcfx.graph import VALUE_KEYS, Builder, same_value, value, with_bodies

MAX_SWEEPS = 20


class Declined(Exception):
    """A rule does not apply to a node; the text says why."""


def decline(reason: str) -> NoReturn:
    """The only way for a rule to say no."""
    raise Declined(reason)


class Rule:
    """root      call_function targets, and names of Tensor methods, that the last node of the pattern may have
    rounding  by how much values may move, relative and absolute, where operands are about 1
    """

    root: tuple[Callable[..., Any] | str, ...] = ()
    rounding: float = 1e-5

    def match(self, node: Node) -> tuple:
        """What `rewrite` needs of the pattern that ends in `node`; declines if it is another one."""
        raise NotImplementedError

    def rewrite(self, b: Builder, *bound: Any) -> Node:
        """Build the replacement of the root with `b` and return it."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        return type(self).__name__


def add_reason(declined: dict[str, str], node: str, reason: str) -> None:
    """Why `node` was left alone, beside what others said of it."""
    first = declined.get(node, "")
    if reason not in first:
        declined[node] = f"{first}; {reason}" if first else reason


@dataclass
class Report:
    """applied: how often each rule was; declined: reason by node name; ms: time taken."""

    applied: Counter[str] = field(default_factory=Counter)
    declined: dict[str, str] = field(default_factory=dict)
    ms: float = 0.0

    def add(self, other: Report) -> None:
        """Count what a later run did."""
        self.applied.update(other.applied)
        for node, reason in other.declined.items():
            self.left(node, reason)
        self.ms += other.ms

    def left(self, node: str, reason: str) -> None:
        """A node was left alone; if others did so before, it has several reasons."""
        add_reason(self.declined, node, reason)

    def __str__(self) -> str:
        rules = ", ".join(f"{rule} x{count}" for rule, count in sorted(self.applied.items())) or "nothing"
        return f"{rules}; {len(self.declined)} declined; {self.ms:.1f} ms"


def apply_rules(gm: GraphModule, rules: Iterable[Rule], only: Callable[[Node], bool] | None = None) -> Report:
    """Apply rules until none does, in the graph and in its checkpoint bodies; `only` limits the roots tried.

    A replacement with another shape, dtype or device than the root is refused and reported as declined.
    """
    report, start = Report(), time.perf_counter()
    rules = tuple(rule for rule in rules if not debug.skips(rule.name))
    for graph_module in with_bodies(gm):
        for _ in range(MAX_SWEEPS):
            if not any([_sweep(graph_module, rule, only, report) for rule in rules]):
                break
        else:
            raise RuntimeError(f"rules {[rule.name for rule in rules]} still apply after {MAX_SWEEPS} sweeps")
        graph_module.graph.lint()
        graph_module.recompile()
    report.ms = (time.perf_counter() - start) * 1e3
    return report


def _sweep(gm: GraphModule, rule: Rule, only: Callable[[Node], bool] | None, report: Report) -> bool:
    changed = False
    for node in list(gm.graph.nodes):
        if node.op not in ("call_function", "call_method") or node.target not in rule.root:
            continue
        if (only is not None and not only(node)) or any(map(_is_of_a_transform, (node, *node.all_input_nodes))):
            continue
        changed |= _apply(rule, node, report)
    return changed


def _is_of_a_transform(node: Node) -> bool:
    """A value inside torch.func.vmap: there is no computing on it here, outside."""
    found = value(node)
    return isinstance(found, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(found)


def _apply(rule: Rule, node: Node, report: Report) -> bool:
    builder = Builder(node, rule.name)
    try:
        new = rule.rewrite(builder, *rule.match(node))
    except Declined as declined:
        builder.undo()
        report.declined[node.name] = str(declined)
        return False
    if difference := same_value(value(node), value(new)):
        builder.undo()
        report.declined[node.name] = f"{rule.name} was refused: {difference}"
        return False
    for user in list(node.users):
        user.meta.pop("eager_input_vals", None)  # recorded for the arguments it had before
    if debug.Settings.now().debug >= 4:
        debug.log(4, f"{rule.name}: {node.name} ({node.target}) is now {describe(new, builder.created)}")
    node.replace_all_uses_with(new)
    if not new.meta.keys() & set(VALUE_KEYS):
        new.meta.update({k: node.meta[k] for k in VALUE_KEYS if k in node.meta})
    erase_pattern(node)
    report.declined.pop(node.name, None)
    report.applied[rule.name] += 1
    return True


def describe(new: Node, created: Iterable[Node]) -> str:
    """The nodes that stand where one stood, in order: `pack_rows(x) -> linear`."""
    names = [node.name for node in created]
    return " -> ".join(names) if new.name in names else " -> ".join([*names, f"{new.name} (as it was)"])


def erase_pattern(root: Node) -> None:
    """Erase a replaced node, then what only it used. Nodes that had no users before stay: they may write in place."""
    operands = root.all_input_nodes
    root.graph.erase_node(root)
    for node in operands:
        erasable = node.op in ("call_function", "call_method", "get_attr") and (not _writes(node) or glue(node))
        if not node.users and erasable:  # glue that writes in place: nobody else sees what it writes (passes/_glue.py)
            erase_pattern(node)


def _writes(node: Node) -> bool:
    in_place = node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__")
    return in_place or bool(node.kwargs.get("inplace")) or "out" in node.kwargs or node.is_impure()
