"""Train the float model that the demo ships with, on all 60,000 training images of Fashion-MNIST.

    python examples/train_demo_model.py FOLDER [--epochs 15]

FOLDER holds the four official idx files. Writes abcfx/data/demo_model.npz (f16, 2.3 MB) and prints the accuracy on
the 10,000 test images before and after the rounding to f16. No test image is used for training or for choosing
anything. Ten to fifteen minutes on two idle cores with bfloat16 arithmetic; the file in the package came from this
script with its defaults and has 93.48 %.
"""

import argparse
import time
from pathlib import Path

import torch

from abcfx.cli.demo_model import DemoNet, load_demo_model, save_weights
from abcfx.data import load
from abcfx.train import Recipe, evaluate, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=float, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    data = load(arguments.folder)
    model = DemoNet(data.channels).to(memory_format=torch.channels_last)
    recipe = Recipe(arguments.epochs, 4e-3, optimizer="adamw", weight_decay=0.05, warmup=0.25, pad=2, autocast=True)
    start, losses = time.perf_counter(), []

    def tick(loss: float) -> None:
        losses.append(loss)
        if len(losses) % 100 == 0:
            mean = sum(losses[-100:]) / 100
            seconds = time.perf_counter() - start
            print(f"step {len(losses)}/{recipe.steps(len(data.train_y))}  loss {mean:.3f}  {seconds:.0f} s", flush=True)

    train(model, data, recipe, tick=tick)
    print(f"{data.name}: {evaluate(model, data).accuracy:.2f} % of {len(data.test_y)} test images")
    save_weights(model)
    print(f"{data.name}: {evaluate(load_demo_model(), data).accuracy:.2f} % with the weights in f16, as shipped")


if __name__ == "__main__":
    main()
