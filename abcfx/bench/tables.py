"""Measurements as tables for the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from abcfx.bench.race import Spread
from abcfx.bench.results import Measurement, OurResult, RivalResult
from abcfx.cli.units import milliseconds

SHORT = {"channels_last": "NHWC"}


def race_table(measurement: Measurement) -> Group:
    """One workload: a row for each of ours against each rival; the rivals' forms and absences below."""
    kernels = any(ours.kernel_ms for ours in measurement.ours)
    layouts = len({ours.layout for ours in measurement.ours}) > 1
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("M,N", no_wrap=True)
    for header in ("abcfx", "rival"):
        table.add_column(header, justify="right" if header == "abcfx" else "left", no_wrap=True)
    for header in ("its time", "rival / abcfx", "middle 80 %"):
        table.add_column(header, justify="right", no_wrap=True)
    if kernels:
        table.add_column("no pack", justify="right", no_wrap=True)
    for ours in measurement.ours:
        _add_rows(table, ours, measurement.rivals, kernels, layouts)
    return Group(Text(measurement.title, "bold"), table, *_notes(measurement))


def _add_rows(
    table: Table, ours: OurResult, rivals: dict[str, RivalResult], kernels: bool, layouts: bool
) -> None:
    head = [_label(ours, layouts), milliseconds(ours.ms.median)]
    if not ours.ratios:
        table.add_row(*head, "none ran")
    for row, (kind, ratio) in enumerate(ours.ratios.items()):
        apart = [f"{ours.kernel_ratios[kind].median:.2f}×"] if kernels else []
        time = rivals[kind].ms
        table.add_row(
            *(head if row == 0 else [""] * len(head)), kind, milliseconds(time.median) if time else "",
            speed(ratio), f"{ratio.low:.2f}–{ratio.high:.2f}", *apart, end_section=row == len(ours.ratios) - 1,
        )  # fmt: skip


def _label(ours: OurResult, layouts: bool) -> str:
    unfused = " unfused" if ours.method.startswith("unfused") else ""
    return f"{ours.M},{ours.N}{unfused}" + (f" {SHORT.get(ours.layout, ours.layout)}" if layouts else "")


def _methods(found: list[OurResult]) -> str:
    """ "lut", or "xnor for 1,1 NCHW; lut for 1,1 NHWC, 2,2 NHWC"."""
    names = list(dict.fromkeys(ours.method for ours in found))
    if len(names) == 1:
        return names[0]
    layouts = len({ours.layout for ours in found}) > 1
    members = {name: [_label(ours, layouts) for ours in found if ours.method == name] for name in names}
    return "; ".join(f"{name} for {', '.join(labels)}" for name, labels in members.items())


def speed(ratio: Spread) -> Text:
    return Text(f"{ratio.median:.2f}×", "bold green" if ratio.median >= 1 else "yellow")


def _notes(measurement: Measurement) -> list[Text]:
    lines = []
    for kind, rival in measurement.rivals.items():
        if rival.form is None:
            lines.append(Text(f"{kind} is left out: {rival.reason}", "yellow"))
            continue
        others = [
            f"{name} {milliseconds(found)}" if isinstance(found, float) else f"{name} does not run ({found})"
            for name, found in rival.forms.items()
            if name != rival.form
        ]
        text = f"{kind} is {rival.form}" + (f" (others: {'; '.join(others)})" if others else "")
        lines.append(Text(text + (f"; {rival.note}" if rival.note else ""), "dim"))
    lines.append(Text(f"abcfx kernels: {_methods(measurement.ours)}", "dim"))
    if any(ours.kernel_ms for ours in measurement.ours):
        lines.append(Text("no pack: the ratio for an input that is packed already", "dim"))
    if measurement.disturbed:
        lines.append(Text("Something else kept the processor busy: the wide ranges say how much.", "yellow"))
    return [*lines, Text("")]
