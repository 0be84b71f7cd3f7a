"""The command-line options that training scripts share, and what is made of them."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from abcfx.config import Config
from abcfx.data import Dataset
from abcfx.plan import BASES, LEVELS, RULES
from abcfx.planner import BudgetPlan
from abcfx.train.distributed import Ranks
from abcfx.train.finetune import Run
from abcfx.train.loop import DivergedError
from abcfx.train.recipe import AUGMENTS, OPTIMIZERS, PRODUCTS, SCHEDULES, Recipe
from abcfx.train.signals import Stopped

RATES = {"sgd": 0.01, "adamw": 1e-3}


def add_model_options(parser: argparse.ArgumentParser, bases: int = 2) -> None:
    group = parser.add_argument_group("quantization")
    group.add_argument("-M", "--M", type=int, default=bases, help="weight bases, 1 to 8 (%(default)s)")
    group.add_argument("-N", "--N", type=int, default=bases, help="activation bases, 1 to 8 (%(default)s)")
    group.add_argument("--basis", choices=BASES, default=BASES[0], help="of the weights (%(default)s)")
    group.add_argument("--levels", choices=LEVELS, default=LEVELS[0], help="of the activations (%(default)s)")
    group.add_argument("--plan", type=Path, metavar="FILE", help="of abcfx.plan: M, N or float of each layer, instead")
    group.add_argument("--per-layer", action="store_true", help="one α per layer instead of per output channel")
    group.add_argument(
        "--ste", choices=RULES, default=RULES[0],
        help="straight-through rule; abc is the paper's own, triangle needs --simulate (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--grad-bases", type=int, default=0, metavar="K", help="planes of the output gradients (0: gradients in f32)"
    )
    group.add_argument("--calibrate", type=_count, default=1000, metavar="N", help="training images (%(default)s)")


def add_recipe_options(parser: argparse.ArgumentParser, epochs: float, augment: str) -> None:
    group = parser.add_argument_group("recipe")
    group.add_argument("--epochs", type=float, default=epochs, help="%(default)s; a fraction is allowed")
    group.add_argument("--batch", type=_count, default=128, help="%(default)s; of all processes together")
    group.add_argument("--lr", type=float, help="highest learning rate (0.01 for sgd, 0.001 for adamw)")
    group.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd", help="%(default)s, Nesterov if sgd")
    group.add_argument("--weight-decay", type=float, default=1e-4, help="of conv and linear weights (%(default)s)")
    group.add_argument("--warmup", type=float, default=0.05, help="part of the steps, where --lr rises (%(default)s)")
    group.add_argument("--schedule", choices=SCHEDULES, default="cosine", help="how --lr falls (%(default)s)")
    group.add_argument(
        "--weight-rate", type=float, default=1.0,
        help="factor on --lr for weights of quantized layers: above 1, more of their signs change (%(default)s)",
    )  # fmt: skip
    group.add_argument("--level-rate", type=float, default=1.0, help="factor on --lr for levels (%(default)s)")
    group.add_argument("--label-smoothing", type=float, default=0.0, help="%(default)s")
    group.add_argument("--augment", choices=AUGMENTS, default=augment, help="crop means flip too (%(default)s)")
    group.add_argument(
        "--cutmix", type=float, default=0.0, metavar="PART",
        help="of the images that get a patch of another one, against overfitting in long trainings (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--views", type=_none_or_count, default=0, metavar="R",
        help="of each image that augmentation makes; the teacher sees each once, in the first R epochs "
        "(%(default)s: a new view in every epoch)",
    )  # fmt: skip
    group.add_argument(
        "--products", choices=PRODUCTS, default=PRODUCTS[0],
        help="of float layers, teacher and gradients: bf16 rounds their operands, faster with AMX (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--autocast", action="store_true", help="bfloat16 activations in training steps, much faster with AMX"
    )
    group.add_argument("--distill", action=argparse.BooleanOptionalAction, default=True, help="follow the float model")
    group.add_argument("--distill-weight", type=float, default=0.5, help="of the teacher in the loss (%(default)s)")
    group.add_argument("--temperature", type=float, default=3.0, help="of the distillation (%(default)s)")
    group.add_argument(
        "--follow-blocks", type=float, default=0.0, metavar="WEIGHT",
        help="of the distance of block outputs from the float model's, added to the loss (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--stages", type=int, choices=(1, 2), default=1,
        help="2: activations first, with 5 weight bases for half of --epochs; then with M (%(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--start-from", type=Path, metavar="FILE", dest="start",
        help="checkpoint.pt or model.abc of an earlier run, of any M and N: begin with its weights, not the float ones",
    )  # fmt: skip
    group.add_argument(
        "--bn-reestimate", type=_none_or_count, default=0, metavar="N",
        help="take batch-norm statistics again at the end, from N augmented training images (%(default)s: leave them)",
    )  # fmt: skip


def add_run_options(parser: argparse.ArgumentParser, out: str) -> None:
    group = parser.add_argument_group("run")
    group.add_argument("--out", type=Path, default=Path(out), metavar="DIR", help="results (%(default)s)")
    group.add_argument("--resume", action="store_true", help="go on from the checkpoint in DIR, exactly")
    group.add_argument("--save-every", type=float, default=10, metavar="MINUTES", help="and each epoch (%(default)s)")
    group.add_argument("--compile", action="store_true", help='train torch.compile(model, backend="abc")')
    group.add_argument(
        "--simulate", action="store_true",
        help="with --compile: dense products of quantized values in training steps, not products on bits",
    )  # fmt: skip
    group.add_argument("--device", help="cpu or cuda (cuda where there is one)")
    group.add_argument("--threads", type=_count, help="threads of PyTorch (as it has them)")
    group.add_argument("--seed", type=int, default=0, help="%(default)s")
    group.add_argument("--limit-train", type=_count, metavar="N", help="the first N training images: a quick trial")
    group.add_argument("--limit-test", type=_count, metavar="N", help="the first N test images")


def make_config(args: argparse.Namespace) -> Config:
    if args.plan is not None:
        return BudgetPlan.load(args.plan).config(grad_bases=args.grad_bases, ste=args.ste)
    return Config(args.M, args.N, args.basis, args.levels, not args.per_layer, grad_bases=args.grad_bases, ste=args.ste)


def make_recipe(args: argparse.Namespace) -> Recipe:
    return Recipe(
        args.epochs, RATES[args.optimizer] if args.lr is None else args.lr, args.batch, args.optimizer,
        weight_decay=args.weight_decay, warmup=args.warmup, schedule=args.schedule, weight_rate=args.weight_rate,
        level_rate=args.level_rate, label_smoothing=args.label_smoothing, augment=args.augment,
        distillation=args.distill_weight, temperature=args.temperature, follow_blocks=args.follow_blocks,
        products=args.products, autocast=args.autocast, views=args.views, cutmix=args.cutmix,
    )  # fmt: skip


def make_run(args: argparse.Namespace, ranks: Ranks) -> Run:
    if args.simulate and not args.compile:
        raise ValueError("--simulate is a way to compile a training step: give --compile too")
    return Run(
        args.out, args.resume, args.seed, args.calibrate, args.bn_reestimate, args.distill, args.compile, args.simulate,
        args.stages, args.save_every, ranks, args.start,
    )  # fmt: skip


def limited(data: Dataset, args: argparse.Namespace) -> Dataset:
    """The first images only, as asked for, on the device."""
    data = data.first(args.limit_test) if args.limit_test else data
    train_x, train_y = data.train_x[: args.limit_train], data.train_y[: args.limit_train]
    return replace(data, train_x=train_x, train_y=train_y).to(device_of(args))


def device_of(args: argparse.Namespace) -> torch.device:
    return torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def run_script(name: str, args: argparse.Namespace, train: Callable[[Ranks, Console], None]) -> None:
    """train(ranks, console); what the user can act on ends the script with one sentence and its exit status."""
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    ranks = Ranks.from_environment()
    console = Console(quiet=ranks.rank > 0)
    try:
        train(ranks, console)
    except (FileNotFoundError, ValueError, DivergedError) as problem:
        raise SystemExit(f"{name}: {problem}") from None
    except Stopped as stop:
        console.print(f"{stop}; the same command with --resume goes on", highlight=False, soft_wrap=True)
        sys.exit(stop.code)
    finally:
        ranks.leave()


def _none_or_count(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _count(text: str) -> int:
    value = float(text)
    if not (value >= 1 and math.isfinite(value) and value == int(value)):
        raise argparse.ArgumentTypeError(f"needs a whole number from 1, got {text}")
    return int(value)
