"""report.html: one file that needs nothing else, for people who would rather look than read."""

import math
import re
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .aggregate import Sweep, shown
from .charts import subject
from .findings import Finding
from .outcomes import EXPLODED, HALF_DEAD, LOST, NEAR_CHANCE, OUTCOMES
from .statistics import INTERVAL, MEASURES, Comparison, covers

TITLES = {"lr": "learning rate"}
HARDWARE = {"device": "", "threads": " threads a stack"}
MOST_SETS = 12  # of whose classes the page tells
MOST_RUNS = 2000  # rows of the table of runs: more make a page that no phone opens; all are in runs.csv
WORST_FIRST = ["failed", *reversed(LOST), "stopped", "running", "ok"]
LOST_MEANS = {
    "diverged": "a loss became NaN or infinite",
    "exploded": f"the training loss of the last epoch is above {EXPLODED:g} times that of guessing",
    "collapsed": f"that loss is within {NEAR_CHANCE:.0%} of guessing's, and at least {HALF_DEAD:.0%} of the units of a "
    "hidden layer are dead",
}
COLUMNS = {  # measure -> head of its column, format
    "final_val_accuracy": ("Final accuracy", "{:.1%}"),
    "best_val_accuracy": ("Best accuracy", "{:.1%}"),
    "val_accuracy_area": ("Area", "{:.3f}"),
    "final_train_loss": ("Final training loss", "{:.3g}"),
    "largest_jump": ("Largest rise of loss", "{:.2g}"),
}


@dataclass
class Drawn:
    """A chart on the page: its SVG, inline."""

    name: str
    title: str
    alt: str
    svg: Markup


@dataclass
class Cell:
    """A cell of a sortable table: what it says, and the value that it sorts by ("" sorts last)."""

    text: str
    value: Any


def render(
    sweep: Sweep,
    summary: pd.DataFrame,
    comparisons: list[Comparison],
    found: list[Finding],
    drawn: list[Drawn],
    refresh: int | None = None,
) -> str:
    """The page. `refresh`: seconds after which a browser is to load it again, while a sweep runs."""
    environment = Environment(loader=PackageLoader("mlp_sweep"), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    outcomes = sweep.runs.outcome.value_counts()
    order = sweep.runs.assign(rank=sweep.runs.outcome.map(WORST_FIRST.index))
    listed = order.sort_values("rank", kind="stable").head(MOST_RUNS)
    shown_pairs = [c for c in comparisons if c.measure == "final_val_accuracy"]
    return environment.get_template("report.html.j2").render(
        title=_title(sweep),
        lost_means=LOST_MEANS,
        covers=covers(sweep.runs),
        unequal_epochs=sum(c.unequal_epochs for c in shown_pairs),
        outcomes=[(o, int(outcomes[o])) for o in OUTCOMES if o in outcomes],
        configurations=len(summary),
        findings=found,
        charts=drawn,
        interval=INTERVAL,
        measures=[(head, MEASURES[measure]) for measure, (head, _) in COLUMNS.items()],
        heads=["Configuration", "Runs in means", *(head for head, _ in COLUMNS.values()), "Epochs to baseline", "Runs"],
        rows=[configuration_row(row) for row in summary.to_dict("records")],
        compared=[comparison_row(c) for c in shown_pairs],
        runs=listed.assign(reason=listed.reason.fillna("")).to_dict("records"),
        left_off=len(sweep.runs) - len(listed),
        left_out=sweep.left_out,
        unfinished=sweep.unfinished,
        copies=sweep.copies,
        origins=origins(sweep.about),
        data_sets=sweep.data[:MOST_SETS],
        more_sets=len(sweep.data[MOST_SETS:]),
        refresh=refresh,
    )


def _title(sweep: Sweep) -> str:
    """What was swept, on what."""
    whole = ("activation", "model", "dataset")  # groups whose name says enough
    parts = (key.split(".") for key in sweep.varied)
    named = (part[0] if part[0] in whole else TITLES.get(part[-1], part[-1].replace("_", " ")) for part in parts)
    swept = [f"the {name}" for name in dict.fromkeys(named)]
    what = " and ".join([*swept[:2], *(["more"] if len(swept) > 2 else [])])
    return f"{f'What {what} did' if what else 'One configuration'}: {subject(sweep.runs)}"


def configuration_row(row: dict[Any, Any]) -> list[Cell]:
    cells = [Cell(row["configuration"], row["configuration"])]
    cells.append(Cell(f"{row['in_means']} of {row['runs']}", row["in_means"]))
    for measure, (_, form) in COLUMNS.items():
        cells.append(_figure(row[measure], row[f"{measure}_low"], row[f"{measure}_high"], form))
    tried = f"{row['reached_baseline']} of {row['ended']}"
    if math.isnan(row["baseline_accuracy"]):
        cells.append(Cell("no baseline", ""))
    elif math.isnan(row["epochs_to_baseline"]):
        cells.append(Cell(f"never ({tried})", ""))
    else:
        cells.append(Cell(f"{row['epochs_to_baseline']:g} ({tried})", row["epochs_to_baseline"]))
    said = ", ".join(f"{row[o]} {o}" for o in OUTCOMES if row[o])
    return [*cells, Cell(said, row["runs"] - row["ok"])]


def comparison_row(c: Comparison) -> list[Cell]:
    cells = [Cell(c.configuration, c.configuration), Cell(c.baseline, c.baseline)]
    unequal = f" ({c.unequal_epochs} of unequal epochs)" if c.unequal_epochs else ""
    cells.append(Cell(f"{c.pairs} of {c.pairs + c.unpaired}{unequal}", c.pairs))
    cells.append(_figure(100 * c.difference, 100 * c.low, 100 * c.high, "{:+.1f}"))
    if c.note:
        return [*cells, Cell("", ""), Cell(c.note, "")]
    return [*cells, Cell(f"{c.effect:+.2f}", c.effect), Cell("< 0.001" if c.p < 0.001 else f"{c.p:.3f}", c.p)]


def inline_svg(path: Path, alt: str) -> Markup:
    """A chart's SVG for use within HTML, its ids made the page's own. Matplotlib has escaped the texts in it."""
    text = path.read_text(encoding="utf-8")
    svg = text[text.index("<svg") :]
    name = path.stem
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r' xmlns:xlink="[^"]*"| version="1.1"', "", svg).replace("xlink:href", "href")
    width, height = (float(n) for n in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0])
    sized = re.sub(r' width="[^"]*"| height="[^"]*"', "", svg[: svg.index(">")])
    sized = f'{sized} role="img" width="{width:.0f}" height="{height:.0f}"'
    return Markup(sized) + Markup(' aria-label="{}"').format(alt) + Markup(svg[svg.index(">") :])


