"""Several processes train one model: each takes its part of every batch, and gradients are averaged.

Started by torchrun, which sets RANK, WORLD_SIZE and LOCAL_RANK. The gradient is that of one process with the joined
batch, up to the order of f32 sums, with two exceptions. Batch norm: each process normalizes by the moments of its own
part (torch's SyncBatchNorm works on GPUs only), and the running statistics are averaged before they are used. Steps of
coded levels: their gradient is dithered by the place of each input in its tensor (abcfx/quant/ste.py), and the places
in a part are not those in the batch, so the two agree in the mean over the dither only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from abcfx.layers import ABCLayer


@dataclass(frozen=True)
class Ranks:
    """This process is number `rank` of `world`. With world = 1 every method does nothing, or returns what it got."""

    rank: int = 0
    world: int = 1

    @classmethod
    def from_environment(cls) -> Ranks:
        """Join the group that torchrun has set up (nccl where there are GPUs, else gloo); ALONE without torchrun."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return ALONE
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if cuda else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def device(self) -> torch.device:
        """Where tensors must be to be exchanged."""
        on_gpu = self.world > 1 and dist.get_backend() == "nccl"
        return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")

    def check_batch(self, batch: int) -> None:
        """ValueError unless every process gets as many images: only then is the mean of the means the joined mean."""
        if batch % self.world:
            raise ValueError(f"a batch of {batch} cannot be shared equally by {self.world} processes; give a multiple")

    def part(self, first: int, last: int) -> slice:
        """The run of the places first … last - 1 that this process takes."""
        size = (last - first) // self.world
        return slice(first + self.rank * size, first + (self.rank + 1) * size)

    def broadcast(self, model: nn.Module) -> None:
        """All processes take the parameters and buffers of the first one."""
        if self.world > 1:
            with torch.no_grad():
                for tensor in (*model.parameters(), *model.buffers()):
                    dist.broadcast(tensor, 0)

    def average_gradients(self, model: nn.Module) -> None:
        """grad ← mean over the processes, all gradients in one exchange.

        The gradients of coded activation levels have a factor 1/√(numel(x)·K) (abcfx/quant/ste.py). A part of the batch
        has `world` times fewer inputs than the batch, so they come out √world times too large, and are divided by that.
        """
        if self.world == 1:
            return
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1).float() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
        for level in coded_levels(model):
            if level.grad is not None:
                level.grad /= self.world**0.5

    def average_statistics(self, model: nn.Module) -> None:
        """Running means and variances of batch norm ← their means over the processes."""
        if self.world > 1:
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                    for tensor in (module.running_mean, module.running_var):
                        dist.all_reduce(tensor)
                        tensor /= self.world

    def sums(self, *values: float) -> tuple[float, ...]:
        """Each value, summed over the processes."""
        if self.world == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return tuple(total.tolist())

    def largest(self, value: float) -> float:
        """The largest value that any process has."""
        if self.world == 1:
            return value
        found = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return float(found)

    def leave(self) -> None:
        if self.world > 1:
            dist.destroy_process_group()


ALONE = Ranks()


def coded_levels(model: nn.Module) -> list[Tensor]:
    """Scales and shifts of all layers with coded levels."""
    layers = [m for m in model.modules() if isinstance(m, ABCLayer) and m.plan.levels == "coded"]
    return [level for layer in layers for level in (layer.activation_scale, layer.activation_shift)]
