"""What became of a run: one rule, used when a run ends and again when a record is read.

Needs neither torch nor pandas.
"""

import math
from collections.abc import Sequence

LOST = ("collapsed", "exploded", "diverged")  # outcomes of runs whose training broke down
ENDED = ("ok", *LOST)  # outcomes that the rule gives: the run trained to its end, or until it diverged
OUTCOMES = (*ENDED, "failed", "stopped", "running")  # a run that has not ended has its state for an outcome

EXPLODED = 2.0  # times the chance level: a last training loss above it is an explosion
NEAR_CHANCE = 0.05  # of the chance level, on both sides of it: a run that ends so near has learned next to nothing ...
HALF_DEAD = 0.5  # ... and has collapsed if this share of some hidden layer's units is dead

CHANCE = {"cross_entropy": math.log}  # loss -> what guessing costs with so many classes
CHANCE_IN_WORDS = {"cross_entropy": "ln C"}


def chance_level(classes: int, loss: str = "cross_entropy") -> float:
    """The loss of a model that guesses: equal probabilities for all classes."""
    return CHANCE[loss](classes)


def judge(
    epochs: Sequence[dict[str, float]], diverged_at: int | None, classes: int, loss: str = "cross_entropy"
) -> tuple[str, str | None]:
    """(outcome, reason) of a run that ended, from its rows of metrics.csv and the step at which it diverged."""
    if not epochs:
        return "ok", None
    for row in epochs:
        if not (math.isfinite(row["train_loss"]) and math.isfinite(row["val_loss"])):
            step = f"step {diverged_at} of " if isinstance(diverged_at, int) else ""
            return "diverged", f"a loss became NaN or infinite at {step}epoch {row['epoch']:.0f}"
    last, chance = epochs[-1], chance_level(classes, loss)
    guessing = f"guessing ({CHANCE_IN_WORDS[loss]} = {chance:.2f})"
    if _exploded(last, chance):
        said = f"training loss {_number(last['train_loss'])} in the last epoch"
        return "exploded", f"{said}, more than {EXPLODED:g} times that of {guessing}"
    dead = max((share for key, share in last.items() if key.startswith("dead_")), default=0.0)
    if 0 < chance and abs(last["train_loss"] - chance) <= NEAR_CHANCE * chance and dead >= HALF_DEAD:
        said = f"training loss {last['train_loss']:.2f} within {NEAR_CHANCE:.0%} of {guessing}"
        said += f", {dead:.0%} of a hidden layer's units dead"
        worst = max(epochs, key=lambda row: row["train_loss"])
        if _exploded(worst, chance):
            said += f", after an explosion (training loss {_number(worst['train_loss'])} in epoch {worst['epoch']:.0f})"
        return "collapsed", said
    return "ok", None


def _exploded(row: dict[str, float], chance: float) -> bool:
    return 0 < chance and row["train_loss"] > EXPLODED * chance


def _number(loss: float) -> str:
    return f"{loss:.2f}" if loss < 10_000 else f"{loss:.2g}"
