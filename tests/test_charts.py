"""Charts: what is drawn is what was recorded, what was lost is marked, and names are only names."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from made_up import LEAKY, NAN, write_run, write_sweep
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from mlp_sweep import aggregate, charts, page, properties, slope_charts
from mlp_sweep.aggregate import Sweep
from mlp_sweep.charts import Chart
from mlp_sweep.outcomes import LOST, OUTCOMES
from mlp_sweep.statistics import mean_interval


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def _all(sweep: Sweep) -> dict[str, Chart]:
    return {chart.name: chart for drawn in (charts.epoch_charts, slope_charts.slope_charts) for chart in drawn(sweep)}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    write_sweep(tmp_path, {
        "relu": [{"val_accuracy": [0.1, 0.2, 0.3]}, {"val_accuracy": [0.2, 0.3, 0.5]}],
        "scaled 2": [{"val_accuracy": [0.3, 0.4, 0.6]}, {"val_accuracy": [0.3], "outcome": "diverged"}],
        "scaled 62": [{"val_accuracy": [], "outcome": "diverged"}] * 2,
    })  # fmt: skip
    return aggregate.read([tmp_path])


def test_a_line_is_the_mean_of_its_seeds_and_its_band_their_range(sweep: Sweep):
    ax = charts.curves(sweep, ["val_accuracy"], "Validation accuracy").axes[0]
    line = next(line for line in ax.lines if len(line.get_xdata()) == 3)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(np.asarray(line.get_ydata()), [0.15, 0.25, 0.4])
    band = np.asarray(ax.collections[0].get_paths()[0].vertices)
    assert {(1, 0.1), (1, 0.2), (3, 0.3), (3, 0.5)} <= {tuple(map(float, point)) for point in band}


def test_a_diverged_run_is_a_cross_at_its_epoch_and_a_count_in_the_legend(sweep: Sweep):
    ax = charts.curves(sweep, ["val_accuracy"], "Validation accuracy").axes[0]
    crosses = [float(np.asarray(line.get_xdata())[0]) for line in ax.lines if line.get_marker() == "X"]
    assert crosses == [2.0, 1.0]  # r = 2 in its second epoch, r = 62 in its first
    legend = ax.get_legend()
    assert legend is not None
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["relu", "scaled r=2\n1 of 2 diverged", "scaled r=62\n2 of 2 diverged"]


def test_the_lines_differ_without_their_colour():
    styles = charts.line_styles([f"configuration {i}" for i in range(charts.ONE_CHART)]).values()
    assert len({(dash, marker) for _, dash, marker in styles}) == charts.ONE_CHART


def test_guessing_is_a_line_at_its_level(sweep: Sweep):
    levels = {}
    for column in ("train_loss", "val_accuracy"):
        ax = charts.curves(sweep, [column], "").axes[0]
        levels[column] = [float(np.asarray(line.get_ydata())[0]) for line in ax.lines if line.get_color() == "0.45"]
    assert levels == {"train_loss": [pytest.approx(np.log(10))], "val_accuracy": [pytest.approx(0.1)]}


def test_figures_far_apart_get_a_logarithmic_axis(tmp_path: Path):
    write_run(tmp_path / "a", train_loss=[1e6, 1.0])
    ax = charts.curves(aggregate.read([tmp_path]), ["train_loss"], "").axes[0]
    assert ax.get_yscale() == "log"


def test_more_configurations_than_a_legend_holds_get_a_panel_each(tmp_path: Path):
    for i in range(charts.MOST_PANELS + 6):
        write_run(tmp_path / str(i), "scaled" if i else "relu", 1 + i / 10, val_accuracy=[0.1, i / 100])
    figure = charts.multiples(aggregate.read([tmp_path]), "val_accuracy", "Validation accuracy")
    titles = [ax.get_title("left") for ax in figure.axes if ax.get_visible()]
    assert len(titles) == charts.MOST_PANELS and titles[0] == "relu"
    assert titles[-1] == "scaled r=3.9" and "scaled r=1.1" not in titles  # the best are shown


def test_recorded_diagnostics_are_drawn_and_others_are_not(tmp_path: Path, sweep: Sweep):
    write_run(tmp_path / "new" / "a", columns={"dead_1": [0, 0.5], "dead_2": [0, 1], "grad_norm": [1, 2]})
    assert {"dead_units", "grad_norm"} <= set(_all(aggregate.read([tmp_path / "new"])))
    assert set(_all(sweep)) == {"training_loss", "train_accuracy", "val_accuracy", "r_sweep"}


def test_the_slope_chart_marks_relu_and_where_runs_were_lost(sweep: Sweep):
    figure = _all(sweep)["r_sweep"].figure
    top, bottom = figure.axes
    assert {"relu", "chance", "most diverged"} <= {text.get_text() for text in top.texts}
    diverged = to_rgb(slope_charts.FILL["diverged"][0])
    bars = [p for p in bottom.patches if to_rgb(p.get_facecolor()) == pytest.approx(diverged)]
    assert [bar.get_height() for bar in bars] == [0, 0.5, 1]  # pyright: ignore[reportAttributeAccessIssue]


def test_r_by_lr_is_a_cell_each_with_its_mean_and_its_losses(tmp_path: Path):
    for r, lr, accuracy in ((1, 0.01, 0.2), (2, 0.01, 0.3), (1, 0.1, 0.4)):
        write_run(tmp_path / f"{r} {lr}", "scaled" if r > 1 else "relu", r, lr=lr, val_accuracy=[accuracy])
    write_run(tmp_path / "lost", "scaled", 2, lr=0.1, outcome="diverged", val_accuracy=[])
    drawn = _all(aggregate.read([tmp_path]))
    words = [text.get_text() for text in drawn["r_by_lr"].figure.axes[0].texts]
    assert sorted(word for word in words if "," not in word) == ["1 of 1 lost", "20.0%", "30.0%", "40.0%"]
    assert "effective_lr" in drawn


def test_every_chart_says_in_words_where_its_lines_end(sweep: Sweep):
    drawn = _all(sweep)
    assert "relu 40.0%" in drawn["val_accuracy"].alt
    assert "scaled r=62 no figure, 2 of 2 diverged" in drawn["val_accuracy"].alt
    assert "62: none ended ok, 2 of 2 lost" in drawn["r_sweep"].alt


def test_dollars_in_a_name_are_no_formula(tmp_path: Path):
    write_run(tmp_path / "a", settings={"dataset": {"name": "$\\frac{$"}})
    for chart in _all(aggregate.read([tmp_path])).values():
        charts.save(chart.figure, tmp_path / chart.name)
    assert "$\\frac{$" in (tmp_path / "val_accuracy.svg").read_text()


def test_the_words_of_a_chart_are_where_its_lines_end(tmp_path: Path):
    """One run stopped early: what it had reached by then is no end."""
    write_sweep(tmp_path, {"relu": [{"val_accuracy": [0.1, 0.2, 0.4]}, {"val_accuracy": [0.1], "outcome": "stopped"}]})
    [alt] = [chart.alt for chart in charts.epoch_charts(aggregate.read([tmp_path])) if chart.name == "val_accuracy"]
    assert "relu 40.0%, 1 of 2 stopped" in alt


def test_crosses_stand_above_the_epoch_that_they_mark(tmp_path: Path):
    write_sweep(tmp_path, {f"scaled {r}": [{"val_accuracy": [0.1], "outcome": "diverged"}] for r in range(2, 10)})
    write_run(tmp_path / "relu", val_accuracy=[0.1] * 5)
    ax = charts.curves(aggregate.read([tmp_path]), ["val_accuracy"], "").axes[0]
    crosses = [line for line in ax.lines if line.get_marker() == "X" and not line.get_clip_on()]
    assert len(crosses) == 8 and {float(np.asarray(line.get_xdata())[0]) for line in crosses} == {2.0}


def test_panels_stand_against_the_relu_of_their_other_settings(tmp_path: Path):
    for r, lr in itertools.product((1, 2, 4, 8, 16, 32, 64), (0.01, 0.1)):
        write_run(tmp_path / f"{r} {lr}", "scaled" if r > 1 else "relu", r, lr=lr, val_accuracy=[lr, lr])
    figure = charts.multiples(aggregate.read([tmp_path]), "val_accuracy", "")
    for ax in figure.axes[:14]:
        grey = next(line for line in ax.lines if line.get_color() == "0.5")
        assert np.asarray(grey.get_ydata())[0] == float(re.findall(r"lr=(\S+)", ax.get_title("left"))[0])


def test_slopes_of_few_groups_among_many_are_drawn(tmp_path: Path):
    for i in range(12):
        write_run(tmp_path / f"{i}", lr=0.001 * (i + 1))
    write_run(tmp_path / "scaled", "scaled", 2.0, lr=0.001 * 6)
    assert {"r_sweep", "effective_lr"} <= set(_all(aggregate.read([tmp_path])))


def test_equal_effective_learning_rates_are_one(tmp_path: Path):
    for seed in range(2):
        write_run(tmp_path / f"relu {seed}", seed=seed, lr=0.009)
        write_run(tmp_path / f"scaled {seed}", "scaled", 3.0, seed, lr=0.001, outcome="diverged", val_accuracy=[])
    figure = _all(aggregate.read([tmp_path]))["effective_lr"].figure
    assert sorted(bar.get_height() for bar in figure.axes[1].patches) == [0, 0, 0.5, 0.5]  # pyright: ignore[reportAttributeAccessIssue]


def test_intervals_end_within_the_chart(tmp_path: Path):
    for seed, accuracy in enumerate((0.1, 0.2, 0.3)):
        write_run(tmp_path / f"relu {seed}", seed=seed, val_accuracy=[0.1])
        write_run(tmp_path / f"scaled {seed}", "scaled", 2.0, seed, val_accuracy=[accuracy])
    top = _all(aggregate.read([tmp_path]))["r_sweep"].figure.axes[0]
    assert mean_interval(np.array([0.1, 0.2, 0.3]))[2] < top.get_ylim()[1]


def test_runs_without_a_figure_make_charts_all_the_same(tmp_path: Path):
    write_sweep(tmp_path, {"relu": [{"val_accuracy": [NAN], "train_loss": [NAN], "outcome": "diverged"}],
                           "scaled 2": [{"val_accuracy": [], "outcome": "diverged"}]})  # fmt: skip
    for chart in _all(aggregate.read([tmp_path])).values():
        charts.save(chart.figure, tmp_path / chart.name)
        assert (tmp_path / f"{chart.name}.png").stat().st_size > 1000


def points(ax: Axes) -> np.ndarray:
    """All (x, y) drawn in the coordinates of the data: lines, bands, error bars, dots and bars."""
    found: list[np.ndarray] = [np.empty((0, 2))]
    for line in ax.lines:
        if line.get_transform() == ax.transData:
            found.append(np.column_stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)]))
        elif line.get_transform() == ax.get_yaxis_transform():  # across the whole chart
            found.append(np.column_stack([np.full(2, np.mean(ax.get_xlim())), np.asarray(line.get_ydata(), float)]))
    for drawn in ax.collections:
        offsets = np.asarray(drawn.get_offsets(), float)
        if drawn.get_offset_transform() == ax.transData and offsets.any():
            found.append(offsets)
        else:
            found += [np.asarray(path.vertices, float) for path in drawn.get_paths()]
    for patch in ax.patches:
        if patch.get_transform().contains_branch(ax.transData):
            found.append(np.asarray(patch.get_extents().transformed(ax.transData.inverted()).get_points()))
    whole = np.concatenate(found)
    return whole[np.isfinite(whole).all(1)]


def outside(ax: Axes) -> np.ndarray:
    """The points beyond the axes, by more than rounding, in the axes' own coordinates."""
    ax.get_xlim()  # by which the transforms learn of limits that are not set yet
    ax.get_ylim()
    xy = ax.transAxes.inverted().transform(ax.transData.transform(points(ax)))
    return xy[((xy < -1e-6) | (xy > 1 + 1e-6)).any(1)]


