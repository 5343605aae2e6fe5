"""Curves by epoch, by seaborn: legible in print, without colour, and honest about runs that left the chart."""

import io
import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from matplotlib.transforms import ScaledTranslation

from . import sealed
from .aggregate import Sweep
from .outcomes import LOST, OUTCOMES, chance_level
from .statistics import BASELINE, baselines

CURVES = {  # file name -> column, title
    "training_loss": ("train_loss", "Training loss"),
    "train_accuracy": ("train_accuracy", "Training accuracy"),
    "val_accuracy": ("val_accuracy", "Validation accuracy"),
    "grad_norm": ("grad_norm", "Gradient norm"),
}
NAMES = (*CURVES, "dead_units")
AXIS = {  # column -> what its axis says
    "train_loss": "cross-entropy (nats)",
    "train_accuracy": "training accuracy",
    "val_accuracy": "validation accuracy",
    "grad_norm": "gradient norm, last batch of the epoch",
}
MARKERS = "osD^vP*X<>ph"
DASHES = ["", (4, 1.5), (1, 1), (5, 1, 1, 1), (3, 1, 1, 1, 1, 1), (6, 2)]
ONE_CHART = 12  # configurations; more get a panel each
MOST_PANELS = 24


@dataclass
class Chart:
    """A figure, the name of its files, and in words what it shows, for those who do not see it."""

    name: str
    title: str
    figure: Figure
    alt: str


def epoch_charts(sweep: Sweep) -> Iterator[Chart]:
    """Every curve that was recorded, drawn one at a time: a figure takes tens of MB."""
    many = len(sweep.configurations) > ONE_CHART
    for name, (column, title) in CURVES.items():
        if column in sweep.epochs:
            figure = multiples(sweep, column, title) if many else curves(sweep, [column], title)
            yield Chart(name, title, figure, _in_words(sweep, column, title))
    layers = sorted((c for c in map(str, sweep.epochs) if c.startswith("dead_")), key=lambda c: (len(c), c))
    if layers and not many:
        title = "Dead units"
        alt = " ".join(_in_words(sweep, c, f"Share of dead units of hidden layer {c[5:]}") for c in layers)
        yield Chart("dead_units", title, curves(sweep, layers, title), alt)


