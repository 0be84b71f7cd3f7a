"""Train a small convolutional network on Fashion-MNIST in float, then quantized with M = N = 3.

    python examples/train_fashion_mnist.py --data FOLDER --out fashion_run

FOLDER holds the four official idx files. The float model is trained first (--float-epochs, files in DIR/float), then
quantized, calibrated, and trained on with the float model as its teacher. `--model demo` takes the eight-layer network
of `python -m abcfx demo` with the float weights that ship with it. Files and --resume as in train_cifar10.py.
"""

from __future__ import annotations

import argparse

import torch
from models_cifar import small_cnn
from rich.console import Console

from abcfx.cli.demo_model import load_demo_model
from abcfx.data import load
from abcfx.train import options
from abcfx.train.distributed import Ranks
from abcfx.train.finetune import FineTuning
from abcfx.train.pretrain import pretrained
from abcfx.train.recipe import Recipe


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_argument_group("model and data")
    group.add_argument("--data", metavar="FOLDER", help="the four idx files (the subset that ships with abcfx)")
    group.add_argument("--model", choices=("small-cnn", "demo"), default="small-cnn", help="network (%(default)s)")
    group.add_argument("--float-epochs", type=float, default=8, help="of the float model before (%(default)s)")
    options.add_model_options(parser, bases=3)
    options.add_recipe_options(parser, epochs=4, augment="flip")
    options.add_run_options(parser, "fashion_run")
    return parser.parse_args(arguments)


def train(args: argparse.Namespace, ranks: Ranks, console: Console) -> None:
    config, recipe, how = options.make_config(args), options.make_recipe(args), options.make_run(args, ranks)
    data = options.limited(load(args.data), args)
    model = load_demo_model() if args.model == "demo" else small_cnn(data.channels)
    model = model.to(options.device_of(args), memory_format=torch.channels_last)
    if args.model != "demo":
        first = Recipe(args.float_epochs, 0.1, args.batch, weight_decay=5e-4, warmup=0.1, augment=args.augment)
        pretrained(args.model, model, data, first, how, console)
    more = {"float_epochs": args.float_epochs}
    FineTuning(args.model, model, data, config, recipe, how, console, more).run()


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    options.run_script("train_fashion_mnist", args, lambda ranks, console: train(args, ranks, console))


if __name__ == "__main__":
    main()
