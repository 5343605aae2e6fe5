"""Four claims that people make of this experiment, each answered from the data by a rule that is stated with it.

A configuration speaks for a claim, against it, or leaves it open: too few seeds, an interval that spans zero, or lost
runs on a side where means are compared, since survivors decide nothing. A claim holds when some configuration speaks
for it and none against; it does not hold when one speaks against it; otherwise the data cannot tell. That nothing was
seen (no run lost, no loss that rose) speaks neither for a claim nor against it.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from . import properties
from .aggregate import Sweep, activation
from .outcomes import ENDED, LOST
from .statistics import BASELINE, CONFIDENCE, LEAST_PAIRS, TOO_FEW, Comparison, baselines, compare, holm, measures

HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "cannot tell"
FOR, AGAINST, OPEN = "for", "against", "open"
ALPHA = 1 - CONFIDENCE
FAMILY = properties.ACTIVATIONS[BASELINE].family  # the claims are about ReLU and what differs from it by a slope alone

_TEST = f"two-sided paired t test over seeds, Holm-corrected over the configurations, p < {ALPHA:.2f}"
_SHARES = "two-sided exact test of Boschloo of the two shares"
_LOST = "lost (diverged, exploded or collapsed)"
_SURVIVORS = "Where a side lost runs there is no test, since those that are left are no fair sample."


@dataclass
class Evidence:
    """What one configuration says of a claim."""

    configuration: str
    side: str  # FOR | AGAINST | OPEN
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
        if AGAINST in sides:
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
    runs.loc[runs.outcome != "ok", "early_train_loss"] = np.nan
    mlp = runs[runs["model.name"] == "mlp"] if "model.name" in runs else runs
    return [faster_at_first(mlp), relu_more_stable(mlp), large_r_unstable(mlp), mlp_limited(runs, sweep.varied)]


def faster_at_first(runs: pd.DataFrame) -> Finding:
    finding = Finding(
        "Scaled ReLU converges faster at first",
        "Compared with ReLU seed by seed: the training loss, averaged over the first quarter of the epochs. For: it is "
        f"lower ({_TEST}). Against: it is higher by the same test. {_SURVIVORS}",
        {FOR: "Faster", AGAINST: "Not faster", OPEN: "Cannot tell"},
        missing="No scaled ReLU beside a ReLU of the same other settings.",
    )
    for pair in compare(runs, _against_relu(runs).items(), ("early_train_loss",)):
        figures = _difference(pair, "training loss {} than ReLU's over the first quarter")
        finding.evidence.append(Evidence(pair.configuration, _side(pair, want=-1), figures))
    return finding


def relu_more_stable(runs: pd.DataFrame) -> Finding:
    finding = Finding(
        "ReLU is more stable",
        f"Compared with ReLU over at least {LEAST_PAIRS} runs of each. For: more of its runs were {_LOST} "
        f"({_SHARES}, Holm-corrected over the configurations, p < {ALPHA:.2f}); or none of either was lost "
        f"and its largest rise of the training loss is larger ({_TEST}). Against: the same with the sides changed.",
        {FOR: "Less stable than ReLU", AGAINST: "More stable than ReLU", OPEN: "Cannot tell"},
        missing="No scaled ReLU beside a ReLU of the same other settings.",
    )
    against = _against_relu(runs)
    lost = {name: _lost(runs[runs.configuration == name]) for name in {*against, *against.values()}}
    p_values = holm([_p_lost(lost[name], lost[base]) for name, base in against.items()])
    pairs = compare(runs, against.items(), ("largest_jump",))
    for pair, p in zip(pairs, p_values, strict=True):
        (gone, n), (relu_gone, relu_n) = lost[pair.configuration], lost[pair.baseline]
        figures = f"lost in {gone} of {n} runs, ReLU in {relu_gone} of {relu_n}"
        if min(n, relu_n) < LEAST_PAIRS:
            side, figures = OPEN, f"{figures}: {TOO_FEW}"
        elif gone or relu_gone:
            figures += f" (p {_p(p)})"
            side = OPEN if p >= ALPHA else FOR if gone * relu_n > relu_gone * n else AGAINST
        else:
            rises = runs[runs.configuration.isin([pair.configuration, pair.baseline])].largest_jump
            side = _side(pair, want=1)
            risen = _difference(pair, "largest rise of the training loss {} than ReLU's")
            figures += "; no training loss ever rose" if rises.max() == 0 else f"; {risen}"
        finding.evidence.append(Evidence(pair.configuration, side, figures))
    return finding


def large_r_unstable(runs: pd.DataFrame) -> Finding:
    finding = Finding(
        "Large scaling factors make training unstable",
        f"Among runs that differ in r alone, ReLU being r = 1. For: more runs of the largest r were {_LOST} than of "
        f"the smallest ({_SHARES}, p < {ALPHA:.2f}). Against: fewer, by the same test; that none was lost decides "
        "nothing. In brackets: the 95 % Clopper-Pearson interval of the share lost.",
        {FOR: "Less stable at the largest r", AGAINST: "More stable at the largest r", OPEN: "Cannot tell"},
        missing="No runs that differ in r alone.",
    )
    slopes = _ended(runs[[activation(name).family == FAMILY for name in runs["activation.name"]]])
    for others, group in slopes.groupby("others", sort=False):
        lost = {float(str(r)): _lost(of_r) for r, of_r in group.groupby("activation.r")}
        if len(lost) < 2:
            continue
        small, *_, large = lost
        (gone, n), (small_gone, small_n) = lost[large], lost[small]
        p = _p_lost(lost[large], lost[small])
        side = OPEN if p >= ALPHA else FOR if gone * small_n > small_gone * n else AGAINST
        figures = "; ".join(_share(r, *counts) for r, counts in lost.items())
        figures += f"; largest against smallest: p {_p(p)}" if gone or small_gone else ""
        finding.evidence.append(Evidence(f"r = {small:g} to {large:g} {others}".strip(), side, figures))
    return finding


def mlp_limited(runs: pd.DataFrame, varied: list[str]) -> Finding:
    sees = [name for name, model in properties.MODELS.items() if model.sees_neighbours]
    finding = Finding(
        "The MLP is limited by its lack of spatial features",
        f"Compared seed by seed with every model that has them ({', '.join(sees)}) under the same other settings: "
        f"the best validation accuracy of any epoch. For: the MLP's is lower than that of one of them ({_TEST}). "
        f"Against: it is higher than that of each. {_SURVIVORS}",
        {FOR: "Lower than with spatial features", AGAINST: "Higher", OPEN: "Cannot tell"},
        missing=f"No runs of a model with spatial features to compare with (model={' or '.join(sees)}).",
    )
    if "model.name" not in varied:
        return finding
    same = [c for c in varied if not c.startswith("model.")]
    one = runs.drop_duplicates("configuration").assign(key=lambda r: r[same].map(str).agg(" ".join, axis=1))
    spatial = one[one["model.name"].isin(sees)].groupby("key").configuration.agg(list)
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
    """Each configuration whose activation is ReLU but for a slope -> the ReLU of the same other settings."""
    if not (runs["activation.name"] == BASELINE).any():
        return {}
    known = {name: activation(name) for name in runs["activation.name"].unique()}
    scaled = {name for name, kind in known.items() if kind.has_slope and kind.family == FAMILY}
    chosen = set(runs[runs["activation.name"].isin(scaled)].configuration)
    return {name: base for name, base in baselines(runs, BASELINE).items() if name in chosen}


def _ended(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs.outcome.isin(ENDED)]


def _lost(runs: pd.DataFrame) -> tuple[int, int]:
    """(lost, ended): one run a seed, lost where the seed was."""
    ended = _ended(runs)
    by_seed = ended.outcome.isin(LOST).groupby(ended.seed).max()
    return int(by_seed.sum()), len(by_seed)


def _p_lost(lost: tuple[int, int], base: tuple[int, int]) -> float:
    """p, two-sided, that both lose the same share of their runs; 1 where there are too few runs to say."""
    (k, n), (base_k, base_n) = lost, base
    if min(n, base_n) < LEAST_PAIRS or k * base_n == base_k * n:
        return 1.0
    table = [[k, base_k], [n - k, base_n - base_k]]
    return float(stats.boschloo_exact(table, alternative="two-sided").pvalue)


def _side(pair: Comparison, want: int) -> str:
    """The side that a paired comparison takes, where a difference of the sign wanted speaks for the claim."""
    if not pair.p < ALPHA:
        return OPEN
    return FOR if pair.difference * want > 0 else AGAINST


def _difference(pair: Comparison, sentence: str) -> str:
    """A paired comparison in words: direction, size, interval, p."""
    if pair.pairs == 0:
        left_out = f" ({pair.unequal_epochs} trained for different numbers of epochs)" if pair.unequal_epochs else ""
        return "; ".join(filter(None, [f"no seed finished in both, so no comparison{left_out}", pair.note]))
    said = f"{abs(pair.difference):.3g} {'lower' if pair.difference < 0 else 'higher'}"
    left_out = f", {pair.unequal_epochs} left out for unequal epochs" if pair.unequal_epochs else ""
    said = f"{pair.pairs} seeds{left_out}: {sentence.format(said)}"
    if pair.note:
        return f"{said}; {pair.note}"
    return f"{said} (difference {pair.difference:+.3g}, 95 % {pair.low:+.3g} to {pair.high:+.3g}; p {_p(pair.p)})"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"


def _share(r: float, lost: int, runs: int) -> str:
    said = f"r = {r:g}: {lost} of {runs} lost"
    if runs < LEAST_PAIRS:
        return said
    ci = stats.binomtest(lost, runs).proportion_ci(CONFIDENCE, method="exact")
    return f"{said} ({ci.low:.0%} to {ci.high:.0%})"


def _listed(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