def curves(sweep: Sweep, columns: list[str], title: str) -> Figure:
    """A panel per column, in it a line per configuration: the mean of its seeds, their range as a band.

    Lost runs are no part of either: each has a thin line of its own. A run that diverged has no figures from then on: a
    cross above the chart says when, the legend how many.
    """
    set_look()
    names = sweep.configurations
    styles = line_styles(names)
    fig, axes = plt.subplots(
        1, len(columns), figsize=(8.6, 4.8), layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    for ax, column in zip(axes[0], columns, strict=True):
        epochs = _drawable(sweep, column)
        _lines(ax, epochs, column, styles)
        for name, lost in epochs[epochs.lost].groupby("configuration"):
            _lost_runs(ax, lost, column, styles[str(name)][0])
        _reference_line(ax, sweep.runs, column)
        if len(columns) > 1:
            ax.set_title(f"hidden layer {column[5:]}", fontsize="small", loc="left", pad=16)
    _axes(list(axes[0]), sweep, columns)
    if len(columns) == 1:
        _mark_diverged(axes[0, 0], sweep, styles)
    axes[0, -1].legend(
        handles=_legend(sweep, columns[0], styles), loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False
    )
    dead = "; dead: no validation sample activates the unit" if columns[0].startswith("dead_") else ""
    head(fig, title, f"{subject(sweep.runs)}; {_band(sweep.runs)}{dead}")
    return fig


def multiples(sweep: Sweep, column: str, title: str) -> Figure:
    """A panel per configuration, all with the same axes; in grey behind each its baseline, or else the first."""
    set_look()
    names, chosen = sweep.configurations, ""
    behind = baselines(sweep.runs)
    if len(names) > MOST_PANELS:
        accuracy = _drawable(sweep, "val_accuracy")
        last = accuracy[~accuracy.lost].groupby("run").tail(1).groupby("configuration").val_accuracy.mean()
        last = last.reindex(names).sort_values(ascending=False, na_position="last", kind="stable")
        best = set(last.index[: MOST_PANELS - 1])
        chosen = f"the first and the best {MOST_PANELS - 1} of {len(names)} configurations; "
        names = [name for i, name in enumerate(names) if i == 0 or name in best][:MOST_PANELS]
    across = 4
    down = math.ceil(len(names) / across)
    fig, axes = plt.subplots(
        down, across, figsize=(8.6, 1.0 + 1.55 * down), layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    epochs = _drawable(sweep, column)
    means = _mean_and_range(epochs, column).groupby("configuration")
    lines = {str(name): line.set_index("epoch") for name, line in means}
    lost_of = dict(iter(epochs[epochs.lost].groupby("configuration")))
    for ax, name in zip(axes.flat, names, strict=False):
        base = behind.get(name, names[0])
        if base in lines:
            ax.plot(lines[base]["mean"], color="0.5", dashes=DASHES[1], linewidth=1.2)
        if name in lines:
            ax.plot(lines[name]["mean"], color="0.2" if name == base else "C0")
            ax.fill_between(lines[name].index, lines[name]["min"], lines[name]["max"], alpha=0.25, linewidth=0)
        if name in lost_of:
            _lost_runs(ax, lost_of[name], column, "C3")
        _reference_line(ax, sweep.runs, column, named=False)
        lost = counts(sweep.runs[sweep.runs.configuration == name])
        ax.set_title("\n".join([_wrapped(name), *lost]), fontsize="x-small", loc="left")
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    panels = list(axes.flat[: len(names)])
    _axes(panels, sweep, [column])
    for ax in panels:
        ax.set(xlabel="", ylabel="")
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.tick_params(labelsize="x-small")
    fig.supxlabel("epoch", fontsize="small")
    fig.supylabel(AXIS[column], fontsize="small")
    grey = f"{BASELINE} under the same other settings"
    grey = grey if len(set(behind.values())) > 1 else behind.get(names[0], names[0])
    head(fig, title, f"{subject(sweep.runs)}; {chosen}{_band(sweep.runs)}; dashed grey: {grey}")
    return fig


def save(fig: Figure, stem: Path) -> None:
    """PNG and SVG, under names that are whole files or absent; the same data give the same bytes."""
    fig.draw_without_rendering()
    fig.set_layout_engine("none")  # laid out by now: once, not once for each file
    for ending in ("png", "svg"):
        file = io.BytesIO()
        metadata = {"Date": None} if ending == "svg" else {"Software": None}
        with plt.rc_context({"svg.hashsalt": stem.name, "svg.fonttype": "none"}):
            fig.savefig(file, format=ending, dpi=150, metadata=metadata)
        sealed.replace(stem.with_suffix(f".{ending}"), file.getvalue(), sync=False, shared=True)
    plt.close(fig)


OFF_CHART = 3  # a figure so many times the usual would press all others flat: it leaves the chart, which says so
DECADES = 50  # from the least to the most: beyond, the axis is logarithmic


def set_look() -> None:
    """The look of every chart. Names come from files: a dollar sign in one is no formula."""
    sns.set_theme(style="ticks", context="notebook", palette="colorblind", rc={"text.parse_math": False})
    plt.rcParams["font.family"] = ["sans-serif"]
    plt.rcParams["font.sans-serif"] = ["DejaVu Sans", "Verdana", "Arial", "Helvetica"]


def line_styles(names: list[str]) -> dict[str, tuple]:
    """Colour, dash and marker by name: told apart without colour, too."""
    colours = sns.color_palette("colorblind", len(names))
    return {name: (colours[i], DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)}


def head(fig: Figure, title: str, subtitle: str) -> None:
    """A bold title, and below it in grey what the figure is drawn from; blank lines keep the room for it."""
    sns.despine(fig)
    lines = textwrap.fill(subtitle, 104)
    bold = fig.suptitle(title + "\n" * (1 + lines.count("\n")), x=0.01, ha="left", fontweight="bold", fontsize=13)
    note = fig.axes[0].annotate(lines, (0, 0), xycoords=bold, va="bottom", fontsize="small", color="0.35",
                                annotation_clip=False)  # fmt: skip
    note.set_in_layout(False)


def subject(runs: pd.DataFrame) -> str:
    data, classes = sorted(runs["dataset.name"].astype(str).unique()), sorted(runs.classes.unique())
    return f"{', '.join(data)}, {', '.join(f'{c:g}' for c in classes)} classes"


def _wrapped(name: str) -> str:
    """A configuration's name in the width of a panel or a legend, of a long one as much as four lines hold."""
    return "\n".join(textwrap.wrap(name, 26, max_lines=4, placeholder=" ..."))


def counts(runs: pd.DataFrame) -> list[str]:
    """["2 of 3 diverged", ...]: what became of a configuration's runs, where they are not all well."""
    found = runs.outcome.value_counts()
    return [f"{found[o]} of {len(runs)} {o}" for o in OUTCOMES[1:] if o in found]


def _band(runs: pd.DataFrame) -> str:
    seeds = runs.groupby("configuration").seed.nunique()
    if seeds.max() == 1:
        return "one seed"
    number = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    lost = "; thin lines: lost runs, which are in no mean" if runs.outcome.isin(LOST).any() else ""
    return f"mean of {number} seeds, band: their range{lost}"


def _drawable(sweep: Sweep, column: str) -> pd.DataFrame:
    """The rows of all runs, with whether their run was lost; an infinite figure (a gradient's norm) has no place."""
    epochs = sweep.epochs[["run", "configuration", "epoch", column]].replace([np.inf, -np.inf], np.nan)
    return epochs.assign(lost=epochs.run.isin(sweep.runs.run[sweep.runs.outcome.isin(LOST)]))


def _mean_and_range(epochs: pd.DataFrame, column: str) -> pd.DataFrame:
    """By configuration and epoch, of the runs that were not lost."""
    kept = epochs[~epochs.lost].groupby(["configuration", "epoch"])
    return kept[column].agg(["mean", "min", "max"]).dropna().reset_index()


def _lines(ax: Axes, epochs: pd.DataFrame, column: str, styles: dict[str, tuple]) -> None:
    """Means and ranges are taken here, once: seaborn would take them point by point, at a second per 100,000 rows."""
    names = list(styles)
    seeds = _mean_and_range(epochs, column)
    if seeds.empty:
        return
    sns.lineplot(
        seeds,
        x="epoch",
        y="mean",
        hue="configuration",
        hue_order=names,
        style="configuration",
        style_order=names,
        palette={name: colour for name, (colour, _, _) in styles.items()},
        dashes={name: dash for name, (_, dash, _) in styles.items()},
        markers={name: marker for name, (_, _, marker) in styles.items()},
        markersize=5,
        markeredgewidth=0.4,
        estimator=None,
        legend=False,
        ax=ax,
    )
    for name, line in seeds.groupby("configuration"):
        ax.fill_between(line.epoch, line["min"], line["max"], color=styles[str(name)][0], alpha=0.18, linewidth=0)


def _lost_runs(ax: Axes, epochs: pd.DataFrame, column: str, colour: Any) -> None:
    """Each lost run as far as it has figures: one artist, with a gap between the runs."""
    x, y = [], []
    for _, run in epochs.groupby("run"):
        x += [*run.epoch, np.nan]
        y += [*run[column], np.nan]
    ax.plot(x, y, color=colour, linewidth=0.8, alpha=0.8, marker=".", markersize=3)


def _axes(panels: list[Axes], sweep: Sweep, columns: list[str]) -> None:
    """The axes that all panels share, wide enough for all that is drawn in any of them.

    Where a few figures would press all others flat these leave the chart, and the panels that they leave say so.
    """
    for ax in panels:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("epoch")
        ax.set_ylabel(AXIS.get(columns[0], "dead units"))
        ax.grid(axis="y", color="0.9", linewidth=0.8)
    panels[0].set_xlim(0.5, max(sweep.epochs.epoch.max() if len(sweep.epochs) else 0, 2) + 0.5)
    heights = [_heights(ax) for ax in panels]
    drawn = np.concatenate(heights)
    least, most = (drawn.min(), drawn.max()) if len(drawn) else (0.0, 1.0)
    if "accuracy" in columns[0] or columns[0].startswith("dead_"):
        panels[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        most = max(most, 0.05)
    else:
        most = min(most, _cut(sweep, columns[0]))
    if least > 0 and most / least > DECADES:
        for ax in panels:
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        margin = (most / least) ** 0.05
        bottom, top = least / margin, most * margin
    else:
        most = most if most > 0 else 1.0
        bottom, top = -0.02 * most, 1.05 * most  # what lies at 0 is seen whole
    panels[0].set_ylim(bottom, top)
    for ax, height in zip(panels, heights, strict=True):
        if len(height) and height.max() > top:
            small = len(panels) > 1  # with a title where the words would stand
            ax.annotate(f"off the chart: up to {_number(height.max())}", (1, 1), xycoords="axes fraction",
                        xytext=(-2, -3 if small else 4), textcoords="offset points", ha="right",
                        va="top" if small else "bottom", fontsize="xx-small" if small else "x-small", color="0.35",
                        bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1})  # fmt: skip


def _cut(sweep: Sweep, column: str) -> float:
    """The figure above which what is drawn leaves the chart: none unless lost runs or single epochs reach far above."""
    epochs = _drawable(sweep, column)
    kept = epochs[~epochs.lost][column]
    usual = kept.quantile(0.95) if column.endswith("loss") else kept.max()
    most = epochs[column].max()
    if not most > OFF_CHART * usual > 0:  # nor where all runs were lost
        return np.inf
    return max(1.1 * usual, _guessing(sweep.runs, column) or 0.0)


def _heights(ax: Axes) -> np.ndarray:
    """The y of all points drawn in a panel."""
    lines = [np.asarray(line.get_ydata(), float) for line in ax.lines]
    bands = [np.asarray(path.vertices)[:, 1] for band in ax.collections for path in band.get_paths()]
    found = np.concatenate([*lines, *bands, np.empty(0)])
    return found[np.isfinite(found)]


def _number(figure: float) -> str:
    return f"{figure:,.0f}" if 10 <= figure < 1e6 else f"{figure:.3g}"


def _guessing(runs: pd.DataFrame, column: str) -> float | None:
    """What guessing gives, where all runs have the same number of classes."""
    classes = runs.classes.unique()
    if len(classes) != 1:
        return None
    levels = {"train_loss": chance_level(classes[0]), "train_accuracy": 1 / classes[0], "val_accuracy": 1 / classes[0]}
    return levels.get(column)


def _reference_line(ax: Axes, runs: pd.DataFrame, column: str, named: bool = True) -> None:
    level = _guessing(runs, column)
    if level is None:
        return
    ax.axhline(level, color="0.45", linewidth=0.9, linestyle=(0, (2, 3)), zorder=0)
    if named:
        text = "chance" if "accuracy" in column else "ln C: guessing"
        ax.annotate(text, (1, level), xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points",
                    ha="right", fontsize="x-small", color="0.35")  # fmt: skip


def _mark_diverged(ax: Axes, sweep: Sweep, styles: dict[str, tuple]) -> None:
    """A cross above the chart where a run diverged, those of one epoch one above the other."""
    runs = sweep.runs[sweep.runs.outcome == "diverged"]
    ends = sweep.epochs[sweep.epochs.run.isin(runs.run)].groupby("run").epoch.max()
    marks = runs.assign(epoch=runs.run.map(ends)).groupby(["configuration", "epoch"], sort=False).size()
    at: dict[int, int] = {}
    for name, epoch in marks.index:
        points = 10 + 9 * at.get(epoch, 0)
        at[epoch] = at.get(epoch, 0) + 1
        above = ax.get_xaxis_transform() + ScaledTranslation(0, points / 72, ax.figure.dpi_scale_trans)
        ax.plot(epoch, 1, "X", transform=above, color=styles[name][0], markersize=9, markeredgecolor="white",
                clip_on=False, zorder=5)  # fmt: skip


def _legend(sweep: Sweep, column: str, styles: dict[str, tuple]) -> list[Line2D]:
    handles = []
    drawn = set(sweep.epochs.dropna(subset=[column]).configuration)
    for name, (colour, dash, marker) in styles.items():
        label = "\n".join([_wrapped(name), *counts(sweep.runs[sweep.runs.configuration == name])])
        line = {"marker": marker, "markersize": 5, "linestyle": (0, dash) if dash else "-"}
        cross = {"marker": "X", "linestyle": "", "markersize": 9, "markeredgecolor": "white"}
        handles.append(Line2D([], [], color=colour, label=label, **(line if name in drawn else cross)))
    return handles


def _in_words(sweep: Sweep, column: str, title: str) -> str:
    """What a line chart shows: where each configuration's line ends."""
    ends = _mean_and_range(_drawable(sweep, column), column).groupby("configuration").tail(1)
    ends = ends.set_index("configuration")["mean"]
    form = "{:.1%}" if "accuracy" in column or column.startswith("dead_") else "{:.3g}"
    said = []
    for name in sweep.configurations[:ONE_CHART]:
        end = form.format(ends[name]) if name in ends else "no figure"
        said.append(", ".join([f"{name} {end}", *counts(sweep.runs[sweep.runs.configuration == name])]))
    more = len(sweep.configurations) - len(said)
    end = f"; and {more} more" if more > 0 else ""
    lines = "one line per configuration, the mean of its seeds that were not lost"
    return f"{title} by epoch, {lines}. The lines end at: {'; '.join(said)}{end}."
