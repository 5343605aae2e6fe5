"""Each activation beside its derivative, both as functions of the pre-activation z and the slope r.

r is a number or a tensor that broadcasts against z (one slope per member of a stack).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from . import properties

Slope = float | Tensor


@dataclass(frozen=True)
class Function:
    """f(z, r) and f'(z, r) = df/dz, elementwise; the derivative at a kink is PyTorch's: 0 for relu at 0."""

    f: Callable[[Tensor, Slope], Tensor]
    df: Callable[[Tensor, Slope], Tensor]

    def forward(self, z: Tensor, r: Slope, h: Tensor) -> None:
        """h = f(z, r)."""
        h.copy_(self.f(z, r))

    def backward(self, dh: Tensor, z: Tensor, r: Slope) -> None:
        """dh becomes dz = dh f'(z, r)."""
        dh.mul_(self.df(z, r))


class Rectifier(Function):
    """max(0, r z) without the temporaries that the general form makes: a tenth of a step of one member."""

    def forward(self, z: Tensor, r: Slope, h: Tensor) -> None:
        torch.clamp_min(z, 0, out=h).mul_(r)

    def backward(self, dh: Tensor, z: Tensor, r: Slope) -> None:
        torch.ops.aten.threshold_backward.grad_input(dh, z, 0, grad_input=dh).mul_(r)


FUNCTIONS = {
    # max(0, z). Nair and Hinton 2010, "Rectified linear units improve restricted Boltzmann machines".
    "relu": Function(lambda z, r: torch.relu(z), lambda z, r: (z > 0).to(z.dtype)),
    # max(0, r z) = r relu(z) for r > 0.
    "scaled": Rectifier(lambda z, r: torch.relu(z) * r, lambda z, r: (z > 0).to(z.dtype) * r),
}


def get(name: str) -> Function:
    """The function of that name; ValueError names those there are."""
    if name not in FUNCTIONS:
        raise ValueError(f"activation.name={name}: must be one of {', '.join(FUNCTIONS)}")
    return FUNCTIONS[name]


def shared(names: Iterable[str]) -> Function:
    """The function that serves all members of a stack, each with its own slope: relu's is scaled's with r = 1.

    ValueError where one function does not give each member its own numbers.
    """
    names = sorted(set(names))
    families = {properties.family(name) for name in names}
    if len(families) > 1:
        raise ValueError(f"activations of several families in one stack: {', '.join(names)}")
    of_family = [name for name in properties.ACTIVATIONS if properties.family(name) in families]
    serving = next((name for name in of_family if properties.ACTIVATIONS[name].has_slope), of_family[0])
    function, z = get(serving), torch.linspace(-3, 3, 25)
    for name in of_family:
        own = get(name)
        for r in (1.0, 2.5) if properties.ACTIVATIONS[name].has_slope else (1.0,):
            if not torch.equal(function.f(z, r), own.f(z, r)) or not torch.equal(function.df(z, r), own.df(z, r)):
                raise ValueError(f"activation {name}: registered in the family of {serving}, but another function")
    return function


class Activation(nn.Module):
    """f(z, r) as a module, any shape to the same shape, differentiated by autograd."""

    def __init__(self, name: str, r: float) -> None:
        super().__init__()
        self.function, self.r = get(name), r

    def forward(self, z: Tensor) -> Tensor:
        return self.function.f(z, self.r)
