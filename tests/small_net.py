"""A small network with one of everything, and the gradients of a model, for the tests of compiled models."""

from __future__ import annotations

from torch import Tensor, nn


class Net(nn.Module):
    """Every kind of thing a backend meets: 3x3 convolutions, batch norm, a residual, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.body = nn.Conv2d(32, 32, 3, padding=1)
        self.down = nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False)
        self.hidden = nn.Linear(64, 48)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = (x + self.body(x)).relu()
        x = self.down(x).relu().mean((2, 3))
        return self.head(self.hidden(x).relu())


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(x).square().sum().backward()
    return {
        name.removeprefix("_orig_mod."): p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }
