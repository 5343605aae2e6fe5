"""What there is to say of a stack in training, as it comes: recorded where the command runs, wherever it trains."""

from dataclasses import dataclass
from typing import Any

from .weights import TrainedOn

State = dict[str, Any]  # NumPy arrays: parameters, and what the optimizer keeps, by name


@dataclass
class Row:
    """One member's epoch. Figures of a member that diverged are NaN."""

    member: int  # as numbered when training began
    slot: int  # where it is in the engine now
    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    grad_norm: float  # of the epoch's last batch, before its update
    dead: list[float]  # by hidden layer, share of units that no validation sample activates
    seconds: float  # wall time of the whole stack's epoch, training and validation
    diverged_at: int | None  # the step (from 1) of the member's first loss not finite; one past the last: validation's


@dataclass
class Started:
    """What a stack's records begin with: the columns of metrics.csv, each member's status, lines for the logs."""

    columns: list[str]
    about: list[dict[str, Any]]
    notes: list[str]


@dataclass
class Epoch:
    """One member's epoch and where it stands after it; the state may change once the event is dealt with."""

    row: Row
    state: State


@dataclass
class Ended:
    """A member's last word; `weights` are its parameters alone."""

    member: int
    weights: State
    stateful: bool  # whether going on would need more than the weights
    trained_on: TrainedOn


Event = Started | Epoch | Ended
