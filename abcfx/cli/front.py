"""What every command shares: the parser, one-sentence errors, and the exit codes (0 good, 1 a finding, 2 bad use)."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import NoReturn

COMMANDS = ("demo", "doctor", "summary", "plan", "explain", "bench")
EPILOG = "python -m abcfx COMMAND --help shows the options of a command, with an example."


class UsageError(Exception):
    """Something the user can put right; the message is one sentence that says how."""


class Parser(argparse.ArgumentParser):
    """argparse with an error of one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help shows the options)")


@contextmanager
def usage_errors(prefix: str = "") -> Iterator[None]:
    """Errors in what the user gave, as one sentence. Put it around the call that reads the argument and no more."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        raise UsageError(prefix + one_line(error)) from error


def one_line(error: BaseException) -> str:
    """The first paragraph of an error on one line; its type if it says nothing."""
    text = str(error).strip().split("\n\n")[0]
    return " ".join(text.split()) or type(error).__name__


def positive(text: str) -> int:
    """argparse type: an integer from 1 on."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


positive.__name__ = "positive integer"  # argparse puts it into its message


def build_parser() -> Parser:
    parser = Parser(prog="python -m abcfx", description="ABC-Net quantization for PyTorch.", epilog=EPILOG)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = command_module(name)
        child = commands.add_parser(
            name, help=module.HELP, description=module.HELP, epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        module.add_arguments(child)
    return parser


def command_module(name: str) -> ModuleType:
    return importlib.import_module(f"abcfx.cli.{name}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command → exit code. Errors in the use go to stderr as one sentence, with code 2; Ctrl-C gives 130."""
    arguments = None
    try:
        arguments = build_parser().parse_args(argv)
        return command_module(arguments.command).run(arguments)
    except UsageError as error:
        print(f"abcfx{f' {arguments.command}' if arguments else ''}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nabcfx: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head`: what was asked for has been written
        sys.stderr.close()
        return 0