def origins(about: list[dict[str, Any]]) -> list[tuple[str, list[tuple[str, int]]]]:
    """How the runs came about: for each fact its values, with the number of runs of each."""
    facts = {
        "Command": lambda a: "; ".join(filter(None, map(_command, (a.get("command"), a.get("resumed"))))),
        "Versions": lambda a: ", ".join(f"{k} {v}" for k, v in _mapping(a.get("versions")).items()),
        "Git commit": lambda a: a.get("git_commit"),
        "Data": lambda a: _data(_mapping(a.get("data"))),
        "Hardware": lambda a: ", ".join(f"{a[k]}{said}" for k, said in HARDWARE.items() if a.get(k)),
        "Engine and kernel": lambda a: ", ".join(str(a[k]) for k in ("engine", "kernel") if a.get(k)),
    }
    found = []
    for fact, value in facts.items():
        said = Counter(shown(value(a) or "not recorded") for a in about)
        found.append((fact, said.most_common(8)))
    return found


def _command(command: Any) -> str:
    if not isinstance(command, list) or not command:
        return ""
    program, *rest = map(str, command)
    path = Path(program)
    if path.parent.name == "mlp_sweep" and path.suffix == ".py":
        program = "python -m mlp_sweep" + (f".{path.stem}" if path.stem != "__main__" else "")
    return " ".join([program, shlex.join(rest)]).strip()


def _data(data: dict[str, Any]) -> str:
    counts = ", ".join(f"{data[k]} {k}" for k in ("classes", "train", "val") if k in data)
    return f"{data.get('name')}, fingerprint {data.get('fingerprint')} ({counts})" if data else ""


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _figure(mean: float, low: float, high: float, form: str) -> Cell:
    if math.isnan(mean):
        return Cell("none", "")
    interval = "" if math.isnan(low) else f" [{form.format(low)}, {form.format(high)}]"
    return Cell(form.format(mean) + interval, mean)
