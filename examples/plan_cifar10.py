r"""The planner against uniform (M, N) on the CIFAR-10 ResNet-20, not trained: accuracy at equal predicted latency.

    python examples/plan_cifar10.py --weights resnet20-12fca82f.th --data cifar-10-batches-py

For each uniform (M, N) three models of no larger predicted latency are calibrated on the same training images and judged
on test images: the uniform one; the uniform one with float where quantizing a layer is not faster; the planned one. A
fourth is planned to have no more weight bits than M, too, which leaves hardly any layer in float. Sensitivity is
measured on training images; no test image is seen before the judging. Prints a table; writes OUT.json (the results),
OUT-plan.json (the plan, to be solved again under other budgets) and OUT.png (the Pareto picture).

Fine-tune a plan from there:

    python examples/train_cifar10.py --weights resnet20-12fca82f.th --data cifar-10-batches-py --optimizer adamw \
        --plan OUT-plan.json --epochs 3
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from models_cifar import load_checkpoint, resnet20
from resnet20_grid import accuracy, batches, prepare
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import abcfx
from abcfx.data import cifar10
from abcfx.planner.picture import draw

KINDS = ("uniform", "uniform_or_float", "planned", "planned_bits")


def rivals(measured: abcfx.BudgetPlan, label: str) -> dict[str, abcfx.BudgetPlan]:
    """The plans that are compared with the uniform one, none of them slower by prediction."""
    uniform = measured.uniform(label)
    layers = measured.measured.layers
    slower = {layer.name for layer in layers if layer.option(uniform.choices[layer.name]).ms >= layer.options[0].ms}
    mixed = {name: "float" if name in slower else choice for name, choice in uniform.choices.items()}
    latency = {"latency_ms": uniform.ms}
    plans = (
        uniform,
        replace(uniform, choices=mixed),
        measured.solve(latency),
        measured.solve(latency | {"bits": uniform.bits}),
    )
    return dict(zip(KINDS, plans, strict=True))


def judge(model: nn.Module, plan: abcfx.BudgetPlan, calibration: Tensor, test: tuple[Tensor, Tensor]) -> float:
    """Percent of the test images right after calibration."""
    quantized = abcfx.quantize_model(model, plan=plan)
    if plan.plan.layers:
        abcfx.calibrate(quantized, batches(calibration), progress=False)
    return accuracy(quantized, *test)


def compare(
    model: nn.Module, measured: abcfx.BudgetPlan, labels: list[str], calibration: Tensor, test: tuple[Tensor, Tensor]
) -> list[dict]:
    """A row for each label: latency of the uniform plan, then time, bits and accuracy of each rival."""
    rows, known = [], {}
    for label in track(labels, "judging plans", transient=True):
        row = {"label": label, "ms": measured.uniform(label).ms}
        for kind, plan in rivals(measured, label).items():
            key = tuple(plan.choices.values())
            if key not in known:
                known[key] = judge(model, plan, calibration, test)
            found = {"accuracy": known[key], "ms": plan.ms, "bits": plan.bits, "loss": plan.loss}
            row[kind] = found | {"choices": dict(plan.choices)}
        rows.append(row)
    return rows


def show(found: dict, console: Console) -> None:
    """The table, the best of each row in bold."""
    table = Table(title=f"ResNet-20, CIFAR-10, calibrated only: % of {found['images']} test images "
                        f"(float: {found['float']:.2f} %, {found['float_ms']:.2f} ms predicted)")  # fmt: skip
    for name in ("M×N", "predicted ms", "uniform", "uniform, float if faster", "planned", "planned, bits ≤ M"):
        table.add_column(name, justify="right")
    for row in found["rows"]:
        best = max(row[kind]["accuracy"] for kind in KINDS)
        cells = [f"{'[bold]' * (row[k]['accuracy'] == best)}{row[k]['accuracy']:.2f}[/]" if row[k]["accuracy"] == best
                 else f"{row[k]['accuracy']:.2f}" for k in KINDS]  # fmt: skip
        table.add_row(row["label"], f"{row['ms']:.2f}", *cells)
    console.print(table)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="resnet20-12fca82f.th", help="checkpoint (default: %(default)s)")
    parser.add_argument("--data", default="cifar-10-batches-py", help="CIFAR-10 folder or .npz (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("plan_cifar10"), help="path of the results, without suffix")
    parser.add_argument("--uniform", nargs="+", default=["1x1", "2x2", "3x3", "4x4", "5x5"], help="M×N to compare with")
    parser.add_argument("--batch", type=int, default=32, help="batch whose latency counts (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads that the latency is for (default: %(default)s)")
    parser.add_argument("--cost", default="predicted", choices=("predicted", "measured"))
    parser.add_argument("--samples", type=int, default=256, help="images that sensitivity is measured on")
    parser.add_argument("--calibration", type=int, default=1000, help="training images to calibrate on (default: 1000)")
    parser.add_argument("--limit", type=int, help="judge on so many test images only")
    parser.add_argument("--plan", type=Path, help="an OUT-plan.json of an earlier run: nothing is measured again")
    args = parser.parse_args(arguments)
    if min(args.calibration, args.batch, args.samples, args.threads, args.limit or 1) < 1:
        parser.error("--calibration, --batch, --samples, --threads and --limit must be at least 1")
    return args


def main(arguments: list[str] | None = None) -> None:
    args, console = parse(arguments), Console()
    torch.set_num_threads(args.threads)
    model = resnet20().eval()
    try:
        load_checkpoint(model, args.weights)
        (train_x, _), (test_x, test_y) = cifar10.load(args.data)
        measured = abcfx.BudgetPlan.load(args.plan) if args.plan else None
    except (OSError, ValueError) as problem:
        raise SystemExit(f"plan_cifar10: {problem}") from None
    calibration = torch.from_numpy(train_x[: args.calibration])
    test = torch.from_numpy(test_x[: args.limit]), torch.from_numpy(test_y[: args.limit])
    if measured is None:
        example = prepare(torch.from_numpy(train_x[: args.batch]))
        measured = abcfx.plan(
            model, batches(calibration), {"speedup": 1.2}, example=example, samples=args.samples, cost=args.cost
        )
    rows = compare(model, measured, args.uniform, calibration, test)
    found = {"float": accuracy(model, *test), "float_ms": measured.measured.float_ms, "images": len(test[1])}
    found |= {"calibration_images": args.calibration, "setup": dict(measured.measured.setup), "rows": rows}
    show(found, console)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    plan_file = args.out.with_name(f"{args.out.name}-plan.json")
    args.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    measured.save(plan_file)
    draw(measured, args.out.with_suffix(".png"))
    console.print(f"wrote {args.out.with_suffix('.json')}, {plan_file} and {args.out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
