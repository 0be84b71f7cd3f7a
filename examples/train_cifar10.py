"""Fine-tune a quantized network on CIFAR-10, from a float checkpoint, with the float model as its teacher.

    python examples/train_cifar10.py --weights resnet20-12fca82f.th --data cifar-10-batches-py -M 2 -N 2 --out r20-22

The float model is evaluated, quantized, calibrated on a few training images, and then all its parameters (weights,
batch norm, activation levels) are trained. DIR gets checkpoint.pt, history.csv, curves.png and result.json. Ctrl-C
saves; the same command with --resume goes on exactly there, also after a kill.
"""

from __future__ import annotations

import argparse
import inspect
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from models_cifar import load_checkpoint, resnet20
from rich.console import Console
from torch import nn

import abcfx
from abcfx.data import Dataset, load
from abcfx.train import Recipe, Trainer, evaluate
from abcfx.train.evaluate import reestimate_batch_norm
from abcfx.train.recipe import AUGMENTS, OPTIMIZERS
from abcfx.train.session import Session
from abcfx.train.signals import Stopped

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# name → (builder, moments that its checkpoints were trained with; None: those of CIFAR-10)
MODELS = {"resnet20": (resnet20, IMAGENET)}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_argument_group("model")
    model.add_argument("--model", choices=MODELS, default="resnet20", help="network (%(default)s)")
    model.add_argument("--weights", help="float checkpoint to start from, and teacher")
    model.add_argument("-M", type=int, default=2, help="weight bases, 1 to 8 (%(default)s)")
    model.add_argument("-N", type=int, default=2, help="activation bases, 1 to 8 (%(default)s)")
    model.add_argument("--basis", choices=("alternating", "greedy", "abc"), default="alternating", help="(%(default)s)")
    model.add_argument("--levels", choices=("coded", "thermometer"), default="coded", help="(%(default)s)")
    model.add_argument("--per-layer", action="store_true", help="one α per layer (one per output channel)")
    model.add_argument("--grad-bases", type=int, metavar="K", help="planes of the output gradients (float gradients)")
    data = parser.add_argument_group("data")
    data.add_argument("--data", default="cifar-10-batches-py", help="CIFAR-10 folder or .npz (%(default)s)")
    data.add_argument("--augment", choices=AUGMENTS, default="crop", help="crop: and flip (%(default)s)")
    data.add_argument("--calibrate", type=int, default=1000, metavar="N", help="training images (%(default)s)")
    data.add_argument("--limit-train", type=int, metavar="N", help="only the first N training images: a quick trial")
    data.add_argument("--limit-test", type=int, metavar="N", help="only the first N test images")
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--epochs", type=float, default=20, help="(%(default)s)")
    recipe.add_argument("--batch", type=int, default=128, help="(%(default)s)")
    recipe.add_argument("--lr", type=float, help="highest learning rate (0.01 for sgd, 0.001 for adamw)")
    recipe.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd", help="(%(default)s)")
    recipe.add_argument("--weight-decay", type=float, default=1e-4, help="on conv and linear weights (%(default)s)")
    recipe.add_argument("--warmup", type=float, default=0.05, help="part of the steps (%(default)s)")
    recipe.add_argument("--level-rate", type=float, default=1.0, help="factor on --lr for levels (%(default)s)")
    recipe.add_argument("--label-smoothing", type=float, default=0.0, help="(%(default)s)")
    recipe.add_argument("--distill", action=argparse.BooleanOptionalAction, default=True, help="follow the float model")
    recipe.add_argument("--distill-weight", type=float, default=0.5, help="of the teacher in the loss (%(default)s)")
    recipe.add_argument("--temperature", type=float, default=3.0, help="of the distillation (%(default)s)")
    recipe.add_argument("--bn-reestimate", type=int, default=0, metavar="N", help="images, at the end (%(default)s)")
    run = parser.add_argument_group("run")
    run.add_argument("--out", type=Path, default=Path("cifar10_run"), metavar="DIR", help="results (%(default)s)")
    run.add_argument("--resume", action="store_true", help="go on from DIR/checkpoint.pt")
    run.add_argument("--compile", action="store_true", help='torch.compile(model, backend="abc")')
    run.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    run.add_argument("--threads", type=int, help="threads of PyTorch (as it has them)")
    run.add_argument("--save-every", type=float, default=10, metavar="MINUTES", help="checkpoints (%(default)s)")
    args = parser.parse_args(arguments)
    for name in ("calibrate", "limit_train", "limit_test", "threads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return args


def load_data(args: argparse.Namespace, moments: dict | None) -> Dataset:
    data = load(args.data)
    data = data.first(args.limit_test) if args.limit_test else data
    if args.limit_train:
        data = replace(data, train_x=data.train_x[: args.limit_train], train_y=data.train_y[: args.limit_train])
    return replace(data, **moments) if moments else data


def make_recipe(args: argparse.Namespace) -> Recipe:
    return Recipe(
        args.epochs, args.lr or {"sgd": 0.01, "adamw": 1e-3}[args.optimizer], args.batch, args.optimizer,
        weight_decay=args.weight_decay, warmup=args.warmup, level_rate=args.level_rate, augment=args.augment,
        label_smoothing=args.label_smoothing, distillation=args.distill_weight, temperature=args.temperature,
    )  # fmt: skip


def quantize(model: nn.Module, args: argparse.Namespace) -> nn.Module:
    more = {}
    if args.grad_bases is not None:
        if "grad_bases" not in inspect.signature(abcfx.quantize_model).parameters:
            raise ValueError("--grad-bases: this version of abcfx has no quantized gradients; leave it out")
        more = {"grad_bases": args.grad_bases}
    return abcfx.quantize_model(
        model, args.M, args.N, basis=args.basis, levels=args.levels, per_channel=not args.per_layer, **more
    )


def train(args: argparse.Namespace, console: Console) -> None:
    build, moments = MODELS[args.model]
    data, recipe, float_model = load_data(args, moments), make_recipe(args), build()
    if args.weights:
        load_checkpoint(float_model, args.weights)
    float_model = float_model.eval().to(memory_format=torch.channels_last)
    quantized = quantize(float_model, args)
    result = {
        "settings": settings(args),
        "recipe": asdict(recipe),
        "float_accuracy": evaluate(float_model, data).accuracy,
    }
    show(console, f"float: {result['float_accuracy']:.2f} % of {len(data.test_y)} test images")
    abcfx.calibrate(quantized, data.calibration_batches(args.calibrate), progress=False)
    forward = torch.compile(quantized, backend="abc") if args.compile else quantized
    trainer = Trainer(
        quantized, data, recipe, seed=args.seed, teacher=float_model if args.distill else None, forward=forward
    )
    session = Session(
        trainer, args.out, name=f"{args.model} M={args.M} N={args.N}", settings=settings(args), console=console,
        save_minutes=args.save_every, goal=result["float_accuracy"],
    )  # fmt: skip
    if args.resume:
        session.resume()
    else:
        result["calibrated_accuracy"] = evaluate(quantized.eval(), data).accuracy
        show(console, f"M={args.M}, N={args.N}, calibrated: {result['calibrated_accuracy']:.2f} %")
    session.run()
    if args.bn_reestimate:
        reestimate_batch_norm(quantized, data.calibration_batches(args.bn_reestimate, args.batch))
    result["accuracy"] = evaluate(quantized.eval(), data).accuracy
    show(console, f"M={args.M}, N={args.N}, after {args.epochs:g} epochs: {result['accuracy']:.2f} %")
    (args.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")


def settings(args: argparse.Namespace) -> dict:
    """What a resumed run must have in common with the first one."""
    free = ("out", "resume", "threads", "save_every", "data", "weights", "bn_reestimate", "compile")
    return {name: value for name, value in vars(args).items() if name not in free}


def show(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)


def main(arguments: list[str] | None = None) -> None:
    args, console = parse(arguments), Console()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    try:
        train(args, console)
    except (FileNotFoundError, ValueError) as problem:
        raise SystemExit(f"train_cifar10: {problem}") from None
    except Stopped as stop:
        show(console, f"{stop}; go on with --resume")
        raise SystemExit(stop.code) from None


if __name__ == "__main__":
    main()
