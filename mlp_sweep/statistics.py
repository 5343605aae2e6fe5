"""What a sweep's figures say of its configurations, and how far they can be trusted.

Seeds are the replicates. Means cover the runs that ended ok, and the counts beside them say how many of how many those
are. The runs of a configuration that lost some are its survivors: their mean is shown, and no test is made of it.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special, stats

from .aggregate import Sweep
from .outcomes import ENDED, LOST, OUTCOMES

CONFIDENCE = 0.95
BASELINE = "relu"  # the activation that others are compared with unless another is named
LEAST_PAIRS = 3  # seeds, or pairs of them: below, there is neither an interval nor a test
TOO_FEW = "too few seeds to say"
INTERVAL = f"{CONFIDENCE:.0%} t interval of the mean over seeds"

MEASURES = {  # of a run that ended ok -> what it is, in words
    "final_val_accuracy": "validation accuracy after the last epoch",
    "best_val_accuracy": "best validation accuracy of any epoch",
    "val_accuracy_area": "area under the validation accuracy curve, per epoch (trapezoid rule)",
    "final_train_loss": "training loss of the last epoch",
    "final_train_accuracy": "training accuracy of the last epoch",
    "final_val_loss": "validation loss after the last epoch",
    "largest_jump": "largest rise of the training loss from one epoch to the next, 0 where it never rose",
}
COMPARED = ("final_val_accuracy", "best_val_accuracy", "val_accuracy_area", "final_train_loss")


@dataclass
class Comparison:
    """A configuration less its baseline, seed by seed: a paired t test and what it rests on."""

    measure: str
    configuration: str
    baseline: str
    pairs: int  # seeds with a figure on both sides
    unpaired: int  # seeds without a pair of figures: lost, failed, running, not run, or of unequal epochs
    unequal_epochs: int  # those of them that ended ok on both sides, after different numbers of epochs
    difference: float
    low: float
    high: float
    effect: float = np.nan  # Hedges' g of the paired differences: their mean over their deviation, bias corrected
    p_uncorrected: float = np.nan
    p: float = np.nan  # corrected for the number of configurations tested on this measure
    note: str = ""  # why there is no p


def measures(sweep: Sweep) -> pd.DataFrame:
    """The runs, with a column for each of MEASURES: missing where a run did not end ok."""
    epochs = sweep.epochs
    by_run = epochs.groupby("run")
    last = epochs.groupby("run").tail(1).set_index("run")
    first = epochs.groupby("run").head(1).set_index("run")
    steps = by_run.size() - 1
    inner = by_run.val_accuracy.sum(min_count=1) - (first.val_accuracy + last.val_accuracy) / 2
    rise = epochs.train_loss.diff().where(epochs.run == epochs.run.shift())
    measured = pd.DataFrame(
        {
            "final_val_accuracy": last.val_accuracy,
            "best_val_accuracy": by_run.val_accuracy.max(),
            "val_accuracy_area": (inner / steps).where(steps > 0, last.val_accuracy),
            "final_train_loss": last.train_loss,
            "final_train_accuracy": last.train_accuracy,
            "final_val_loss": last.val_loss,
            "largest_jump": rise.groupby(epochs.run).max().clip(lower=0),
        }
    )
    runs = sweep.runs.join(measured, on="run")
    runs.loc[runs.outcome != "ok", list(MEASURES)] = np.nan
    return runs


def covers(runs: pd.DataFrame) -> str:
    """What the intervals and tests over seeds cover, in words: the variation of what differs between the seeds."""
    draws = runs["data_seed"].map(str) if "data_seed" in runs else pd.Series("", index=runs.index)
    several = runs.groupby("configuration").seed.nunique() > 1
    varied = (draws.groupby(runs["configuration"]).nunique() > 1)[several]
    if not varied.any():
        return (
            "They cover the variation over initial weights only: the runs of a configuration share data_seed, and so "
            "the order of the batches, the split and the choice of classes. For other orders and other classes they "
            "were found to be 5 to 15 times too narrow; with 'data_seed=${seed}' these vary too."
        )
    some = "" if varied.all() else " in some configurations; in the others that over initial weights only"
    return f"They cover the variation over initial weights, order of the batches and choice of classes{some}."


def mean_interval(figures: pd.Series | np.ndarray) -> tuple[float, float, float]:
    """(mean, low, high) of the figures there are, with the 95 % t interval; no interval below LEAST_PAIRS of them."""
    values = np.asarray(figures, dtype=float)
    values = values[~np.isnan(values)]
    n = len(values)
    mean = float(values.mean()) if n else np.nan
    if n < LEAST_PAIRS:
        return mean, np.nan, np.nan
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half


def by_seed(runs: pd.DataFrame, measure: str) -> pd.Series:
    """One figure per seed: a seed that was run twice is still one replicate."""
    return runs.groupby("seed")[measure].mean()


def summary(sweep: Sweep, baseline: str | None = None) -> pd.DataFrame:
    """A row per configuration: its settings, its runs by outcome, and each measure with its interval."""
    runs = measures(sweep)
    base = baselines(runs, baseline)
    if all(name == other for name, other in base.items()):  # as where only learning rates differ: nothing to reach
        base = {}
    rows = []
    for name, group in runs.groupby("configuration", sort=False):
        counts = group.outcome.value_counts()
        row = {"configuration": name} | {key: group[key].iloc[0] for key in sweep.varied}
        row |= {"seeds": group.seed.nunique(), "runs": len(group)}
        row |= {outcome: int(counts.get(outcome, 0)) for outcome in OUTCOMES}
        row["in_means"] = int((group.outcome == "ok").sum())
        row["ended"] = int(group.outcome.isin(ENDED).sum())
        for measure in MEASURES:
            row[measure], row[f"{measure}_low"], row[f"{measure}_high"] = mean_interval(by_seed(group, measure))
        target = by_seed(runs[runs.configuration == base.get(str(name))], "final_val_accuracy").mean()
        ended = group.run[group.outcome.isin(ENDED)]
        rows.append(row | _epochs_to(target, sweep.epochs, ended))
    return pd.DataFrame(rows)


def _epochs_to(target: float, epochs: pd.DataFrame, runs: pd.Series) -> dict[str, float]:
    """Median over the runs of the first epoch at the target accuracy; a run that never gets there counts as later."""
    reached = epochs[epochs.run.isin(runs) & (epochs.val_accuracy >= target)].groupby("run").epoch.min()
    median = reached.astype(float).reindex(runs, fill_value=np.inf).median()
    return {
        "baseline_accuracy": target,
        "epochs_to_baseline": median if np.isfinite(median) else np.nan,
        "reached_baseline": len(reached),
    }


def baselines(runs: pd.DataFrame, baseline: str | None = None) -> dict[str, str]:
    """For each configuration the one it is compared with: the baseline activation under the same other settings.

    `baseline` names an activation ("relu", "scaled r=2"; relu unless given), or one configuration for all.
    ValueError where a name given is neither.
    """
    wanted = baseline or BASELINE
    known = runs[["configuration", "activation", "others"]].drop_duplicates("configuration")
    if wanted in set(known.activation):
        at = known[known.activation == wanted].set_index("others").configuration
        return {row.configuration: at[row.others] for row in known.itertuples() if row.others in at.index}
    if wanted in set(known.configuration):
        return dict.fromkeys(known.configuration, wanted)
    if baseline is None:
        return {}
    raise ValueError(f"baseline {wanted!r}: no such configuration (here: {', '.join(known.configuration)})")


def compare(
    runs: pd.DataFrame, pairs: Iterable[tuple[str, str]], columns: tuple[str, ...] = COMPARED
) -> list[Comparison]:
    """Each (configuration, baseline), the one less the other, by measure; Holm's correction is over those of one.

    Seeds whose runs trained for different numbers of epochs are left out; where a side lost runs there is no test.
    """
    groups = {str(name): group for name, group in runs.groupby("configuration", sort=False)}
    pairs = [(name, base) for name, base in pairs if name != base]
    epochs = {name: _epochs_by_seed(groups[name]) for name in itertools.chain(*pairs)}
    survivors = {(name, base): _survivors(groups[name], groups[base]) for name, base in pairs}
    compared = []
    for measure in columns:
        figures = {name: by_seed(groups[name], measure) for name in itertools.chain(*pairs)}
        tested = []
        for name, base in pairs:
            both = figures[name].notna() & figures[base].reindex(figures[name].index).notna()
            unequal = both & (epochs[name] != epochs[base].reindex(figures[name].index))
            row = paired(figures[name].mask(unequal), figures[base], survivors[name, base])
            tested.append(Comparison(measure, name, base, unequal_epochs=int(unequal.sum()), **row))
        for comparison, p in zip(tested, holm([c.p_uncorrected for c in tested]), strict=True):
            comparison.p = p
        compared += tested
    return compared


def _epochs_by_seed(runs: pd.DataFrame) -> pd.Series:
    """The epochs that a seed's runs trained for; missing, and so equal to no other, where they differ."""
    epochs = runs.groupby("seed").epoch
    return epochs.max().where(epochs.nunique() == 1)


