"""What the slope does: final accuracy and outcome against r, against the effective learning rate, and r by lr.

Activations of one family (equal but for the slope) share a chart; another family has charts of its own.

Where f is positively homogeneous, slope r at learning rate lr is, under SGD without weight decay, exactly slope 1 with
the hidden layers' weights and biases times r and their learning rate times r^2, the output layer unchanged. So the runs
for which this holds are laid beside each other by lr r^2, too; the factor r of the initial weights remains.
"""

import itertools
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from . import properties
from .aggregate import Sweep, activation
from .charts import Chart, head, line_styles, set_look, subject
from .outcomes import ENDED, LOST
from .statistics import BASELINE, INTERVAL, by_seed, mean_interval, measures

EFFECTIVE = "effective learning rate of the hidden layers, lr r²"
CHARTS = ("r_sweep", "effective_lr", "r_by_lr")
FILL = {  # outcome -> colour, hatch
    "ok": ("0.8", ""),
    "collapsed": ("#de8f05", "////"),
    "exploded": ("#d55e00", "\\\\\\\\"),
    "diverged": ("#cc78bc", "xxxx"),
}
MOST_LINES = 8
MOST_DOTS = 400  # runs; beyond, a dot per run is a smear and a large file


def names() -> list[str]:
    """Of the files of all charts that any sweep can have."""
    return [chart + _suffix(family) for family in _families() for chart in CHARTS]


def _families() -> list[str]:
    return list(dict.fromkeys(kind.family for kind in properties.ACTIVATIONS.values() if kind.has_slope))


def _suffix(family: str) -> str:
    """Of a chart's file; the family of the baseline has none."""
    return "" if family == properties.ACTIVATIONS[BASELINE].family else f"_{family}"


def slope_charts(sweep: Sweep) -> Iterator[Chart]:
    """Those of the charts that the sweep has the runs for, family by family."""
    runs = measures(sweep)
    runs = runs[runs.outcome.isin(ENDED) & (runs["activation.r"] > 0)]  # on logarithmic axes
    families = pd.Series([activation(name).family for name in runs["activation.name"]], runs.index, dtype=str)
    for family in _families():
        yield from _charts_of(runs[families == family], family, sweep.varied)


def _charts_of(runs: pd.DataFrame, family: str, varied: list[str]) -> Iterator[Chart]:
    if runs["activation.r"].nunique() < 2:
        return
    suffix = _suffix(family)
    which = f" ({family})" if suffix else ""
    title = f"Final validation accuracy against the slope{which}"
    figure = against(runs, "activation.r", title)
    yield Chart("r_sweep" + suffix, title, figure, _in_words(runs, "activation.r", title))
    if runs["optimizer.lr"].nunique() < 2:
        return
    lawful = runs[_law_holds(runs) & (runs["optimizer.lr"] > 0)]
    if lawful["optimizer.lr"].nunique() > 1 and lawful["activation.r"].nunique() > 1:
        effective = lawful["optimizer.lr"] * lawful["activation.r"] ** 2
        lawful = lawful.assign(effective_lr=effective.map(lambda lr: float(f"{lr:.9g}")))  # 0.001 * 3^2 is 0.009
        title = f"Final validation accuracy against the effective learning rate{which}"
        figure = against(lawful, "effective_lr", title)
        yield Chart("effective_lr" + suffix, title, figure, _in_words(lawful, "effective_lr", title))
    if not [c for c in varied if not c.startswith("activation.") and c != "optimizer.lr"]:
        title = f"Final validation accuracy by slope and learning rate{which}"
        figure = heat_map(runs, title)
        yield Chart("r_by_lr" + suffix, title, figure, _in_words(runs, "configuration", title))


