"""The models, as ordinary modules, and the weights that a seed gives them.

Shapes: B batch, C classes (or channels, in CHW), D input features, H hidden units.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from . import config
from .activations import Activation


class MLP(nn.Module):
    """x_BD -> logits_BC through any list of hidden widths, the empty one included (softmax is in the loss)."""

    def __init__(self, features: int, hidden: list[int], classes: int, activation: config.Activation) -> None:
        super().__init__()
        widths = [features, *hidden, classes]
        self.layers: Sequence[nn.Linear] = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))  # type: ignore[assignment]
        self.activations = nn.ModuleList(Activation(activation.name, activation.r) for _ in hidden)

    def forward(self, x_BD: Tensor) -> Tensor:
        *hidden, output = self.layers
        for layer, activation in zip(hidden, self.activations, strict=True):
            x_BD = activation(layer(x_BD))
        return output(x_BD)


def mlp(run: config.Run, features: int, classes: int) -> MLP:
    """The run's MLP on the CPU in float32, with nn.Linear's own initialisation drawn from run.seed.

    Drawn on the CPU whatever the device, so that a seed is the same weights everywhere.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        return MLP(features, run.model.hidden, classes, run.activation)


MODELS: dict[str, Callable[[config.Run, int, int], nn.Module]] = {"mlp": mlp}


def build(run: config.Run, features: int, classes: int) -> nn.Module:
    """The run's model, of whatever kind; ValueError names those there are."""
    if run.model.name not in MODELS:
        raise ValueError(f"model.name={run.model.name}: must be one of {', '.join(MODELS)}")
    return MODELS[run.model.name](run, features, classes)
