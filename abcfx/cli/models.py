"""MODEL on the command line: `demo`, package.module:callable, or a file that torch.save wrote."""

from __future__ import annotations

import importlib
import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abcfx.cli.demo_model import DemoNet
from abcfx.cli.front import UsageError, one_line

MODEL_HELP = (
    "demo; or package.module:callable that returns a module, e.g. torchvision.models:resnet18; "
    "or the path of a whole module saved by torch.save"
)
# what a module raises while it is imported: missing, not Python, or not made for this torch
IMPORT_ERRORS = (ImportError, SyntaxError, RuntimeError, AttributeError, NameError, OSError, TypeError, ValueError)
# what unpickling raises: on damaged files, on any other file, and on classes that are not there
READ_ERRORS = (RuntimeError, EOFError, OSError, ImportError, AttributeError, LookupError, ValueError, struct.error)
_TORCHVISION = torch.library.Library("torchvision", "FRAGMENT")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int64": torch.int64}


def load_model(text: str, unsafe: bool = False) -> nn.Module:
    """The module that MODEL names, in eval mode; UsageError in one sentence if there is none."""
    if text == "demo":
        model: Any = DemoNet()
    elif Path(text).is_file():
        model = _load_file(Path(text), unsafe)
    elif ":" in text:
        model = _call(*text.split(":", 1))
    else:
        raise UsageError(
            f"no file {text!r}; a model is 'demo', 'package.module:callable' (e.g. torchvision.models:resnet18) "
            f"or the path of a module saved by torch.save"
        )
    if not isinstance(model, nn.Module):
        raise UsageError(f"{text} gave a {type(model).__name__}, not an nn.Module")
    return model.eval()


def _call(module_name: str, attribute: str) -> Any:
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` has it, so that a file in the working directory is found
    if module_name.split(".")[0] in ("torchvision", "timm"):
        _declare_torchvision_operators()
    try:
        value: Any = importlib.import_module(module_name)
    except IMPORT_ERRORS as error:
        raise UsageError(f"cannot import {module_name}: {one_line(error)}") from error
    for name in attribute.split("."):
        if not hasattr(value, name):
            raise UsageError(f"{module_name} has no {attribute!r}")
        value = getattr(value, name)
    if isinstance(value, nn.Module):
        return value
    if not callable(value):
        raise UsageError(f"{module_name}:{attribute} is a {type(value).__name__}, not a callable that returns a module")
    try:
        return value()
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        raise UsageError(f"{module_name}:{attribute}() failed: {one_line(error)}") from error


def _declare_torchvision_operators() -> None:
    """torchvision from PyPI cannot be imported beside a CPU build of torch: operators that it registers are not there.

    Declared without an implementation they satisfy the import; no classification model calls them.
    """
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            _TORCHVISION.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _load_file(path: Path, unsafe: bool) -> Any:
    try:
        value = torch.load(path, map_location="cpu", weights_only=not unsafe)
    except pickle.UnpicklingError as error:
        if unsafe or "weights_only" not in str(error).lower():
            raise UsageError(f"{path} is not a file of torch.save: {one_line(error)}") from error
        raise UsageError(
            f"{path} holds a pickled module, and reading one runs whatever code is in it; "
            f"add --unsafe-load if you trust where it comes from"
        ) from error
    except READ_ERRORS as error:
        raise UsageError(f"{path} is not a file that torch.load can read: {one_line(error)}") from error
    if isinstance(value, dict) and any(isinstance(entry, Tensor) for entry in value.values()):
        raise UsageError(f"{path} holds a state_dict, which has no architecture; give package.module:callable instead")
    return value


def example_input(text: str) -> Tensor:
    """`1,3,224,224` or `1,128:int64` → normal random values from a fixed seed, zeros for integers."""
    sizes, _, name = text.partition(":")
    dtype = DTYPES.get(name or "float32")
    if dtype is None:
        raise UsageError(f"--input {text}: the type must be one of {', '.join(DTYPES)}")
    try:
        shape = [int(part) for part in sizes.split(",")]
    except ValueError:
        shape = []
    if not shape or min(shape) < 1:
        raise UsageError(f"--input {text}: give sizes from 1 on with commas, e.g. 1,3,224,224 or 1,128:int64")
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
