"""Four claims that people make of this experiment, each answered from the data by a rule that is stated with it.

A configuration speaks for a claim, against it, finds both sides alike, or leaves it open (too few seeds, or an interval
that spans zero). A claim holds when some configuration speaks for it and none against; it does not hold when one speaks
against it, or when all find both sides alike; otherwise the data cannot tell.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from .aggregate import COMPLETE, LOST, Sweep
from .config import WITH_SLOPE
from .statistics import CONFIDENCE, LEAST_PAIRS, TOO_FEW, Comparison, baselines, compare, measures

HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "cannot tell"
FOR, AGAINST, ALIKE, OPEN = "for", "against", "alike", "open"
ALPHA = 1 - CONFIDENCE
LARGE_R = 10.0  # an order of magnitude over ReLU's slope
SPATIAL = ("cnn",)  # models that see which pixels are neighbours

_TEST = f"two-sided paired t test over seeds, Holm-corrected over the configurations, p < {ALPHA:.2f}"
_LOST = f"lost (diverged, or collapsed) in more than half of at least {LEAST_PAIRS} seeds"


@dataclass
class Evidence:
    """What one configuration says of a claim."""

    configuration: str
    side: str  # FOR | AGAINST | ALIKE | OPEN
    figures: str


@dataclass
class Finding:
    claim: str
    rule: str
    sides: dict[str, str]  # side -> what it means here, to head the configurations on it
    evidence: list[Evidence] = field(default_factory=list)
    missing: str = ""  # what the data lack, where there is no evidence at all

    @property
    def answer(self) -> str:
        sides = {item.side for item in self.evidence}
        if AGAINST in sides or sides == {ALIKE}:
            return FAILS
        return HOLDS if FOR in sides else UNKNOWN

    @property
    def mixed(self) -> bool:
        """Whether the claim fails as a rule, though some configuration speaks for it."""
        return {FOR, AGAINST} <= {item.side for item in self.evidence}

    @property
    def words(self) -> str:
        """The configurations by what they say, in one or two sentences."""
        by_side = {side: [e.configuration for e in self.evidence if e.side == side] for side in self.sides}
        said = [f"{self.sides[side]}: {_listed(names)}." for side, names in by_side.items() if names]
        return " ".join(said) or self.missing


def findings(sweep: Sweep) -> list[Finding]:
    """The four, on the runs of the MLP (the fourth on all models)."""
    runs = measures(sweep).join(_early_loss(sweep), on="run")
    mlp = runs[runs["model.name"] == "mlp"] if "model.name" in runs else runs
    return [faster_at_first(mlp), relu_more_stable(mlp), large_r_unstable(mlp), mlp_limited(runs, sweep.varied)]


def faster_at_first(runs: pd.DataFrame) -> Finding:
    finding = Finding(
        "Scaled ReLU converges faster at first",
        "Compared with ReLU seed by seed: the training loss, averaged over the first quarter of the epochs. For: it is "
        f"lower ({_TEST}). Against: it is higher by the same test, or more than half of at least {LEAST_PAIRS} runs "
        "diverged within that quarter.",
        {FOR: "Faster", AGAINST: "Not faster", OPEN: "Cannot tell"},
        missing="No scaled ReLU beside a ReLU of the same other settings.",
    )
    against = _against_relu(runs)
    for pair in compare(runs, against, ("early_train_loss",)):
        group = _ended(runs[runs.configuration == pair.configuration])
        gone = int(group.early_train_loss.isna().sum())
        figures = _difference(pair, "training loss {} than ReLU's over the first quarter")
        if gone:
            figures = f"{gone} of {len(group)} runs diverged in the first quarter; {figures}"
        side = _side(pair, want=-1)
        if len(group) >= LEAST_PAIRS and gone > len(group) / 2:
            side = AGAINST
        finding.evidence.append(Evidence(pair.configuration, side, figures))
    return finding


def relu_more_stable(runs: pd.DataFrame) -> Finding:
    finding = Finding(
        "ReLU is more stable",
        f"Compared with ReLU seed by seed. For: the configuration was {_LOST} while ReLU was lost in none; or neither "
        f"was lost in any and its largest rise of the training loss is larger ({_TEST}). Against: the same with the "
        "sides changed. Alike: neither was lost in any seed and no training loss ever rose.",
        {FOR: "Less stable than ReLU", AGAINST: "More stable than ReLU", ALIKE: "As stable", OPEN: "Cannot tell"},
        missing="No scaled ReLU beside a ReLU of the same other settings.",
    )
    against = _against_relu(runs)
    for pair in compare(runs, against, ("largest_jump",)):
        pairs = pd.concat(
            [_lost_by_seed(runs, pair.configuration), _lost_by_seed(runs, pair.baseline)], axis=1
        ).dropna()
        scaled, relu = pairs.iloc[:, 0] > 0, pairs.iloc[:, 1] > 0
        n, only_scaled, only_relu = len(pairs), int((scaled & ~relu).sum()), int((relu & ~scaled).sum())
        figures = f"lost in {scaled.sum()} of {n} seeds, ReLU in {relu.sum()}"
        if scaled.any() or relu.any():
            if only_scaled + only_relu:
                worse = max(only_scaled, only_relu)
                p = stats.binomtest(worse, only_scaled + only_relu, alternative="greater").pvalue
                figures += f" (one-sided sign test p = {p:.2g})"
            side = FOR if only_scaled > n / 2 and not relu.any() else OPEN
            side = AGAINST if only_relu > n / 2 and not scaled.any() else side
        else:
            rises = runs[runs.configuration.isin([pair.configuration, pair.baseline])].largest_jump
            side = ALIKE if rises.max() == 0 else _side(pair, want=1)
            risen = _difference(pair, "largest rise of the training loss {} than ReLU's")
            figures += "; no training loss ever rose" if side == ALIKE else f"; {risen}"
        if n < LEAST_PAIRS:
            side, figures = OPEN, f"{figures}: {TOO_FEW}"
        finding.evidence.append(Evidence(pair.configuration, side, figures))
    return finding


def large_r_unstable(runs: pd.DataFrame) -> Finding:
    finding = Finding(
        "Large scaling factors make training unstable",
        "Among runs that differ in r alone, ReLU being r = 1. For: the configuration of the largest r was "
        f"{_LOST}, and that of the smallest in none of at least {LEAST_PAIRS}. Against: the largest r is {LARGE_R:g} "
        f"or more, and at least {LEAST_PAIRS} runs of it were all trained to their end. In brackets: the 95 % "
        "Clopper-Pearson interval of the share lost.",
        {FOR: "Unstable at its largest r", AGAINST: "Stable at its largest r", OPEN: "Cannot tell"},
        missing="No runs that differ in r alone.",
    )
    slopes = runs[runs["activation.name"].isin(["relu", *WITH_SLOPE])]
    for others, group in slopes.groupby("others", sort=False):
        shares = _ended(group).groupby("activation.r").outcome.agg(lambda o: o.isin(LOST).sum())
        counts = _ended(group).groupby("activation.r").size()
        if len(shares) < 2:
            continue
        small, large = shares.index[0], shares.index[-1]
        side = OPEN
        if counts[large] >= LEAST_PAIRS:
            if shares[large] > counts[large] / 2 and shares[small] == 0 and counts[small] >= LEAST_PAIRS:
                side = FOR
            elif shares[large] == 0 and large >= LARGE_R:
                side = AGAINST
        figures = "; ".join(_share(r, int(shares[r]), int(counts[r])) for r in shares.index)
        finding.evidence.append(Evidence(f"r = {small:g} to {large:g} {others}".strip(), side, figures))
    return finding


def mlp_limited(runs: pd.DataFrame, varied: list[str]) -> Finding:
    finding = Finding(
        "The MLP is limited for want of spatial features",
        f"Compared seed by seed with a model that has them ({', '.join(SPATIAL)}) under the same other settings: the "
        f"best validation accuracy of any epoch. For: the MLP's is lower ({_TEST}). Against: it is higher.",
        {FOR: "Lower than with spatial features", AGAINST: "Higher", OPEN: "Cannot tell"},
        missing="No runs of a model with spatial features to compare with (model=cnn).",
    )
    if "model.name" not in varied:
        return finding
    same = [c for c in varied if not c.startswith("model.")]
    one = runs.drop_duplicates("configuration").assign(key=lambda r: r[same].astype(str).agg(" ".join, axis=1))
    spatial = one[one["model.name"].isin(SPATIAL)].drop_duplicates("key").set_index("key").configuration
    mlp = one[(one["model.name"] == "mlp") & one.key.isin(spatial.index)]
    against = {str(name): str(spatial[key]) for name, key in zip(mlp.configuration, mlp.key, strict=True)}
    for pair in compare(runs, against, ("best_val_accuracy",)):
        figures = _difference(pair, f"best validation accuracy {{}} than {pair.baseline}'s")
        finding.evidence.append(Evidence(pair.configuration, _side(pair, want=-1), figures))
    return finding


def _early_loss(sweep: Sweep) -> pd.Series:
    """Training loss averaged over the first quarter of the epochs, by run; missing where one of them is."""
    quarter = np.ceil(sweep.runs.set_index("run").epochs / 4).clip(lower=1)
    early = sweep.epochs[sweep.epochs.epoch <= sweep.epochs.run.map(quarter)].groupby("run").train_loss
    whole = early.count() == quarter.reindex(early.count().index)
    return early.mean().where(whole).rename("early_train_loss")


def _against_relu(runs: pd.DataFrame) -> dict[str, str]:
    if not (runs["activation.name"] == "relu").any():
        return {}
    scaled = set(runs[runs["activation.name"].isin(WITH_SLOPE)].configuration)
    return {name: base for name, base in baselines(runs, "relu").items() if name in scaled}


def _ended(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs.outcome.isin([*COMPLETE, *LOST])]


def _lost_by_seed(runs: pd.DataFrame, configuration: str) -> pd.Series:
    group = _ended(runs[runs.configuration == configuration])
    return group.outcome.isin(LOST).groupby(group.seed).max()


def _side(pair: Comparison, want: int) -> str:
    """The side that a paired comparison takes, where a difference of the sign wanted speaks for the claim."""
    if not pair.p < ALPHA:
        return OPEN
    return FOR if pair.difference * want > 0 else AGAINST


def _difference(pair: Comparison, sentence: str) -> str:
    """A paired comparison in words: direction, size, interval, p."""
    if pair.pairs == 0:
        return "no seed with figures on both sides"
    said = f"{abs(pair.difference):.3g} {'lower' if pair.difference < 0 else 'higher'}"
    said = f"{pair.pairs} seeds: {sentence.format(said)}"
    if pair.note:
        return f"{said}; {pair.note}"
    p = "< 0.001" if pair.p < 0.001 else f"= {pair.p:.2g}"
    return f"{said} (difference {pair.difference:+.3g}, 95 % {pair.low:+.3g} to {pair.high:+.3g}; p {p})"


def _share(r: float, lost: int, runs: int) -> str:
    ci = stats.binomtest(lost, runs).proportion_ci(CONFIDENCE, method="exact")
    return f"r = {r:g}: {lost} of {runs} lost ({ci.low:.0%} to {ci.high:.0%})"


def _listed(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
