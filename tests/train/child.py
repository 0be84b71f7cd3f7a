"""A training in a process of its own, for tests that kill it: python child.py DIR [--resume] [--kill STEP SIGNAL]."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from rich.console import Console
from tiny import quantized_net, tiny_data

from abcfx.train import Recipe, Trainer
from abcfx.train.session import Session
from abcfx.train.signals import Stopped


def a_session(out: Path, save_minutes: float = 10.0) -> Session:
    recipe = Recipe(3, 0.02, batch=12, weight_decay=1e-4)
    trainer = Trainer(quantized_net(dropout=0.2), tiny_data(), recipe, seed=5)
    return Session(trainer, out, name="tiny", settings={"seed": 5}, console=Console(), save_minutes=save_minutes)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--kill", type=int, nargs=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    session = a_session(args.out, save_minutes=0 if args.kill else 10)
    if args.resume:
        session.resume()
    step = session.trainer.train_step

    def killed() -> float:
        if args.kill and session.trainer.step == args.kill[0]:
            os.kill(os.getpid(), args.kill[1])
        return step()

    session.trainer.train_step = killed  # type: ignore[method-assign]
    try:
        session.run()
    except Stopped as stop:
        raise SystemExit(stop.code) from None


if __name__ == "__main__":
    main()
