"""One training step in two forms: closed form for a stack of MLPs, autograd for everything else."""

from typing import Protocol

import torch
from torch import Tensor

from .. import config, model
from .reference import ReferenceEngine
from .stacked import StackedEngine

__all__ = ["Engine", "ReferenceEngine", "StackedEngine", "build"]


class Engine(Protocol):
    """M members trained at once. Each is on its own: nothing of one enters another's arithmetic.

    Shapes: M members, B batch, D features, L hidden layers.
    """

    name: str
    kernel: str  # what does the large products, for the record

    @property
    def members(self) -> int: ...
    def step(self, x_BD: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]: ...  # mean loss_M, right_M, before the update
    def grad_norm(self, x_BD: Tensor) -> Tensor: ...  # of the last step's mean loss, which was on x_BD; shape M
    def start_evaluation(self) -> None: ...
    def evaluate(self, x_BD: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]: ...  # summed loss_M, right_M
    def dead(self) -> Tensor: ...  # share of units that no sample activated since start_evaluation, L x M
    def weights(self, member: int) -> dict[str, Tensor]: ...
    def state(self, member: int) -> dict[str, Tensor]: ...  # weights, and what the optimizer keeps
    def load(self, member: int, state: dict[str, Tensor]) -> None: ...  # goes on from there
    def keep(self, members: list[int]) -> None: ...  # goes on with these alone, in this order


def build(runs: list[config.Run], stackable: bool, features: int, classes: int, device: torch.device) -> Engine:
    """The engine that trains these runs together, with the weights that their seeds give."""
    if stackable:
        return StackedEngine(runs, features, classes, device)
    [run] = runs
    return ReferenceEngine(model.build(run, features, classes), run.optimizer, device)
