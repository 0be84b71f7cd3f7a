"""Options of `torch.compile(..., backend="abc", options={...})`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from abcfx.config import Config

FLOAT_LAYERS = ("f32", "bf16")
THEN = ("inductor", "aot_eager", "eager")
# no fields of Config
OWN = ("calibration_batches", "autotune", "min_speedup", "fuse", "float_layers", "recompute", "simulate", "then")


@dataclass(frozen=True)
class Options:
    """config               how float layers are quantized; None: only layers that quantize_model made are lowered
    calibration_batches  float layers: the first batches fit the activation levels, which are frozen afterwards
    autotune             measure each layer shape once, in every form, instead of asking the cost model; kept on disk
    min_speedup          float models, inference: a layer that is not this many times faster than in float stays float;
                         0 quantizes every layer of the plan
    fuse                 inference: batch norm, activations, additions and packing move into the kernels before them
    float_layers         inference: "bf16" multiplies in bfloat16 in layers that stay in float (passes/narrow_floats.py)
    recompute            training: keep bits for the backward pass and compute layer outputs again from them
    simulate             training: dense products of quantized values, not products on bits (passes/simulate.py)
    then                 who compiles the rest of the graph
    """

    config: Config | None = None
    calibration_batches: int = 1
    autotune: bool = False
    min_speedup: float = 1.0
    fuse: bool = True
    float_layers: str = "f32"
    recompute: bool = True
    simulate: bool = False
    then: str = "inductor"

    @classmethod
    def parse(cls, options: Mapping[str, Any] | None) -> Options:
        """ValueError for an unknown key, a value out of range, or layer rules without M and N."""
        given = dict(options or {})
        own = {key: given.pop(key) for key in OWN if key in given}
        known = [f.name for f in fields(Config)]
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"backend 'abc' got unknown options {unknown}; it takes {', '.join([*known, *OWN])}")
        if given and not {"M", "N"} <= set(given):
            raise ValueError(f"backend 'abc' needs both M and N to quantize float layers, got only {sorted(given)}")
        result = cls(Config(**given) if given else None, **own)
        for choice, known in (("then", THEN), ("float_layers", FLOAT_LAYERS)):
            if (got := getattr(result, choice)) not in known:
                raise ValueError(f"option '{choice}' must be one of {', '.join(known)}, got {got!r}")
        for switch in ("autotune", "fuse", "recompute", "simulate"):
            if not isinstance(getattr(result, switch), bool):
                raise ValueError(f"option '{switch}' must be True or False, got {getattr(result, switch)!r}")
        least = result.min_speedup
        if isinstance(least, bool) or not isinstance(least, (int, float)) or not 0 <= least < float("inf"):
            raise ValueError(f"option 'min_speedup' must be a number from 0 on, got {least!r}")
        if not isinstance(result.calibration_batches, int) or result.calibration_batches < 1:
            raise ValueError(f"option 'calibration_batches' must be at least 1, got {result.calibration_batches!r}")
        return result
