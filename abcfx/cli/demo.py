"""`python -m abcfx demo`: from a float model to a quantized, faster and smaller one, on real images."""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

import abcfx
from abcfx.bench.race import Race, race
from abcfx.cli import machine
from abcfx.cli.demo_model import DemoNet, load_demo_model
from abcfx.cli.demo_report import Point, Results
from abcfx.cli.front import UsageError, positive, usage_errors
from abcfx.data import Dataset, load
from abcfx.ops import library
from abcfx.packed import save_packed
from abcfx.plan import BASES, MAX_BASES
from abcfx.train import Recipe, evaluate, train
from abcfx.train.progress import Steps

HELP = "Quantize a float model on real images: accuracy, size and speed before and after, a table and a picture."
EXAMPLE = "python -m abcfx demo --M 3 --N 3 --out results"
SWEEP = ((1, 1), (1, 2), (2, 2), (2, 3), (3, 3))
CALIBRATION_IMAGES = 512
# CIFAR-10 has no shipped weights: its float model is trained here, for an estimated minute on two idle cores
CIFAR_RECIPE = Recipe(1.0, 4e-3, batch=96, optimizer="adamw", weight_decay=0.02, warmup=0.25, pad=2, autocast=True)
TUNING_IMAGES, TUNING = 6000, Recipe(1.0, 3e-4, batch=100, optimizer="adamw", warmup=0.25, pad=2)
QUICK_IMAGES = 250
# What a slow or busy machine may spend, so that the whole stays under three minutes: fine-tuning is shortened to the
# first, and no new timing begins after the second.
TUNING_S, TIMING_UNTIL_S = 45, 120
PROBE_STEPS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    bases = f"1 to {MAX_BASES} (2)"
    parser.add_argument(
        "--data", metavar="PATH",
        help="folder with the full Fashion-MNIST (idx files), or CIFAR-10 (cifar-10-batches-py, -bin, or an .npz); "
        "without it, the subset of Fashion-MNIST that ships with abcfx",
    )  # fmt: skip
    parser.add_argument("--M", type=int, default=2, help=f"weight bases, {bases}")
    parser.add_argument("--N", type=int, default=2, help=f"activation bases, {bases}")
    parser.add_argument(
        "--basis", choices=BASES, default=BASES[0], help="of the weights; with AMX coded ones are faster (%(default)s)"
    )
    parser.add_argument("--epochs", type=float, help="length of the fine-tuning, 0 for none (enough for 6000 images)")
    parser.add_argument("--images", type=positive, default=2000, help="test images to use, if there are so many (2000)")
    parser.add_argument("--batch", type=positive, default=32, help="the larger batch size to time, beside 1 (32)")
    parser.add_argument("--threads", type=positive, help="threads of PyTorch (as it has them)")
    parser.add_argument("--seed", type=int, default=0, help="of training and of its shuffling (0)")
    parser.add_argument("--out", type=Path, default=Path("abcfx_demo"), metavar="DIR", help="results (./abcfx_demo)")
    parser.add_argument(
        "--quick", action="store_true", help="a look in seconds: 250 test images, no fine-tuning, no timing"
    )