def _law_holds(runs: pd.DataFrame) -> pd.Series:
    """Whether a run's slope acts as a learning rate of lr r^2 on its hidden layers."""
    sgd = {name for name, optimizer in properties.OPTIMIZERS.items() if optimizer.is_sgd}
    optimizers = runs.get("optimizer.name", pd.Series("", runs.index)).map(str)
    decay = pd.to_numeric(runs.get("optimizer.weight_decay", pd.Series(0.0, runs.index)), errors="coerce")
    return pd.Series(
        [
            activation(name).positively_homogeneous and optimizer in sgd and wd == 0
            for name, optimizer, wd in zip(runs["activation.name"], optimizers, decay, strict=True)
        ],
        runs.index,
        dtype=bool,
    )


def _slope_label(runs: pd.DataFrame) -> str:
    """What the axis says; an activation without a slope stands at 1."""
    fixed = [name for name in runs["activation.name"].unique() if not activation(name).has_slope]
    return f"slope r ({', '.join(fixed)}: r = 1)" if fixed else "slope r"


def against(runs: pd.DataFrame, x: str, title: str) -> Figure:
    """Accuracy above, a line per group of other settings; below it what became of the runs at each x."""
    set_look()
    groups = list(dict.fromkeys(runs.others))
    note = ""
    if len(groups) > MOST_LINES:
        lines = runs.groupby("others")[x].nunique()
        groups = [group for group in groups if lines[group] > 1] or groups
        groups = [groups[i] for i in np.unique(np.linspace(0, len(groups) - 1, MOST_LINES).astype(int))]
        note = f"{len(groups)} groups shown of {runs.others.nunique()}; "
    runs = runs[runs.others.isin(groups)]
    fig, (top, bottom) = plt.subplots(2, 1, figsize=(8.6, 5.6), layout="constrained", sharex=True, height_ratios=[4, 1])
    styles = line_styles(groups)
    intervals: list[float] = []
    for others, group in runs.groupby("others", sort=False):
        intervals += _means(top, group, x, *styles[str(others)], label=str(others))
    if len(groups) == 1:
        _fixed_line(top, runs)
    if len(groups) == 1 or x == "effective_lr":
        _lost_regions(top, runs, x)
    classes = runs.classes.unique()
    chance = 1 / classes[0] if len(classes) == 1 else 0.0
    if chance:
        top.axhline(chance, color="0.45", linewidth=0.9, linestyle=(0, (2, 3)), zorder=0)
        top.annotate("chance", (0, chance), xycoords=("axes fraction", "data"), xytext=(3, 3),
                     textcoords="offset points", fontsize="x-small", color="0.35")  # fmt: skip
    _outcome_bars(bottom, runs, x)
    best = max(chance, runs.final_val_accuracy.fillna(0).max())
    upper = max([best, *intervals])
    limit = 1.1 * min(upper, 2 * best) if best > 0 else 1.0  # few seeds have intervals that would press all else flat
    top.set(ylabel="validation accuracy", ylim=(-0.02 * limit, limit))
    if upper > limit or min([0.0, *intervals]) < -0.02 * limit:
        note += "intervals that leave the chart are cut; "
    top.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    top.grid(axis="y", color="0.9", linewidth=0.8)
    if len(groups) > 1:
        top.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    _log_axis(bottom, runs, x)
    dots = "dots: seeds; " if len(runs) <= MOST_DOTS else ""
    below = "; below: runs of all lines" if len(groups) > 1 else ""
    head(fig, title, f"{subject(runs)}; {note}{dots}bars: {INTERVAL}; means cover runs that ended ok{_kept(x)}{below}")
    return fig