def _survivors(runs: pd.DataFrame, base: pd.DataFrame) -> str:
    """Why a comparison of what is left of two configurations is none, where one of them lost runs."""
    lost, base_lost = (int(side.outcome.isin(LOST).sum()) for side in (runs, base))
    if not lost and not base_lost:
        return ""
    return f"no test: {lost} of {len(runs)} runs lost, {base_lost} of {len(base)} of the baseline"


def paired(figures: pd.Series, base: pd.Series, no_test: str = "") -> dict[str, Any]:
    """Two configurations' figures by seed, compared on the seeds that have both: the fields of a Comparison.

    `no_test`: why the difference alone is given.
    """
    both = pd.concat([figures, base], axis=1, keys=["a", "b"])
    differences = (both.a - both.b).dropna().to_numpy()
    n = len(differences)
    mean, low, high = mean_interval(differences)
    row = {"pairs": n, "unpaired": len(both) - n, "difference": mean, "low": low, "high": high}
    if no_test:
        return row | {"low": np.nan, "high": np.nan, "note": no_test}
    if n < LEAST_PAIRS:
        return row | {"note": TOO_FEW + (f": {len(both) - n} of {len(both)} have no pair" if n < len(both) else "")}
    spread = differences.std(ddof=1)
    if spread <= 1e-12 * np.nanmax(np.abs(both.to_numpy())):  # rounding is no variance
        return row | {"low": np.nan, "high": np.nan, "note": f"{TOO_FEW}: the differences do not vary"}
    t = mean / spread * np.sqrt(n)
    p = 2 * stats.t.sf(abs(t), n - 1)
    return row | {"effect": float(mean / spread) * hedges_correction(n - 1), "p_uncorrected": float(p)}


def hedges_correction(freedom: int) -> float:
    """What makes a standardised mean difference unbiased (Hedges 1981, J. Educ. Stat. 6(2), equation 6)."""
    log = special.gammaln(freedom / 2) - special.gammaln((freedom - 1) / 2) - np.log(freedom / 2) / 2
    return float(np.exp(log))


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down correction (1979); a missing p value was not a test, and does not count as one."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)[: int(np.isfinite(p).sum())]  # NaN sorts last
    corrected = np.full(len(p), np.nan)
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected.tolist()
