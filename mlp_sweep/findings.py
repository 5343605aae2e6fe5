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
from .statistics import CONFIDENCE, LEAST_PAIRS, TOO_FEW, Comparison, baselines, compare, holm, measures

HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "cannot tell"
FOR, AGAINST, ALIKE, OPEN = "for", "against", "alike", "open"
ALPHA = 1 - CONFIDENCE
LARGE_R = 10.0  # an order of magnitude over ReLU's slope
SPATIAL = ("cnn",)  # models that see which pixels are neighbours

_TEST = f"two-sided paired t test over seeds, Holm-corrected over the configurations, p < {ALPHA:.2f}"
_SHARES = "one-sided exact test of Boschloo of the two shares"


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
        "diverged within that quarter and none of ReLU's.",
        {FOR: "Faster", AGAINST: "Not faster", OPEN: "Cannot tell"},
        missing="No scaled ReLU beside a ReLU of the same other settings.",
    )
    against = _against_relu(runs)
    for pair in compare(runs, against.items(), ("early_train_loss",)):
        group, relu = (_ended(runs[runs.configuration == name]) for name in (pair.configuration, pair.baseline))
        gone, relu_gone = (int(one.early_train_loss.isna().sum()) for one in (group, relu))
        figures = _difference(pair, "training loss {} than ReLU's over the first quarter")
        if gone or relu_gone:
            relus = f", {relu_gone} of {len(relu)} of ReLU" if relu_gone else ""
            figures = f"{gone} of {len(group)} runs diverged in the first quarter{relus}; {figures}"
        side = _side(pair, want=-1)
        if len(group) >= LEAST_PAIRS and gone > len(group) / 2 and not relu_gone:
            side = AGAINST
        finding.evidence.append(Evidence(pair.configuration, side, figures))
    return finding


def relu_more_stable(runs: pd.DataFrame) -> Finding:
    finding = Finding(
        "ReLU is more stable",
        f"Compared with ReLU over at least {LEAST_PAIRS} runs of each. For: more of its runs were lost, diverged or "
        f"collapsed ({_SHARES}, Holm-corrected over the configurations, p < {ALPHA:.2f}); or none of either was lost "
        f"and its largest rise of the training loss is larger ({_TEST}). Against: the same with the sides changed. "
        "Alike: none of either was lost and no training loss ever rose.",
        {FOR: "Less stable than ReLU", AGAINST: "More stable than ReLU", ALIKE: "As stable", OPEN: "Cannot tell"},
        missing="No scaled ReLU beside a ReLU of the same other settings.",
    )
    against = _against_relu(runs)
    lost = {name: _lost(runs[runs.configuration == name]) for name in {*against, *against.values()}}
    more = holm([_more_lost(lost[name], lost[base]) for name, base in against.items()])
    less = holm([_more_lost(lost[base], lost[name]) for name, base in against.items()])
    pairs = compare(runs, against.items(), ("largest_jump",))
    for pair, p_more, p_less in zip(pairs, more, less, strict=True):
        (gone, n), (relu_gone, relu_n) = lost[pair.configuration], lost[pair.baseline]
        figures = f"lost in {gone} of {n} runs, ReLU in {relu_gone} of {relu_n}"
        if min(n, relu_n) < LEAST_PAIRS:
            side, figures = OPEN, f"{figures}: {TOO_FEW}"
        elif gone or relu_gone:
            figures += f" (p {_p(min(p_more, p_less))})"
            side = FOR if p_more < ALPHA else AGAINST if p_less < ALPHA else OPEN
        else:
            rises = runs[runs.configuration.isin([pair.configuration, pair.baseline])].largest_jump
            side = ALIKE if rises.max() == 0 else _side(pair, want=1)
            risen = _difference(pair, "largest rise of the training loss {} than ReLU's")
            figures += "; no training loss ever rose" if side == ALIKE else f"; {risen}"
        finding.evidence.append(Evidence(pair.configuration, side, figures))
    return finding


