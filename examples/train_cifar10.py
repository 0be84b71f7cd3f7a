"""Fine-tune a quantized network on CIFAR-10, from a float checkpoint, with the float model as its teacher.

    python examples/train_cifar10.py --weights resnet20-12fca82f.th --data cifar-10-batches-py -M 2 -N 2 --out r20-22
    torchrun --nproc-per-node 2 examples/train_cifar10.py ...        the same, shared by two processes

The float model is evaluated, quantized, calibrated on a few training images, and then all its parameters (weights,
batch norm, activation levels) are trained, towards the float model's outputs and those of its blocks. DIR gets
checkpoint.pt, history.csv, curves.png, telemetry.csv, result.json, model.pt and model.abc (docs/training.md). Ctrl-C
saves; the same command with --resume goes on exactly there, also after a kill. Without --weights a float model is
trained first, for --float-epochs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from models_cifar import load_checkpoint, resnet20, vgg_small, wrn_16_4, wrn_28_10
from models_whitened import RECIPE as WHITENED_RECIPE
from models_whitened import WhitenedCNN, whitened_cnn
from rich.console import Console
from torch import nn

from abcfx.data import load
from abcfx.train import options
from abcfx.train.distill import Ensemble
from abcfx.train.distributed import Ranks
from abcfx.train.finetune import FineTuning
from abcfx.train.pretrain import pretrained
from abcfx.train.recipe import Recipe

MODELS = {
    "resnet20": resnet20, "wrn-16-4": wrn_16_4, "wrn-28-10": wrn_28_10, "vgg-small": vgg_small,
    "whitened-cnn": whitened_cnn,
}  # fmt: skip
# the checkpoints of akamaster/pytorch_resnet_cifar10 expect the moments of ImageNet
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_argument_group("model and data")
    group.add_argument("--model", choices=MODELS, default="resnet20", help="network (%(default)s)")
    group.add_argument("--weights", metavar="FILE", help="float checkpoint to start from, and teacher")
    group.add_argument(
        "--teacher", nargs=2, metavar=("MODEL", "FILE"), action="append", default=[],
        help="a network and its float checkpoint, whose outputs are followed in the place of the float model's; of "
        "several the mean, each scaled to the same spread; trained with the same --moments",
    )  # fmt: skip
    group.add_argument(
        "--moments", choices=("imagenet", "cifar10"),
        help="that the inputs are normalized with (imagenet for resnet20 with --weights, else cifar10)",
    )  # fmt: skip
    group.add_argument("--float-epochs", type=float, help="without --weights (200, for whitened-cnn 14)")
    group.add_argument("--data", default="cifar-10-batches-py", help="CIFAR-10 folder or .npz (%(default)s)")
    options.add_model_options(parser)
    options.add_recipe_options(parser, epochs=20, augment="crop")
    options.add_run_options(parser, "cifar10_run")
    parser.set_defaults(distill_weight=1.0, temperature=4.0, follow_blocks=None)  # docs/training.md, The recipe
    args = parser.parse_args(arguments)
    if unknown := {name for name, _ in args.teacher} - MODELS.keys():
        parser.error(f"--teacher takes a MODEL of {', '.join(MODELS)} and its checkpoint, got {min(unknown)!r}")
    if args.follow_blocks is None:
        args.follow_blocks = 0.0 if args.teacher else 3.0  # another network has no such blocks
    return args


def network(name: str, args: argparse.Namespace) -> nn.Module:
    return MODELS[name]().to(options.device_of(args), memory_format=torch.channels_last)


def train(args: argparse.Namespace, ranks: Ranks, console: Console) -> None:
    config, recipe = options.make_config(args), options.make_recipe(args)
    moments = args.moments or ("imagenet" if args.weights and args.model == "resnet20" else "cifar10")
    data = options.limited(load(args.data), args)
    data = replace(data, **IMAGENET) if moments == "imagenet" else data
    model, teachers = network(args.model, args), []
    for name, weights in args.teacher:
        teachers.append(network(name, args))
        load_checkpoint(teachers[-1], weights)
    if args.weights:
        load_checkpoint(model, args.weights)
    else:
        # Zagoruyko and Komodakis 2016, section 3, with a cosine in the place of the steps
        settings = {"epochs": 200, "learning_rate": 0.1, "batch": args.batch, "weight_decay": 5e-4}
        if isinstance(model, WhitenedCNN):
            model.whiten(data)
            settings = WHITENED_RECIPE
        if args.float_epochs is not None:
            settings = settings | {"epochs": args.float_epochs}
        float_recipe = Recipe(augment=args.augment, autocast=args.autocast, **settings)
        pretrained(args.model, model, data, float_recipe, options.make_run(args, ranks), console)
    more = {"moments": moments} | ({"teacher": args.teacher} if args.teacher else {})
    several = len(teachers) > 1
    teacher = Ensemble(teachers, data.calibration_batches(1000)) if several else next(iter(teachers), None)
    FineTuning(
        args.model, model, data, config, recipe, options.make_run(args, ranks), console, more, teacher
    ).run()


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    options.run_script("train_cifar10", args, lambda ranks, console: train(args, ranks, console))


if __name__ == "__main__":
    main()
