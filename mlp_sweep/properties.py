"""What follows from the kind of an activation, a model or an optimizer: a registry by name, without torch.

Code asks for a property, never for a name, so that an entry added here is neither pooled with another kind nor
trained as one.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Activation:
    has_slope: bool = False  # takes activation.r: f(r x); else r is fixed at 1
    positively_homogeneous: bool = False  # f(a x) = a f(x) for every a > 0
    family: str = ""  # activations of one family share a stack, a chart of the slope and the claims about it
    unit_slope: str = ""  # the activation that it equals, and is recorded as, at r = 1


@dataclass(frozen=True)
class Model:
    stackable: bool = False  # served by the stacked engine
    sees_neighbours: bool = False  # knows which pixels lie beside each other
    has_hidden: bool = True  # model.hidden may name hidden layers


@dataclass(frozen=True)
class Optimizer:
    stackable: bool = False  # served by the stacked engine
    is_sgd: bool = False  # its update is linear in the gradient, so that a slope acts as a learning rate


ACTIVATIONS = {
    "relu": Activation(positively_homogeneous=True, family="relu"),
    "scaled": Activation(has_slope=True, positively_homogeneous=True, family="relu", unit_slope="relu"),
}
MODELS = {
    "mlp": Model(stackable=True),
    "linear": Model(stackable=True, has_hidden=False),
    "cnn": Model(sees_neighbours=True),
}
OPTIMIZERS = {"sgd": Optimizer(stackable=True, is_sgd=True)}


def family(activation: str) -> str:
    """The name under which activations are pooled: that of the activation itself where it belongs to no family."""
    return ACTIVATIONS[activation].family or activation


def with_slope(like: str) -> list[str]:
    """The activations that have a slope, those of the same family first: what to use in place of one without."""
    names = (name for name, kind in ACTIVATIONS.items() if kind.has_slope)
    return sorted(names, key=lambda name: family(name) != family(like))