def large_r_unstable(runs: pd.DataFrame) -> Finding:
    finding = Finding(
        "Large scaling factors make training unstable",
        "Among runs that differ in r alone, ReLU being r = 1. For: more runs of the largest r were lost, diverged or "
        f"collapsed, than of the smallest ({_SHARES}, p < {ALPHA:.2f}). Against: the largest r is {LARGE_R:g} or more, "
        f"and at least {LEAST_PAIRS} runs of it were all trained to their end. In brackets: the 95 % Clopper-Pearson "
        "interval of the share lost.",
        {FOR: "Unstable at its largest r", AGAINST: "Stable at its largest r", OPEN: "Cannot tell"},
        missing="No runs that differ in r alone.",
    )
    slopes = _ended(runs[runs["activation.name"].isin(["relu", *WITH_SLOPE])])
    for others, group in slopes.groupby("others", sort=False):
        lost = {float(str(r)): _lost(of_r) for r, of_r in group.groupby("activation.r")}
        if len(lost) < 2:
            continue
        small, *_, large = lost
        side = FOR if _more_lost(lost[large], lost[small]) < ALPHA else OPEN
        if lost[large][0] == 0 and lost[large][1] >= LEAST_PAIRS and large >= LARGE_R:
            side = AGAINST
        figures = "; ".join(_share(r, *counts) for r, counts in lost.items())
        finding.evidence.append(Evidence(f"r = {small:g} to {large:g} {others}".strip(), side, figures))
    return finding


def mlp_limited(runs: pd.DataFrame, varied: list[str]) -> Finding:
    finding = Finding(
        "The MLP is limited for want of spatial features",
        f"Compared seed by seed with every model that has them ({', '.join(SPATIAL)}) under the same other settings: "
        f"the best validation accuracy of any epoch. For: the MLP's is lower than that of one of them ({_TEST}). "
        "Against: it is higher than that of each.",
        {FOR: "Lower than with spatial features", AGAINST: "Higher", OPEN: "Cannot tell"},
        missing="No runs of a model with spatial features to compare with (model=cnn).",
    )
    if "model.name" not in varied:
        return finding
    same = [c for c in varied if not c.startswith("model.")]
    one = runs.drop_duplicates("configuration").assign(key=lambda r: r[same].map(str).agg(" ".join, axis=1))
    spatial = one[one["model.name"].isin(SPATIAL)].groupby("key").configuration.agg(list)
    mlp = one[(one["model.name"] == "mlp") & one.key.isin(spatial.index)]
    pairs = [(str(row.configuration), name) for row in mlp.itertuples() for name in spatial[row.key]]
    compared = compare(runs, pairs, ("best_val_accuracy",))
    for name in mlp.configuration:
        of_it = [pair for pair in compared if pair.configuration == name]
        sides = {_side(pair, want=-1) for pair in of_it}
        side = FOR if FOR in sides else AGAINST if sides == {AGAINST} else OPEN
        figures = "; ".join(
            _difference(pair, f"best validation accuracy {{}} than {pair.baseline}'s") for pair in of_it
        )
        finding.evidence.append(Evidence(str(name), side, figures))
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


def _lost(runs: pd.DataFrame) -> tuple[int, int]:
    """(lost, ended): one run a seed, lost where the seed was."""
    ended = _ended(runs)
    by_seed = ended.outcome.isin(LOST).groupby(ended.seed).max()
    return int(by_seed.sum()), len(by_seed)


def _more_lost(lost: tuple[int, int], base: tuple[int, int]) -> float:
    """p that the first share is no larger; 1 where there are too few runs to say."""
    (k, n), (base_k, base_n) = lost, base
    if min(n, base_n) < LEAST_PAIRS or k * base_n <= base_k * n:
        return 1.0
    return float(stats.boschloo_exact([[k, base_k], [n - k, base_n - base_k]], alternative="greater").pvalue)


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
    return f"{said} (difference {pair.difference:+.3g}, 95 % {pair.low:+.3g} to {pair.high:+.3g}; p {_p(pair.p)})"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"


def _share(r: float, lost: int, runs: int) -> str:
    ci = stats.binomtest(lost, runs).proportion_ci(CONFIDENCE, method="exact")
    return f"r = {r:g}: {lost} of {runs} lost ({ci.low:.0%} to {ci.high:.0%})"


def _listed(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
