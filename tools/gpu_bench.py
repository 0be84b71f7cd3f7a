"""Everything to do with a GPU in one run: build, test, sanitize, measure. Results are kept after every section.

    python tools/gpu_bench.py --out DIR                       all sections, each within its own time limit, 9 min in all
    python tools/gpu_bench.py --out DIR                       once more: goes on with the sections that are missing
    python tools/gpu_bench.py --out DIR --only gemm fused     these sections, again
    python tools/gpu_bench.py --out DIR --device cpu --quick  dry run of the measuring logic, tiny sizes: no claim

Writes DIR/gpu.json and DIR/gpu.md with the date, the chip and the command. Times are medians of CUDA events.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
B1_PEAK = 15.5e15  # operations a second, two for each multiply-add: an H100 or H200
LIMITS = {"build": 240, "tests": 120, "memcheck": 90, "racecheck": 90, "pack": 30, "gemm": 60, "fused": 60, "conv": 90,
          "author": 60, "gemv": 30, "models": 90, "training": 120, "breakeven": 60}  # fmt: skip
Row = dict[str, Any]


def run(command: list[str], seconds: float) -> Row:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"command": " ".join(command), "rc": "timed out"}
    tail = (done.stdout + done.stderr).splitlines()[-12:]
    return {"command": " ".join(command), "rc": done.returncode, "tail": "\n".join(tail)}


class Bench:
    """The measuring sections; each yields rows, and stops when its time is up."""

    def __init__(self, device: str, quick: bool) -> None:
        import torch

        import abcfx  # noqa: F401  registers the ops
        from abcfx.ops.kernel_weights import lanes_of

        self.torch, self.k, self.quick = torch, torch.ops.abc_k, quick
        self.device = torch.device(device)
        self.lanes = lanes_of("xnor", self.device)
        self.deadline = float("inf")

    def ms(self, call: Callable[[], object]) -> float:
        """Median of 5 timings of enough calls for 5 ms, after warming up."""
        cuda = self.device.type == "cuda"
        wait = self.torch.cuda.synchronize if cuda else (lambda: None)
        call(), wait()
        start = time.perf_counter()
        call(), wait()
        calls = 1 if self.quick else max(1, min(50, int(0.005 / max(time.perf_counter() - start, 1e-7))))
        found = []
        for _ in range(5):
            wait()
            if cuda:
                first, last = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
                first.record()
                for _ in range(calls):
                    call()
                last.record()
                wait()
                found.append(first.elapsed_time(last) / calls)
            else:
                start = time.perf_counter()
                for _ in range(calls):
                    call()
                found.append(1e3 * (time.perf_counter() - start) / calls)
        return statistics.median(found)

    def weights(self, m: int, outputs: int, taps: int, channels: int) -> tuple:
        t = self.torch
        bases = t.randint(0, 2, (m, outputs, taps, channels), dtype=t.int8, device=self.device) * 2 - 1
        alpha = t.rand(m, outputs, device=self.device)
        return self.k.pack_weights(bases, 1, self.lanes), alpha, t.rand(outputs, taps, device=self.device), None

    def levels(self) -> tuple:
        return self.torch.tensor([0.5], device=self.device), self.torch.tensor([-1.0], device=self.device)

    def linear(self, rows: int, depth: int, outputs: int, m: int, n: int) -> tuple[Callable, Callable]:
        """(product alone, pack and product)"""
        levels, weights = self.levels(), self.weights(m, outputs, 1, depth)
        x = self.torch.randn(rows, depth, device=self.device)
        planes = self.k.pack_rows(x, *levels, n, "coded")
        product = lambda bits: self.k.linear(bits, *weights, *levels, "coded", depth)  # noqa: E731
        return lambda: product(planes), lambda: product(self.k.pack_rows(x, *levels, n, "coded"))

    def conv(self, c: int, o: int, size: int, stride: int, batch: int, image: int, m: int, n: int) -> Callable:
        levels, weights, pad = self.levels(), self.weights(m, o, size * size, c), size // 2
        x = self.torch.randn(batch, c, image, image, device=self.device)
        x = x.contiguous(memory_format=self.torch.channels_last)
        geometry = (c, [size] * 2, [stride] * 2, [pad] * 2, [1, 1], 1)
        return lambda: self.k.conv2d(
            self.k.pack_image(x, *levels, n, "coded", 1, [pad, pad]), *weights, *levels, "coded", *geometry
        )

    def tf32(self, on: bool) -> None:
        self.torch.backends.cuda.matmul.allow_tf32 = self.torch.backends.cudnn.allow_tf32 = on

    def rivals_linear(self, rows: int, depth: int, outputs: int) -> Row:
        t, found = self.torch, {}
        for name, dtype, tf32 in (
            ("f32", t.float32, False),
            ("tf32", t.float32, True),
            ("f16", t.float16, False),
            ("bf16", t.bfloat16, False),
        ):
            self.tf32(tf32)
            a, b = (t.randn(shape, device=self.device, dtype=dtype) for shape in ((rows, depth), (depth, outputs)))
            found[name] = self.ms(lambda a=a, b=b: a @ b)
        if rows > 16:
            a, b = (
                t.randint(-9, 9, shape, device=self.device, dtype=t.int8) for shape in ((rows, depth), (depth, outputs))
            )
            found["int8"] = self.ms(lambda: t._int_mm(a, b))
        return found

    def rivals_conv(self, c: int, o: int, size: int, stride: int, batch: int, image: int) -> Row:
        t, found = self.torch, {}
        for name, dtype, tf32 in (("f32", t.float32, False), ("tf32", t.float32, True), ("f16", t.float16, False)):
            self.tf32(tf32)
            x = t.randn(batch, c, image, image, device=self.device, dtype=dtype).contiguous(
                memory_format=t.channels_last
            )
            w = t.randn(o, c, size, size, device=self.device, dtype=dtype).contiguous(memory_format=t.channels_last)
            found[name] = self.ms(lambda x=x, w=w: t.nn.functional.conv2d(x, w, None, stride, size // 2))
        return found

    def pack(self):
        for rows, depth in [(64, 256)] if self.quick else [(8192, 4096), (16384, 8192)]:
            for dtype in ("float32", "float16"):
                x = self.torch.randn(rows, depth, device=self.device).to(getattr(self.torch, dtype))
                y, size = self.torch.empty_like(x), x.numel() * x.element_size()
                copy = 2 * size / self.ms(lambda: y.copy_(x)) / 1e6  # noqa: B023
                for n in (1, 2, 4):
                    ms = self.ms(lambda: self.k.pack_rows(x, *self.levels(), n, "coded"))  # noqa: B023
                    yield {
                        "rows": rows,
                        "depth": depth,
                        "dtype": dtype,
                        "N": n,
                        "ms": ms,
                        "read_gb_s": size / ms / 1e6,
                        "copy_gb_s": copy,
                    }

    def gemm(self):
        for size in [64] if self.quick else [1024, 2048, 4096, 8192, 16384]:
            ms = self.ms(self.linear(size, size, size, 1, 1)[0])
            yield {
                "size": size,
                "ms": ms,
                "tops": 2e-9 * size**3 / ms,
                "percent_of_15.5P": 2e5 * size**3 / ms / B1_PEAK,
            }

    def fused(self):
        for size in [64] if self.quick else [1024, 4096, 8192]:
            rivals = self.rivals_linear(size, size, size)
            for m, n in [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]:
                yield {"size": size, "M": m, "N": n, "ms": self.ms(self.linear(size, size, size, m, n)[1]), **rivals}

    def conv_section(self):
        nets = {
            "ResNet-18": [(64, 64, 3, 1, 32, 56), (128, 128, 3, 1, 32, 28),
                          (256, 256, 3, 1, 32, 14), (512, 512, 3, 1, 32, 7)],
            "ResNet-50": [(256, 64, 1, 1, 32, 56), (512, 128, 1, 1, 32, 28),
                          (1024, 256, 1, 1, 32, 14), (2048, 512, 1, 1, 32, 7)],
            "WRN-28-10": [(160, 160, 3, 1, 128, 32), (320, 320, 3, 1, 128, 16), (640, 640, 3, 1, 128, 8)],
        }  # fmt: skip
        for net, layers in {"tiny": [(64, 8, 3, 1, 1, 5)]}.items() if self.quick else nets.items():
            for layer in layers:
                rivals = self.rivals_conv(*layer)
                for m, n in [(1, 1), (2, 2), (3, 3)]:
                    yield {
                        "net": net,
                        "layer": str(layer),
                        "M": m,
                        "N": n,
                        "ms": self.ms(self.conv(*layer, m, n)),
                        **rivals,
                    }

    def author(self):
        layer = (64, 8, 3, 1, 1, 5) if self.quick else (128, 128, 3, 1, 32, 50)
        rivals = self.rivals_conv(*layer)
        for m in range(1, 2 if self.quick else 6):
            for n in range(1, 6):
                yield {"layer": str(layer), "M": m, "N": n, "ms": self.ms(self.conv(*layer, m, n)), **rivals}

    def gemv(self):
        for depth, outputs in [(64, 64)] if self.quick else [(4096, 4096), (4096, 11008), (8192, 8192)]:
            rivals = self.rivals_linear(1, depth, outputs)
            for m, n in [(1, 1), (2, 2), (2, 4)]:
                yield {
                    "depth": depth,
                    "outputs": outputs,
                    "M": m,
                    "N": n,
                    "ms": self.ms(self.linear(1, depth, outputs, m, n)[1]),
                    **rivals,
                }

    def models(self):
        import torchvision

        import abcfx

        t = self.torch
        for name, image in [("resnet18", 32)] if self.quick else [("resnet18", 224), ("resnet50", 224)]:
            for batch in (1,) if self.quick else (1, 32):
                model = getattr(torchvision.models, name)().eval().to(self.device, memory_format=t.channels_last)
                x = t.randn(batch, 3, image, image, device=self.device).contiguous(memory_format=t.channels_last)
                row: Row = {"model": name, "batch": batch}
                with t.inference_mode():
                    for key, tf32, dtype in (("f32", False, None), ("tf32", True, None), ("f16", False, t.float16)):
                        self.tf32(tf32)
                        with t.autocast(self.device.type, dtype=dtype or t.bfloat16, enabled=dtype is not None):
                            row[key] = self.ms(lambda: model(x))  # noqa: B023
                    for m, n in [(1, 1), (2, 2)]:
                        quantized = abcfx.quantize_model(model, M=m, N=n)
                        abcfx.calibrate(quantized, [x])
                        row[f"abc{m}{n}"] = self.ms(lambda: quantized(x))  # noqa: B023
                yield row

    def training(self):
        """Whole steps of ResNet-18, forward, backward and SGD, compiled; quantized ones with (M, N, K) = (2, 2, 4)."""
        import torchvision

        import abcfx

        t = self.torch
        image, batches = (32, (2,)) if self.quick else (224, (32, 128))
        for batch in batches:
            x = t.randn(batch, 3, image, image, device=self.device).contiguous(memory_format=t.channels_last)
            target = t.randint(1000, (batch,), device=self.device)
            row: Row = {"model": "resnet18", "batch": batch}
            for key in ("f32", "tf32", "f16", "abc224"):
                model = torchvision.models.resnet18().to(self.device, memory_format=t.channels_last)
                if key == "abc224":
                    model = abcfx.quantize_model(model, M=2, N=2, grad_bases=4)
                    abcfx.calibrate(model, [x])
                self.tf32(key == "tf32")
                row[key] = self.ms(self.step(model.train(), x, target, key))
            yield row

    def step(self, model: Any, x: Any, target: Any, key: str) -> Callable[[], None]:
        """f16 is autocast without a scaler of losses: what it computes does not matter here."""
        t = self.torch
        optimizer = t.optim.SGD(model.parameters(), 1e-3, momentum=0.9, fused=self.device.type == "cuda")
        run = model if self.quick else t.compile(model, backend="abc" if key.startswith("abc") else "inductor")

        def step() -> None:
            with t.autocast(self.device.type, dtype=t.float16, enabled=key == "f16"):
                loss = t.nn.functional.cross_entropy(run(x), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        return step

    def breakeven(self):
        for size in [64] if self.quick else [1024, 2048, 4096, 8192]:
            rivals = self.rivals_linear(size, size, size)
            below = {name: 0 for name in rivals}
            for m, n in [(1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (3, 4), (4, 4), (4, 5), (5, 5)]:
                ms = self.ms(self.linear(size, size, size, m, n)[1])
                below = {name: max(below[name], m * n) if ms < rivals[name] else below[name] for name in rivals}
            yield {"size": size, **{f"largest MN faster than {name}": value for name, value in below.items()}}


def checks(name: str, seconds: float) -> list[Row]:
    tests = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "tests/cuda/test_cuda_device.py",
        "tests/cuda/test_device_training.py",
    ]
    if name == "build":
        return [run([sys.executable, "setup.py", "build_ext", "--inplace"], seconds)]
    if name == "tests":
        return [run([*tests, "tests/ops/test_choose_cuda.py"], seconds)]
    if shutil.which("compute-sanitizer") is None:
        return [{"skipped": "compute-sanitizer is not installed"}]
    pick = ["-k", "linear_gives and 5 and 64 or conv2d_gives and 256 or positions or emitting or values_and_maxima"]
    return [run(["compute-sanitizer", "--tool", name, "--error-exitcode", "9", *tests, *pick], seconds)]


def measure(name: str, device: str, quick: bool, seconds: float) -> list[Row]:
    bench, rows, end = Bench(device, quick), [], time.monotonic() + seconds
    section = {"conv": bench.conv_section}.get(name) or getattr(bench, name)
    try:
        for row in section():
            rows.append(row)
            if time.monotonic() > end:
                rows.append({"cut": f"after {seconds:.0f} s"})
                break
    except Exception as error:  # one section must not cost the others; the error is the result
        rows.append({"error": f"{type(error).__name__}: {error}"[:600]})
    return rows


def markdown(results: Row) -> str:
    lines = [
        f"# GPU: {results['chip']}",
        "",
        f"{results['date']}, torch {results['torch']}",
        "",
        f"    {results['command']}",
        "",
    ]
    for name, rows in results["sections"].items():
        lines += [f"## {name}", ""]
        keys = list(dict.fromkeys(key for row in rows for key in row if key != "tail"))
        lines += ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
        show = lambda value: f"{value:.4g}" if isinstance(value, float) else str(value)  # noqa: E731
        lines += ["| " + " | ".join(show(row.get(key, "")) for key in keys) + " |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=LIMITS)
    parser.add_argument("--total", type=float, default=540, help="seconds in all")
    options = parser.parse_args(arguments)
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch sees no CUDA device; --device cpu --quick is the dry run")
        return 2
    begin, kept = time.monotonic(), options.out / "gpu.json"
    options.out.mkdir(parents=True, exist_ok=True)
    results = json.loads(kept.read_text()) if kept.is_file() else {"sections": {}}
    results |= {"chip": torch.cuda.get_device_name() if options.device == "cuda" else "CPU dry run: no claim",
                "torch": torch.__version__, "date": datetime.date.today().isoformat(),
                "command": "python tools/gpu_bench.py " + " ".join(arguments or sys.argv[1:])}  # fmt: skip
    wanted = options.only or [name for name in LIMITS if name not in results["sections"]]
    for name in wanted:
        left = options.total - (time.monotonic() - begin)
        if left < 15:
            print(f"{name}: no time left; the same command goes on from here")
            break
        is_check = name in ("build", "tests", "memcheck", "racecheck")
        if is_check and options.device == "cpu":
            continue
        seconds = min(LIMITS[name], left)
        rows = checks(name, seconds) if is_check else measure(name, options.device, options.quick, seconds)
        results["sections"][name] = rows
        kept.with_suffix(".part").write_text(json.dumps(results, indent=1))
        os.replace(kept.with_suffix(".part"), kept)
        (options.out / "gpu.md").write_text(markdown(results))
        print(f"{name}: {rows[-1]}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
