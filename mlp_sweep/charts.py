"""Frames to figures, by seaborn: legible in print, without colour, and honest about runs that left the chart."""

import math
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .aggregate import Sweep

CURVES = {  # file name -> column, title
    "training_loss": ("train_loss", "Training loss"),
    "train_accuracy": ("train_accuracy", "Training accuracy"),
    "val_accuracy": ("val_accuracy", "Validation accuracy"),
}
MARKERS = "osD^vP*X<>ph"
DASHES = ["", (4, 1.5), (1, 1), (5, 1, 1, 1), (3, 1, 1, 1, 1, 1), (6, 2)]


def curves(sweep: Sweep, column: str, title: str) -> Figure:
    """One line per configuration against the epoch, the mean of its seeds, with the range of the seeds as a band.

    A run that diverged has no figures from then on: a cross at the upper edge says when, the legend how many.
    """
    sns.set_theme(style="ticks", context="notebook", font="DejaVu Sans")
    names = list(dict.fromkeys(sweep.runs.configuration))
    palette = dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))
    fig, ax = plt.subplots(figsize=(8.6, 4.8), layout="constrained")
    finite = sweep.epochs.dropna(subset=[column])
    sns.lineplot(
        finite,
        x="epoch",
        y=column,
        hue="configuration",
        hue_order=names,
        style="configuration",
        style_order=names,
        palette=palette,
        dashes={name: DASHES[i % len(DASHES)] for i, name in enumerate(names)},
        markers={name: MARKERS[i % len(MARKERS)] for i, name in enumerate(names)},
        markersize=5,
        markeredgewidth=0.4,
        errorbar=("pi", 100),
        err_kws={"alpha": 0.18, "linewidth": 0},
        legend=False,
        ax=ax,
    )
    _reference_line(ax, sweep.runs, column)
    _mark_diverged(ax, sweep, palette, names)
    _axes(ax, sweep, column)
    ax.legend(handles=_legend(sweep, column, palette, names), loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    seeds = sweep.runs.groupby("configuration").seed.nunique().max()
    band = f"mean of {seeds} seeds, band: their range" if seeds > 1 else "one seed"
    data, classes = sweep.runs["dataset.name"].unique(), sweep.runs.classes.dropna().unique()
    subject = f"{', '.join(data)}, {', '.join(f'{c:g}' for c in classes)} classes"
    ax.set_title(title, loc="left", fontweight="bold", pad=22)
    ax.text(0, 1.02, f"{subject}; {band}", transform=ax.transAxes, fontsize="small", color="0.35")
    sns.despine(fig)
    return fig


def save(fig: Figure, stem: Path) -> None:
    """PNG and SVG, under names that are whole files or absent; the same data give the same bytes."""
    for ending in ("png", "svg"):
        partial = stem.with_name(f"{stem.name}.partial.{ending}")
        metadata = {"Date": None} if ending == "svg" else {"Software": None}
        with plt.rc_context({"svg.hashsalt": stem.name, "svg.fonttype": "none"}):
            fig.savefig(partial, dpi=150, metadata=metadata)
        partial.replace(stem.with_suffix(f".{ending}"))
    plt.close(fig)


def _axes(ax: Axes, sweep: Sweep, column: str) -> None:
    last = int(max(sweep.epochs.epoch.max() if len(sweep.epochs) else 0, 2))
    ax.set_xlim(0.5, last + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("epoch")
    ax.grid(axis="y", color="0.9", linewidth=0.8)
    if "accuracy" in column:
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        ax.set_ylabel(column.replace("val", "validation").replace("train", "training").replace("_", " "))
    else:
        ax.set_ylabel("cross-entropy (nats)")
        best = sweep.epochs[column].min()
        if best > 0 and sweep.epochs[column].max() / best > 50:
            ax.set_yscale("log")
    ax.set_ylim(bottom=0 if ax.get_yscale() == "linear" else None)


def _reference_line(ax: Axes, runs: pd.DataFrame, column: str) -> None:
    """What guessing gives, where all runs have the same number of classes."""
    classes = runs.classes.dropna().unique()
    if len(classes) != 1:
        return
    level, text = (1 / classes[0], "chance") if "accuracy" in column else (math.log(classes[0]), "ln C: guessing")
    ax.axhline(level, color="0.45", linewidth=0.9, linestyle=(0, (2, 3)), zorder=0)
    ax.annotate(text, (1, level), xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points",
                ha="right", fontsize="x-small", color="0.35")  # fmt: skip


def _mark_diverged(ax: Axes, sweep: Sweep, palette: dict, names: list[str]) -> None:
    """A cross at the upper edge where a run left the finite numbers, those of one epoch side by side."""
    runs = sweep.runs[sweep.runs.outcome == "diverged"]
    ends = sweep.epochs[sweep.epochs.run.isin(runs.run)].groupby("run").epoch.max()
    marks = runs.assign(epoch=runs.run.map(ends)).groupby(["configuration", "epoch"], sort=False).size()
    at: dict[int, int] = {}
    for name, epoch in marks.index:
        offset = 0.28 * at.get(epoch, 0)
        at[epoch] = at.get(epoch, 0) + 1
        ax.plot(epoch + offset, 0.985, "X", transform=ax.get_xaxis_transform(), color=palette[name],
                markersize=9, markeredgecolor="white", clip_on=False, zorder=5)  # fmt: skip


def _legend(sweep: Sweep, column: str, palette: dict, names: list[str]) -> list[Line2D]:
    handles = []
    for i, name in enumerate(names):
        runs = sweep.runs[sweep.runs.configuration == name]
        counts = runs.outcome.value_counts()
        said = [f"{counts[o]} of {len(runs)} {o}" for o in ("diverged", "collapsed", "failed") if o in counts]
        label = "\n".join([name, *said])
        gone = sweep.epochs[sweep.epochs.configuration == name][column].notna().sum() == 0
        dash = DASHES[i % len(DASHES)]
        style = {"marker": "X", "linestyle": "", "markersize": 9, "markeredgecolor": "white"} if gone else {
            "marker": MARKERS[i % len(MARKERS)], "markersize": 5, "linestyle": (0, dash) if dash else "-"}  # fmt: skip
        handles.append(Line2D([], [], color=palette[name], label=label, **style))
    return handles