def words(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(match=Text))


def check_that_nothing_lies_outside(figure: Figure) -> None:
    cut = "intervals that leave the chart are cut" in words(figure)
    for ax in figure.axes:
        if not ax.get_visible() or ax.get_label() == "<colorbar>":
            continue
        beyond = outside(ax)
        off = any("off the chart" in text.get_text() for text in ax.texts)
        assert ((beyond >= -1e-6) | (beyond[:, [1]] < -1e-6)).all() or cut  # never to the left or the right
        assert bool(len(beyond)) == off or (cut and not off), (ax.get_title("left"), beyond)


figures = st.sampled_from([0.0, 0.001, 0.1, 0.1875, 0.5, 1.0])
losses = st.sampled_from([0.0, 1e-3, 0.5, 2.3, 4.0, 1342.0, 1e10, 2.3e18])
a_run = st.integers(1, 4).flatmap(lambda n: st.fixed_dictionaries({
    "val_accuracy": st.lists(figures, min_size=n, max_size=n),
    "train_loss": st.lists(losses, min_size=n, max_size=n),
    "outcome": st.sampled_from(["ok", "ok", "diverged", "running"]),  # ok: judged by its figures
    "columns": st.fixed_dictionaries({
        "grad_norm": st.lists(losses | st.just(float("inf")), min_size=n, max_size=n),
        "dead_1": st.lists(figures, min_size=n, max_size=n),
        "dead_2": st.lists(figures, min_size=n, max_size=n),
    }),
}))  # fmt: skip
cells = st.dictionaries(st.sampled_from(["relu", "scaled 2", "scaled 8"]), st.lists(a_run, min_size=1, max_size=3),
                        min_size=1)  # fmt: skip


