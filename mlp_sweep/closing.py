"""The last words of a command: what became of a run, or of a sweep's configurations, as its records say.

pandas is imported when there is a table to make, torch never.
"""

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import console, run_dir
from .properties import ACTIVATIONS, OPTIMIZERS

if TYPE_CHECKING:
    import pandas as pd

    from . import aggregate

MOST_ROWS = 20  # of the table, where the terminal has as many
OTHER_LINES = 8  # of the terminal: the table's heading, what is said below it, and the next prompt
MOST_NAMED = 3  # configurations in a sentence


def run(path: Path) -> None:
    """What became of a single run, in a sentence or two."""
    for line in run_words(path, run_dir.read_status(path)):
        console.sentence(line)


def run_words(path: Path, status: dict[str, Any]) -> list[str]:
    settings, outcome, reason = status.get("settings") or {}, status.get("outcome"), status.get("reason")
    activation = settings.get("activation") or {}
    name, r = activation.get("name"), activation.get("r")
    known = ACTIVATIONS.get(str(name))
    label = f"{name} r={r:g}" if known and known.has_slope else str(name)
    if outcome is None:  # failed or stopped: said elsewhere
        return []
    words = [f"{label}: {outcome}" + (f" ({reason})" if reason else "")]
    final, best = (status.get("final") or {}).get("val_accuracy"), status.get("best_val_accuracy")
    if final is not None and math.isfinite(final):
        accuracy = f"validation accuracy {_percent(final)} after {_count(status.get('epoch', 0), 'epoch')}"
        if best is not None:
            accuracy += f" (best {_percent(best)} at epoch {_best_epoch(path, status)})"
        classes = (status.get("data") or {}).get("classes")
        words.append(accuracy + (f"; guessing gives {_percent(1 / classes)}" if classes else ""))
    elif best is not None:
        words.append(f"best validation accuracy before that {_percent(best)}")
    lost = outcome != "ok"
    optimizer = settings.get("optimizer") or {}
    rate = _rate(name, r, optimizer.get("name"), optimizer.get("weight_decay"))
    if lost and rate:
        words.append(f"{_law(f'r = {r:g}')} = {rate:g}")
    return words


def _best_epoch(path: Path, status: dict[str, Any]) -> int:
    columns, rows = run_dir.read_metrics(path, status)
    accuracies = [row[columns.index("val_accuracy")] for row in rows]
    return 1 + accuracies.index(max(a for a in accuracies if not math.isnan(a)))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _rate(name: object, r: Any, optimizer: object, decay: object) -> float:
    """By how much a slope multiplies the hidden layers' learning rate, where it acts like one; else 0."""
    activation, by = ACTIVATIONS.get(str(name)), OPTIMIZERS.get(str(optimizer))
    if not activation or not by or not activation.has_slope or not activation.positively_homogeneous:
        return 0.0
    return r * r if by.is_sgd and not decay and r != 1 else 0.0


def _law(slope: str) -> str:
    return f"{slope} trains like ReLU with the hidden layers' weights times r and their learning rate times r^2"


def sweep(path: Path) -> "aggregate.Sweep":
    """Shows a row per configuration, best first, at most a screen, and why runs were lost; returns what it read."""
    from . import aggregate, statistics  # import pandas

    read = aggregate.read([path])
    runs = statistics.measures(read)
    kept = dict(read.copies)
    jobs = Counter(runs.path)
    for path_of_copy in kept:
        first = path_of_copy
        while first in kept:  # a run that was kept at first and then proved to be a copy of one that came further
            first = kept[first]
        jobs[first] += 1
    runs["jobs"] = runs.path.map(jobs)
    rows = table(runs)
    most = max(5, min(MOST_ROWS, (console.height() or MOST_ROWS + OTHER_LINES) - OTHER_LINES))
    console.table(list(rows.values())[:most], ("val accuracy", "best", "train loss"))
    if len(rows) > most:
        rest = runs[runs.configuration.isin(list(rows)[most:])]
        console.sentence(f"... and {_count(len(rows) - most, 'more configuration')} in report.html: {_outcomes(rest)}")
    if any("\N{PLUS-MINUS SIGN}" in row["val accuracy"] for row in rows.values()):
        console.sentence("mean \N{PLUS-MINUS SIGN} standard deviation over seeds, best first")
    outside = len(read.unfinished) - int(runs.path.isin([path for path, _ in read.unfinished]).sum())
    if outside:
        console.sentence(f"{_count(outside, 'job')} did not begin to train")
    if words := lost_words(runs):
        console.sentence(words)
    return read


def table(runs: "pd.DataFrame") -> dict[str, dict[str, str]]:
    """A row per configuration, best first. `runs`: statistics.measures, with the number of jobs that a run served."""
    from .statistics import by_seed

    rows: list[tuple[float, str, dict[str, str]]] = []
    for name, group in runs.groupby("configuration", sort=False):
        jobs = int(group.jobs.sum())
        accuracy, best, loss = (
            by_seed(group, measure) for measure in ("final_val_accuracy", "best_val_accuracy", "final_train_loss")
        )
        row = {
            "configuration": str(name) + (f", {jobs} jobs" if jobs > len(group) else ""),
            "runs": _outcomes(group),
            "val accuracy": _spread(100 * accuracy, ".1f", " %"),
            "best": _spread(100 * best, ".1f", " %", deviation=False),
            "train loss": _spread(loss, ".2f", "", deviation=False),
        }
        rows.append((-accuracy.mean(), str(name), row))
    rows.sort(key=lambda one: (math.isnan(one[0]), one[0]))
    return {name: row for _, name, row in rows}


def _outcomes(runs: "pd.DataFrame") -> str:
    from .outcomes import OUTCOMES

    counts = runs.outcome.value_counts()
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if outcome in counts)


def _spread(figures: "pd.Series", form: str, unit: str, deviation: bool = True) -> str:
    """Mean, and standard deviation of two seeds or more."""
    figures = figures.dropna()
    if figures.empty:
        return "-"
    spread = f" \N{PLUS-MINUS SIGN} {figures.std():{form}}" if deviation and len(figures) > 1 else ""
    return f"{figures.mean():{form}}{spread}{unit}"


def lost_words(runs: "pd.DataFrame") -> str:
    """Why slopes lost runs, where that follows from what a slope is, and what ReLU reached, if there is one."""
    from .outcomes import LOST

    keys = ("activation.name", "activation.r", "optimizer.name", "optimizer.weight_decay")
    runs = runs.assign(rate=[_rate(*(record.get(key) for key in keys)) for record in runs.to_dict("records")])
    said, rates, plain = [], [], set()
    for label, group in runs[runs.rate > 0].groupby("activation", sort=False):
        if count := int(group.outcome.isin(LOST).sum()):
            said.append(f"{label} lost {count} of {_count(len(group), 'run')}")
            rates.append(float(group.rate.iloc[0]))
            plain.add(ACTIVATIONS[str(group["activation.name"].iloc[0])].unit_slope)
    if not said:
        return ""
    more = [f"{len(said) - MOST_NAMED} more slopes lost some"] if len(said) > MOST_NAMED else []
    here = f"{min(rates):g} to {max(rates):g}" if min(rates) < max(rates) else f"{max(rates):g}"
    words = f"{', '.join(said[:MOST_NAMED] + more)}: {_law('slope r')}, here {here}."
    equal = runs[runs["activation.name"].isin(plain)]
    reached = equal.groupby("seed").final_val_accuracy.mean().mean()
    if equal.configuration.nunique() == 1 and not math.isnan(reached):
        words += f" {equal.configuration.iloc[0]} reached {_percent(reached)}."
    return words