def heat_map(runs: pd.DataFrame, title: str) -> Figure:
    """A cell per r and lr: mean final accuracy of the runs that ended ok, and how many were lost."""
    set_look()
    cells = runs.groupby(["activation.r", "optimizer.lr"])
    mean = cells.final_val_accuracy.mean().unstack().sort_index(ascending=False)
    lost = cells.outcome.agg(lambda o: o.isin(LOST).sum()).unstack().reindex_like(mean)
    number = cells.size().unstack().reindex_like(mean)
    words = [
        ["" if np.isnan(n) else "\n".join(([f"{m:.1%}"] if m == m else []) + ([f"{k:g} of {n:g} lost"] if k else []))
         for m, k, n in zip(*row, strict=True)]
        for row in zip(mean.to_numpy(), lost.to_numpy(), number.to_numpy(), strict=True)
    ]  # fmt: skip
    few = mean.size <= 80
    fig, ax = plt.subplots(figsize=(8.6, min(9.0, 1.8 + 0.55 * len(mean))), layout="constrained")
    ax.set_facecolor("0.88")
    bar = {"label": "validation accuracy", "format": PercentFormatter(1, decimals=None)}
    some = bool(mean.notna().to_numpy().any())
    sns.heatmap(mean, annot=np.array(words) if few else None, fmt="", cmap="viridis", vmin=0, linewidths=0.5,
                vmax=None if some else 1, annot_kws={"fontsize": "x-small"}, cbar=some, cbar_kws=bar,
                ax=ax)  # fmt: skip
    gone = np.argwhere(mean.isna().to_numpy() & number.notna().to_numpy())
    for row, column in gone:  # a cell without a mean is drawn by no colour map: name it on the ground
        ax.text(column + 0.5, row + 0.5, words[row][column] if few else "×", ha="center", va="center",
                fontsize="x-small", color="0.2")  # fmt: skip
    ax.set(xlabel="learning rate lr", ylabel=_slope_label(runs))
    ax.set_xticklabels([f"{v:g}" for v in mean.columns], rotation=0)
    ax.set_yticklabels([f"{v:g}" for v in mean.index], rotation=0)
    head(fig, title, f"{subject(runs)}; mean over the seeds that ended ok; grey: none did; lost: {', '.join(LOST)}")
    return fig


def _kept(x: str) -> str:
    """What a shared place on the axis does not make equal."""
    return "; at equal lr r² the initial hidden weights and biases still differ by r" if x == "effective_lr" else ""


def _means(ax: Axes, runs: pd.DataFrame, x: str, colour: tuple, dash: tuple, marker: str, label: str) -> list[float]:
    """Draws a group's line; returns the ends of its intervals."""
    at = []
    for value, group in runs.groupby(x):
        mean, low, high = mean_interval(by_seed(group, "final_val_accuracy"))
        at.append((value, mean, mean - low, high - mean))
    xs, means, below, above = np.array(at, dtype=float).T
    if len(runs) <= MOST_DOTS:
        sns.scatterplot(runs, x=x, y="final_val_accuracy", color=colour, alpha=0.45, s=14, linewidth=0, ax=ax)
    spread = np.nan_to_num([below, above])
    ax.errorbar(xs, means, yerr=spread, color=colour, marker=marker, markersize=6, markeredgecolor="white",
                linestyle=(0, dash) if dash else "-", capsize=3, label=label)  # fmt: skip
    return [end for end in (*(means + spread[1]), *(means - spread[0])) if end == end]


def _fixed_line(ax: Axes, runs: pd.DataFrame) -> None:
    """The mean of the activation without a slope, across the chart."""
    fixed = runs[[not activation(name).has_slope for name in runs["activation.name"]]]
    mean, low, high = mean_interval(by_seed(fixed, "final_val_accuracy"))
    if np.isnan(mean):
        return
    ax.axhline(mean, color="0.25", linewidth=1, linestyle=(0, (6, 3)), zorder=1)
    if not np.isnan(low):
        ax.axhspan(low, high, color="0.25", alpha=0.1, linewidth=0, zorder=0)
    name = str(fixed["activation.name"].iloc[0])
    ax.annotate(name, (1, mean), xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points",
                ha="right", fontsize="x-small", color="0.25")  # fmt: skip