@settings(max_examples=5, derandomize=True, phases=[Phase.generate])  # each draws some five charts: not shrunk
@given(cells=cells)
def test_no_point_lies_outside_its_chart_unless_the_chart_says_so(
    tmp_path_factory: pytest.TempPathFactory, cells: dict
):
    sweep = aggregate.read([write_sweep(tmp_path_factory.mktemp("made up"), cells)])
    check_that_nothing_lies_outside(charts.multiples(sweep, "train_loss", ""))
    for columns in (["train_loss"], ["grad_norm"], ["dead_1", "dead_2"]):
        check_that_nothing_lies_outside(charts.curves(sweep, columns, ""))
    for chart in slope_charts.slope_charts(sweep):
        check_that_nothing_lies_outside(chart.figure)
    plt.close("all")


def test_only_the_panels_that_a_point_leaves_say_so(tmp_path: Path):
    for i in range(14):
        loss = [2.3, 1342.0, 2.0] if i == 5 else [2.3, 2.0, 1.5]
        write_run(tmp_path / str(i), "scaled" if i else "relu", 1 + i, train_loss=loss, val_accuracy=[0.1, 0.2, 0.3])
    figure = charts.multiples(aggregate.read([tmp_path]), "train_loss", "Training loss")
    said = {ax.get_title("left"): text.get_text() for ax in figure.axes for text in ax.texts
            if "off the chart" in text.get_text()}  # fmt: skip
    assert said == {"scaled r=6": "off the chart: up to 1,342"}
    check_that_nothing_lies_outside(figure)


