"""Places for the boxes of a drawing: rows by the longest path from an input, columns that keep chains straight.

A line that skips rows goes through one empty place in each row between, shared by all lines of the same source, so that
no line crosses a box. Time and lines are linear in boxes and skipped rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import networkx as nx

from abcfx.explain.drawing import Drawing

Place = tuple[int, int]  # row, column


@dataclass(frozen=True)
class Layout:
    """places: box id → place.  paths: (source, target) → the places that the line goes through, both ends included."""

    places: Mapping[str, Place]
    paths: Mapping[tuple[str, str], tuple[Place, ...]]
    rows: int
    columns: int


def lay_out(drawing: Drawing) -> Layout:
    graph = nx.DiGraph()
    graph.add_nodes_from(box.id for box in drawing.boxes)
    graph.add_edges_from((line.source, line.target) for line in drawing.lines)
    row = {node: i for i, generation in enumerate(nx.topological_generations(graph)) for node in generation}
    last = {n: max((row[s] for s in graph.successors(n)), default=row[n]) for n in graph}
    rows: list[list[str]] = [[] for _ in range(max(row.values(), default=-1) + 1)]
    for node in graph:  # drawing order: an input of the model comes before what is made of it
        rows[row[node]].append(node)
    column: dict[Place | str, int] = {}  # of boxes by id; of empty places by (row, source's number)
    number = {node: i for i, node in enumerate(graph)}
    for r, here in enumerate(rows):
        passing = [n for n in graph if row[n] < r < last[n]]
        taken: set[int] = set()
        for node in here:
            above = [column[n] for n in sorted(graph.predecessors(node), key=lambda n: -row[n])]
            column[node] = _free(above[0] if above else 0, taken)
        for node in passing:
            before = column[node] if row[node] == r - 1 else column[(r - 1, number[node])]
            column[(r, number[node])] = _free(before, taken)
    places = {node: (row[node], column[node]) for node in graph}
    paths = {
        (a, b): (places[a], *((r, column[(r, number[a])]) for r in range(row[a] + 1, row[b])), places[b])
        for a, b in graph.edges
    }
    return Layout(places, paths, len(rows), max(column.values(), default=0) + 1)


def _free(wanted: int, taken: set[int]) -> int:
    """The wanted column, or the nearest free one, to the right first."""
    for distance in range(len(taken) + 1):
        for found in (wanted + distance, wanted - distance):
            if found >= 0 and found not in taken:
                taken.add(found)
                return found
    taken.add(max(taken) + 1)
    return max(taken)