def run(arguments: argparse.Namespace) -> int:
    """0; 130 after Ctrl-C, with what was done until then in the table and in the folder."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    _check(arguments)
    with usage_errors():
        data = load(arguments.data)
        arguments.out.mkdir(parents=True, exist_ok=True)
    data = data.first(min(arguments.images, QUICK_IMAGES) if arguments.quick else arguments.images)
    results = Results(data.name, len(data.test_y), arguments.M, arguments.N, setup=_setup(arguments))
    console, code = Console(), 0
    try:
        with Steps(console) as steps:
            Demo(arguments, data, results, steps).run()
    except KeyboardInterrupt:
        console.print("interrupted; this is what was done", style="yellow")
        code = 130
    _show(results, arguments.out, console)
    return code


def _check(arguments: argparse.Namespace) -> None:
    with usage_errors():
        abcfx.LayerPlan(arguments.M, arguments.N)
    if not 0 <= (arguments.epochs or 0) <= 1000:
        raise UsageError(f"--epochs must be from 0 to 1000, got {arguments.epochs:g}")


def _setup(arguments: argparse.Namespace) -> dict[str, object]:
    return {
        "torch": torch.__version__,
        "kernels": machine.kernel_names(),
        "threads": machine.threads(),
        "seed": arguments.seed,
        "basis": arguments.basis,
    }


def _show(results: Results, out: Path, console: Console) -> None:
    """The tables, and results.json and results.png in the folder."""
    if results.float_accuracy is None:
        console.print("nothing was finished", style="yellow")
        return
    console.print()
    console.print(results.table())
    if results.points:
        console.print(results.points_table())
    results.note_disturbed_races()
    setup = results.setup
    how = f"{setup['threads']}, seed {setup['seed']}, {setup['basis']} weights"
    console.print(f"[dim]torch {setup['torch']}, kernels {setup['kernels']}, {how}")
    for note in results.notes:
        console.print(note, style="yellow")
    written = ["results.json", *(("model.pt", "model.abc") if results.packed_bytes else ())]
    results.save(out / "results.json")
    if results.points:
        from abcfx.cli.picture import draw  # matplotlib takes a second to import

        draw(results, out / "results.png")
        written.append("results.png")
    console.print(f"written to {out}: {', '.join(written)}", highlight=False, soft_wrap=True)


class Demo:
    """The steps, in order; each writes what it found into `results` at once."""

    def __init__(self, arguments: argparse.Namespace, data: Dataset, results: Results, steps: Steps) -> None:
        self.arguments, self.data, self.results, self.steps = arguments, data, results, steps
        self.float_model: nn.Module
        self.start = time.perf_counter()

    def run(self) -> None:
        arguments, results = self.arguments, self.results
        self.float_model = self._float_model()
        results.float_accuracy = self._accuracy("float accuracy", self.float_model)
        with self.steps.step("quantizing and calibrating"):
            quantized = self._quantized(arguments.M, arguments.N)
        results.calibrated_accuracy = self._accuracy("quantized accuracy", quantized)
        tuned = self._tuned(quantized)
        self._sizes(tuned)
        timed = not arguments.quick and self._can_time()
        if timed:
            results.races += [self._race(batch, tuned) for batch in dict.fromkeys((1, arguments.batch))]
        for M, N in SWEEP:
            if timed and time.perf_counter() - self.start > TIMING_UNTIL_S:
                results.notes.append(f"Slow or busy machine: speed was not measured from M={M}, N={N} on.")
                timed = False
            self._point(M, N, timed)

    def _float_model(self) -> nn.Module:
        if self.data.channels == 1:
            return load_demo_model()
        model = DemoNet(self.data.channels, len(self.data.classes)).to(memory_format=torch.channels_last)
        self._train("training the float model", model, CIFAR_RECIPE)
        return model

    def _train(self, name: str, model: nn.Module, recipe: Recipe, teacher: nn.Module | None = None) -> None:
        with self.steps.step(name, recipe.steps(len(self.data.train_y))) as step:
            train(model, self.data, recipe, seed=self.arguments.seed, teacher=teacher, tick=step.tick_loss)

    def _accuracy(self, name: str, model: nn.Module) -> float:
        with self.steps.step(name, self.data.test_batch_count()) as step:
            percent = evaluate(model, self.data, step.tick).accuracy
            step.result = f"{percent:.1f} %"
        return percent

    def _quantized(self, M: int, N: int) -> nn.Module:
        quantized = abcfx.quantize_model(self.float_model, M, N, basis=self.arguments.basis)
        abcfx.calibrate(quantized, self.data.calibration_batches(CALIBRATION_IMAGES), progress=False)
        return quantized

    def _tuned(self, quantized: nn.Module) -> nn.Module:
        """A fine-tuned copy, or the model itself if there is nothing to do."""
        if self.arguments.quick or self.arguments.epochs == 0:
            return quantized
        tuned = copy.deepcopy(quantized)
        recipe = replace(TUNING, epochs=self.arguments.epochs or self._affordable_epochs(quantized))
        self._train("fine-tuning", tuned, recipe, teacher=self.float_model)
        self.results.tuned_accuracy = self._accuracy("fine-tuned accuracy", tuned)
        return tuned

    def _affordable_epochs(self, quantized: nn.Module) -> float:
        """TUNING_IMAGES, or as many as TUNING_S allows by the time of a few steps on a copy, the first one apart."""
        full = replace(TUNING, epochs=TUNING_IMAGES / len(self.data.train_y))
        steps = full.steps(len(self.data.train_y))
        probe = replace(full, epochs=full.epochs * PROBE_STEPS / steps)
        ends: list[float] = []
        train(
            copy.deepcopy(quantized), self.data, probe, teacher=self.float_model,
            tick=lambda _: ends.append(time.perf_counter()),
        )  # fmt: skip
        affordable = int(TUNING_S * (len(ends) - 1) / (ends[-1] - ends[0]))
        if affordable >= steps:
            return full.epochs
        self.results.notes.append(f"Slow or busy machine: {max(1, affordable)} of {steps} fine-tuning steps were done.")
        return full.epochs * max(1, affordable) / steps

    def _sizes(self, quantized: nn.Module) -> None:
        out, results = self.arguments.out, self.results
        torch.save(self.float_model.state_dict(), out / "model.pt")
        save_packed(quantized, out / "model.abc")
        results.float_bytes = (out / "model.pt").stat().st_size
        results.packed_bytes = (out / "model.abc").stat().st_size

    def _can_time(self) -> bool:
        """Whether speed can be measured here; a note in one line if not, or if it means nothing."""
        if not library.loaded():
            self.results.notes.append(f"The speed is not meaningful here: {library.problem()}.")
        if machine.cpp_compiler() is None:
            self.results.notes.append("No timing: torch.compile needs a C++ compiler, and none was found.")
            return False
        return True

    def _race(self, batch: int, quantized: nn.Module) -> Race:
        """Compiled with backend="abc" against the float model compiled by inductor, both in channels_last."""
        with self.steps.step(f"compiling and timing, batch {batch}") as step, torch.inference_mode():
            images = self.data.prepare(self.data.test_x[:batch])
            result = self._race_on(images, quantized, seconds=2.0)
            step.result = f"{result.ratio:.2f}×"
        return result

    def _race_on(self, images: Tensor, quantized: nn.Module, seconds: float) -> Race:
        # Forget earlier models: one code object holds eight compiled forms and then silently stops compiling.
        torch.compiler.reset()
        rival = torch.compile(self.float_model, dynamic=False, fullgraph=True)
        ours = torch.compile(quantized, backend="abc", dynamic=False, fullgraph=True)
        for model in (rival, ours):
            for _ in range(3):
                model(images)
        return race(lambda: rival(images), lambda: ours(images), len(images), seconds)

    def _point(self, M: int, N: int, timed: bool) -> None:
        with self.steps.step(f"M={M}, N={N}, calibrated", self.data.test_batch_count() + timed) as step:
            quantized = self._quantized(M, N)
            point = Point(M, N, evaluate(quantized, self.data, step.tick).accuracy)
            self.results.points.append(point)
            step.result = f"{point.accuracy:.1f} %"
            if timed:
                with torch.inference_mode():
                    images = self.data.prepare(self.data.test_x[: self.arguments.batch])
                    point.race = self._race_on(images, quantized, seconds=1.0)
                step.result += f"  {point.race.ratio:.2f}×"