@pytest.mark.parametrize("layers", [(0.5, 0.1875), (0.1875, 0.5), (0.0, 0.5), (0.5, 0.0), (0.0, 0.0), (1.0, 1.0)])
def test_all_layers_share_an_axis_that_holds_them_all(tmp_path: Path, layers: tuple[float, float]):
    columns: dict[str, Sequence[float]] = {f"dead_{i}": [0.0, share] for i, share in enumerate(layers, 1)}
    write_run(tmp_path / "a", columns=columns)
    figure = _all(aggregate.read([tmp_path]))["dead_units"].figure
    check_that_nothing_lies_outside(figure)
    for ax, share in zip(figure.axes, layers, strict=True):
        bottom, top = ax.get_ylim()
        assert [float(np.asarray(line.get_ydata())[-1]) for line in ax.lines] == [share]
        assert bottom < 0 and share < top <= max(0.06, 1.1 * max(layers))  # what is 0 is seen whole


@pytest.mark.parametrize("outcome", LOST)
def test_lost_runs_are_in_no_mean_and_are_drawn_by_themselves(tmp_path: Path, outcome: str):
    write_sweep(tmp_path, {"scaled 8": [{"train_loss": [2.0, 1.0]}, {"train_loss": [1.0, 0.5]},
                                        {"train_loss": [100.0, 50.0], "outcome": outcome}]})  # fmt: skip
    sweep = aggregate.read([tmp_path])
    ax = charts.curves(sweep, ["train_loss"], "Training loss").axes[0]
    lines = [np.asarray(line.get_ydata(), float).tolist() for line in ax.lines]
    assert [1.5, 0.75] in lines and any(100.0 in line for line in lines)
    assert charts.counts(sweep.runs) == [f"1 of 3 {outcome}"]
    [alt] = [chart.alt for chart in charts.epoch_charts(sweep) if chart.name == "training_loss"]
    assert f"scaled r=8 0.75, 1 of 3 {outcome}" in alt