def _lost_regions(ax: Axes, runs: pd.DataFrame, x: str) -> None:
    """Shades where most runs were lost, up to half way (in logarithms) to the neighbours that were not."""
    values = np.sort(runs[x].unique())
    edges = np.sqrt(values[1:] * values[:-1]) if len(values) > 1 else 2 * values
    edges = np.array([values[0] ** 2 / edges[0], *edges, values[-1] ** 2 / edges[-1]])
    outcomes = [runs[runs[x] == value].outcome for value in values]
    kinds = [next((k for k in LOST if (o == k).mean() > 0.5), "lost" if o.isin(LOST).mean() > 0.5 else "")
             for o in outcomes]  # fmt: skip
    start = 0
    for kind, same in itertools.groupby(kinds):
        end = start + len(list(same))
        if kind:
            ax.axvspan(
                edges[start],
                edges[end],
                facecolor=FILL.get(kind, FILL["collapsed"])[0],
                alpha=0.16,
                linewidth=0,
                zorder=0,
            )
            middle = np.sqrt(edges[start] * edges[end])
            ax.annotate(f"most {kind}", (middle, 0.98), xycoords=("data", "axes fraction"), ha="center", va="top",
                        rotation=90, fontsize="x-small", color="0.25")  # fmt: skip
        start = end


def _outcome_bars(ax: Axes, runs: pd.DataFrame, x: str) -> None:
    shares = pd.crosstab(runs[x], runs.outcome, normalize="index").reindex(columns=list(FILL), fill_value=0)
    values = shares.index.to_numpy(dtype=float)
    gap = np.diff(np.log(values)).min(initial=1.0)
    across = np.log(values[-1] / values[0]) or 1.0
    wide = np.exp(np.clip(gap * 0.35, across / 120, across / 40))
    below = np.zeros(len(values))
    for outcome, (colour, hatch) in FILL.items():
        height = shares[outcome].to_numpy()
        ax.bar(values / wide, height, values * wide - values / wide, below, align="edge", color=colour, hatch=hatch,
               edgecolor="white", linewidth=0.5)  # fmt: skip
        below += height
    ax.set(ylabel="runs", ylim=(0, 1))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    handles = [Patch(facecolor=c, hatch=h, edgecolor="white", label=o) for o, (c, h) in FILL.items()]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.1), frameon=False, fontsize="small")


def _log_axis(ax: Axes, runs: pd.DataFrame, x: str) -> None:
    """Ticks at the values themselves; under each r also its effective learning rate, where lr is the same for all."""
    ticks, rates = np.sort(runs[x].unique()), runs["optimizer.lr"].unique()
    ax.set_xscale("log")
    ax.set_xlabel(_slope_label(runs) if x == "activation.r" else EFFECTIVE)
    form = FuncFormatter(lambda value, _: f"{value:.4g}")
    if len(ticks) <= 12:
        room = np.log(ticks[-1] / ticks[0]) / 12  # what a label takes of the axis
        kept = [ticks[0]]
        for tick in ticks[1:]:
            kept += [tick] if np.log(tick / kept[-1]) >= room else []
        ax.set_xticks(kept)
        ax.xaxis.set_minor_locator(NullLocator())
        if x == "activation.r" and len(rates) == 1 and _law_holds(runs).all():
            form = FuncFormatter(lambda r, _: f"{r:.4g}\n{rates[0] * r * r:.3g}")
            ax.set_xlabel(f"{_slope_label(runs)}, and below it the {EFFECTIVE}")
    ax.xaxis.set_major_formatter(form)


def _in_words(runs: pd.DataFrame, x: str, title: str) -> str:
    said = []
    for (others, value), group in runs.groupby(["others", x], sort=x != "configuration"):
        mean, lost = group.final_val_accuracy.mean(), int(group.outcome.isin(LOST).sum())
        figure = "none ended ok" if np.isnan(mean) else f"{mean:.1%}"
        sign = {"activation.r": "r", "effective_lr": "lr r²"}.get(x)
        name = ", ".join(filter(None, [str(others), f"{sign} = {value:g}"])) if sign else str(value)
        said.append(f"{name}: {figure}, {lost} of {len(group)} lost")
    more = f"; and {len(said) - 24} more" if len(said) > 24 else ""
    return f"{title}, means over seeds. {'; '.join(said[:24])}{more}."
