"""The models, as ordinary modules, and the weights that a seed gives them.

Shapes: B batch, C classes (or channels, in CHW), D input features, H hidden units.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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


class CNN(nn.Module):
    """x_BD -> logits_BC by 3 x 3 convolutions of stride 2, each followed by the activation, and one linear layer.

    With the default widths it has 0.68 million parameters on 64-pixel pictures of 72 classes, the default MLP 0.80.
    """

    def __init__(self, shape_CHW: tuple[int, int, int], hidden: list[int], classes: int, activation: config.Activation):
        super().__init__()
        self.shape_CHW = shape_CHW
        channels, height, width = shape_CHW
        layers: list[nn.Module] = []
        for before, after in pairwise([channels, *hidden]):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), Activation(activation.name, activation.r)]
            height, width = -(-height // 2), -(-width // 2)
        self.convolutions = nn.Sequential(*layers)
        self.output = nn.Linear([channels, *hidden][-1] * height * width, classes)

    def forward(self, x_BD: Tensor) -> Tensor:
        return self.output(self.convolutions(x_BD.unflatten(1, self.shape_CHW)).flatten(1))


def mlp(run: config.Run, features: int, classes: int) -> MLP:
    """The run's MLP on the CPU in float32, with nn.Linear's own initialisation drawn from run.seed.

    Drawn on the CPU whatever the device, so that a seed is the same weights everywhere.
    """
    with _drawn_from(run.seed):
        return MLP(features, run.model.hidden, classes, run.activation)


def cnn(run: config.Run, features: int, classes: int) -> CNN:
    """The run's convolutional net, likewise."""
    size = run.dataset.image_size
    with _drawn_from(run.seed):
        return CNN((features // size**2, size, size), run.model.hidden, classes, run.activation)


@contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


MODELS: dict[str, Callable[[config.Run, int, int], nn.Module]] = {"mlp": mlp, "linear": mlp, "cnn": cnn}


def build(run: config.Run, features: int, classes: int) -> nn.Module:
    """The run's model, of whatever kind; ValueError names those there are."""
    if run.model.name not in MODELS:
        raise ValueError(f"model.name={run.model.name}: must be one of {', '.join(MODELS)}")
    return MODELS[run.model.name](run, features, classes)