def test_every_way_to_end_has_its_colour_and_its_place():
    assert list(slope_charts.FILL) == ["ok", *LOST] and len({colour for colour, _ in slope_charts.FILL.values()}) == 4
    assert set(page.WORST_FIRST) == set(OUTCOMES) and set(page.LOST_MEANS) == set(LOST)


def test_each_family_of_activations_has_charts_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(properties.ACTIVATIONS, "leaky", LEAKY)
    write_sweep(tmp_path, {"relu": [{"val_accuracy": [0.2]}], "scaled 2": [{"val_accuracy": [0.3]}],
                           "leaky 1": [{"val_accuracy": [0.4]}], "leaky 2": [{"val_accuracy": [0.5]}]})  # fmt: skip
    drawn = {chart.name: chart for chart in slope_charts.slope_charts(aggregate.read([tmp_path]))}
    assert set(drawn) == {"r_sweep", "r_sweep_leaky"} <= set(slope_charts.names())
    for name, accuracies in (("r_sweep", {0.2, 0.3}), ("r_sweep_leaky", {0.4, 0.5})):
        top = drawn[name].figure.axes[0]
        dots = {y for dots in top.collections for y in np.asarray(dots.get_offsets(), float)[:, 1] if y}
        assert dots == accuracies
    assert "relu: r = 1" in words(drawn["r_sweep"].figure) and "relu" not in words(drawn["r_sweep_leaky"].figure)


@pytest.mark.parametrize("activation, optimizer, lawful", [
    ("scaled", {}, True),
    ("scaled", {"momentum": 0.9}, True),
    ("scaled", {"weight_decay": 1e-4}, False),
    ("scaled", {"name": "adam"}, False),
    ("leaky", {}, True),
    ("bent", {}, False),
])  # fmt: skip
def test_the_effective_learning_rate_is_drawn_only_where_it_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, activation: str, optimizer: dict, lawful: bool
):
    monkeypatch.setitem(properties.ACTIVATIONS, "leaky", LEAKY)
    monkeypatch.setitem(properties.ACTIVATIONS, "bent", properties.Activation(has_slope=True, family="bent"))
    sgd = {"name": "sgd", "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    for r, lr in itertools.product((2.0, 4.0), (0.01, 0.1)):
        write_run(tmp_path / "both" / f"{r} {lr}", activation, r, settings={"optimizer": sgd | optimizer | {"lr": lr}})
    names = {chart.name.removesuffix(f"_{activation}") for chart in
             slope_charts.slope_charts(aggregate.read([tmp_path / "both"]))}  # fmt: skip
    assert names == {"r_sweep", "r_by_lr"} | ({"effective_lr"} if lawful else set())
    for r in (2.0, 4.0):
        write_run(tmp_path / "one" / f"{r}", activation, r, settings={"optimizer": sgd | optimizer | {"lr": 0.01}})
    [chart] = slope_charts.slope_charts(aggregate.read([tmp_path / "one"]))
    assert ("lr r²" in words(chart.figure)) == lawful
