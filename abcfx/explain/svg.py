"""A drawing as SVG. Edges that carry bits are thick, green and labeled with their planes; floats are thin and grey."""

from __future__ import annotations

from html import escape

from abcfx.explain.drawing import Box, Drawing, Line
from abcfx.explain.layout import Layout, Place, lay_out

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 176, 38, 26, 26, 12  # of a box, between boxes, around them, in pixels
LETTERS = 24  # that fit into a box


def svg(drawing: Drawing, title: str) -> str:
    """An `<svg>` element: one group of class `box KIND` a box, one path of class `edge bits` or `edge float` a line."""
    layout = lay_out(drawing)
    width = 2 * MARGIN + layout.columns * (WIDTH + GAP_X) - GAP_X
    height = 2 * MARGIN + layout.rows * (HEIGHT + GAP_Y) - GAP_Y
    lines = sorted(drawing.lines, key=lambda line: line.bits is not None)  # bits on top
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-label="{escape(title)}">',
            *(_line(line, layout) for line in lines),
            *(_box(box, layout.places[box.id]) for box in drawing.boxes),
            "</svg>",
        ]
    )


def _corner(place: Place) -> tuple[int, int]:
    row, column = place
    return MARGIN + column * (WIDTH + GAP_X), MARGIN + row * (HEIGHT + GAP_Y)


def _box(box: Box, place: Place) -> str:
    x, y = _corner(place)
    told = " ".join(part for part in (box.layer, box.label, box.shape) if part)
    below = box.layer or box.shape
    name = f' data-layer="{escape(box.layer)}"' if box.layer else ""
    return (
        f'<g class="box {box.kind}"{name}><title>{escape(told)}</title>'
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>'
        f'<text x="{x + WIDTH // 2}" y="{y + 16}" class="op">{escape(_short(box.label))}</text>'
        f'<text x="{x + WIDTH // 2}" y="{y + 30}" class="of">{escape(_short(below))}</text></g>'
    )


def _short(text: str) -> str:
    """The end of a long name: it tells layers apart."""
    return text if len(text) <= LETTERS else "…" + text[1 - LETTERS :]


def _line(line: Line, layout: Layout) -> str:
    path = layout.paths[line.source, line.target]
    points = [_corner(place) for place in path]
    middle = WIDTH // 2
    x, y = points[0][0] + middle, points[0][1] + HEIGHT
    steps = [f"M{x} {y}"]
    for i, (left, top) in enumerate(points[1:], start=1):
        bend = (y + top) // 2
        steps.append(f"C{x} {bend} {left + middle} {bend} {left + middle} {top}")
        x, y = left + middle, top
        if i < len(points) - 1:  # through an empty place
            y = top + HEIGHT
            steps.append(f"L{x} {y}")
    kind = "float" if line.bits is None else "bits"
    drawn = f'<path class="edge {kind}" data-from="{line.source}" data-to="{line.target}" d="{" ".join(steps)}"/>'
    if line.bits is None:
        return drawn
    label = f"{line.bits} bit plane{'s' if line.bits > 1 else ''}"
    return f'{drawn}<text class="planes" x="{x + 6}" y="{y - GAP_Y // 2 + 4}">{label}</text>'
