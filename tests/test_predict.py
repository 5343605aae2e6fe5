"""Predicting from a run's directory alone: the engine's own numbers, and clear words where there can be none."""

import csv
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_run
from safetensors.numpy import load_file, save
from small_sets import encoded, picture, picture_tree

from mlp_sweep import config, console, engines, plan, predictor, record, run_dir, sealed, weights, workers
from mlp_sweep.data import Batches, load
from mlp_sweep.predict import main

CLASSES = ["n01443537", "n02123045", "n02124075"]
NAMES = ["goldfish, Carassius auratus", "tabby, tabby cat", "Egyptian cat"]
MODELS = {
    "mlp": ["model.hidden=[16,8]"],
    "linear": ["model=linear", "color=grey"],
    "cnn": ["model=cnn", "resize=squash"],
}


def train(run: config.Run, folder: Path) -> Path:
    for stack in plan.stacks([plan.job(run, folder)], None, 2**40):
        list(record.record(stack, workers.events(stack)))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and val/ of three classes, pictures of 40 x 30."""
    root = tmp_path_factory.mktemp("set")
    for split, count in (("train", 9), ("val", 4)):
        for c, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                path = root / split / name / f"{i}.jpg"
                path.write_bytes(encoded(picture(1000 * c + 100 * (split == "val") + i, 40, 30)))
    (root / "words.txt").write_text("".join(f"{a}\t{b}\n" for a, b in zip(CLASSES, NAMES, strict=True)))
    return root


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[config.Run, Path]]:
    """A finished run of a kind of model, made once; nobody may write into its directory."""
    made: dict[str, tuple[config.Run, Path]] = {}

    def one(kind: str) -> tuple[config.Run, Path]:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            of_set = [o if o.startswith("model") else f"dataset.{o}" for o in MODELS[kind]]
            run = make_run("dataset=image_folder", f"dataset.root={pictures}", "dataset.num_classes=3", "epochs=2",
                           "batch_size=8", "dataset.image_size=16", f"data_dir={folder / 'data'}", *of_set)  # fmt: skip
            made[kind] = run, train(run, folder / "run")
        return made[kind]

    return one


@pytest.fixture
def copied(trained: Callable[[str], tuple[config.Run, Path]], tmp_path: Path) -> Path:
    """A finished run's directory, to be harmed."""
    return shutil.copytree(trained("mlp")[1], tmp_path / "run")


@pytest.mark.parametrize("kind", MODELS)
def test_predictions_of_validation_pictures_are_the_engines(kind: str, trained, pictures: Path):
    run, folder = trained(kind)
    arrays = load(run.dataset, run.data_seed, run.data_dir, console.Progress())
    known = predictor.load(folder)
    assert known.trained_on.classes == arrays.classes == CLASSES and known.trained_on.names == NAMES
    files = [path for name in CLASSES for path in sorted((pictures / "val" / name).iterdir())]
    x_NCHW = np.stack([known.read(path) for path in files])
    np.testing.assert_array_equal(x_NCHW, arrays.val_x)
    split = Batches(arrays.val_x, arrays.val_y, arrays.mean_C, arrays.std_C, 1, torch.device("cpu"))
    engine = engines.build([run], plan.stackable(run), split.features, 3, torch.device("cpu"))
    engine.load(0, {k: torch.tensor(v) for k, v in load_file(folder / run_dir.WEIGHTS).items()})
    engine.start_evaluation()
    losses_NC = [[engine.evaluate(x_BD, torch.tensor([c]))[0].item() for c in range(3)] for x_BD, _ in split()]
    logits_NC = known.logits(x_NCHW)
    torch.testing.assert_close(-logits_NC.log_softmax(1), torch.tensor(losses_NC), rtol=0, atol=1e-5)
    assert logits_NC.argmax(1).tolist() == np.argmin(losses_NC, 1).tolist()
    columns, rows = run_dir.read_metrics(folder)
    right = (logits_NC.argmax(1).numpy() == arrays.val_y).mean()
    assert rows[-1][columns.index("val_accuracy")] == pytest.approx(right)


def test_the_directory_is_enough(copied: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    changed(copied, lambda status: status["settings"].update(data_dir="gone"))
    setting(copied, "dataset", root="gone")
    one, *_ = sorted((pictures / "val" / CLASSES[0]).iterdir())
    main([str(copied), str(one), "--top", "3", "--csv", str(tmp_path / "out.csv")])
    said = capsys.readouterr()
    assert said.err == "" and all(name in said.out for name in [*CLASSES, *NAMES])
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    probabilities = [float(row["probability"]) for row in rows]
    assert sum(probabilities) == pytest.approx(1) and probabilities == sorted(probabilities, reverse=True)
    assert [row["rank"] for row in rows] == ["1", "2", "3"] and {row["name"] for row in rows} == set(NAMES)
    assert not Path("gone").exists()


def test_one_that_cannot_be_decoded_stops_no_other(
    trained, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    picture_tree(tmp_path / "mine", ["a", "b/c"], 1, ending=".png")
    (tmp_path / "mine/bad.jpg").write_bytes(b"no picture")
    (tmp_path / "mine/notes.txt").write_text("no picture either, and not asked for")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as caught:
        main([str(trained("mlp")[1]), *(str(tmp_path / name) for name in ("mine", "empty", "none.png")), "--top", "1"])
    said = capsys.readouterr()
    assert caught.value.code == 1 and said.out.count(".png") == 2 and "notes.txt" not in said.out + said.err
    for words in ("bad.jpg: not a picture", "empty: no picture in it", "none.png: no such picture"):
        assert words in said.err
    assert len(said.err.splitlines()) == 3


def test_generated_pictures_classes_can_be_asked_about_any_picture(small_run, tmp_path: Path, capsys):
    folder = train(small_run(), tmp_path / "run")
    (tmp_path / "wide.png").write_bytes(encoded(picture(3, 90, 50), "PNG"))
    main([str(folder), str(tmp_path / "wide.png"), "--top", "99"])
    said = capsys.readouterr().out
    assert all(f"class {c} " in said for c in range(12))


def changed(folder: Path, change: Callable[[dict], object]) -> None:
    """With a seal that fits: not damage, but what somebody put there."""
    status = run_dir.read_status(folder)
    change(status)
    sealed.write_record(folder / run_dir.STATUS, status)


def setting(folder: Path, group: str, **values: object) -> None:
    changed(folder, lambda status: status["settings"][group].update(values))


def reweighed(folder: Path, change: Callable[[dict], object], run_id: str | None = None) -> None:
    file = folder / run_dir.WEIGHTS
    known, trained_on = weights.described(file)
    arrays = load_file(file)
    change(arrays)
    weights.write(file, arrays, run_id or known, trained_on)


def flipped(file: Path, old: bytes | None = None, new: bytes = b"") -> None:
    """One byte changed: in the middle of it, or as told."""
    data = file.read_bytes()
    at = len(data) // 2
    file.write_bytes(data.replace(old, new, 1) if old else data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


HARMS: dict[str, Callable[[Path], object]] = {
    r"unfinished \(stopped after epoch 1 of 2\)": lambda f: changed(f, lambda s: s.update(state="stopped", epoch=1)),
    r"diverged \(at step 5\)": lambda f: changed(f, lambda s: s.update(outcome="diverged", reason="at step 5")),
    "not there, although": lambda f: (f / run_dir.WEIGHTS).unlink(),
    "unreadable": lambda f: (f / run_dir.STATUS).write_text("{"),
    r"weights.safetensors: unreadable": lambda f: os.truncate(f / run_dir.WEIGHTS, 500),
    r"weights.safetensors: unreadable \(": lambda f: (f / run_dir.WEIGHTS).write_bytes(pickle.dumps({"w": 1})),
    r"unreadable \('mlp_sweep": lambda f: (f / run_dir.WEIGHTS).write_bytes(save({"w": np.ones(3)})),
    "does not say which classes": lambda f: sealed.write_arrays(f / run_dir.WEIGHTS, {}, {"run_id": "0"}),
    r"weights.safetensors: damaged": lambda f: flipped(f / run_dir.WEIGHTS),
    r"status.json: damaged": lambda f: flipped(f / run_dir.STATUS, b"\"seed\": 0", b"\"seed\": 1"),
    "the weights of another run": lambda f: reweighed(f, lambda a: None, run_id="f" * 16),
    r"layers\.0\.weight is 16 x 768 there, 17 x 768": lambda f: setting(f, "model", hidden=[17, 8]),
    r"layers\.2\.weight is 3 x 8 there, 4 x 8 by": lambda f: setting(f, "model", hidden=[16, 8, 4]),
    r"layers\.1\.bias is missing there": lambda f: reweighed(f, lambda a: a.pop("layers.1.bias")),
    "numbers of kind float64": lambda f: reweighed(f, lambda a: a.update({k: v.astype("f8") for k, v in a.items()})),
    "of pictures with 3 channels": lambda f: setting(f, "dataset", color="grey"),
    "a reference to another": lambda f: changed(f, lambda s: s["settings"].update(seed="${oc.env:HOME}")),
    "_target_": lambda f: setting(f, "model", _target_="os.mkdir"),
    "settings of no model": lambda f: setting(f, "dataset", image_size=2**40),
    "seed": lambda f: changed(f, lambda s: s["settings"].update(seed=[])),
    "the settings that it was trained with": lambda f: changed(f, lambda s: s.update(settings=None)),
}  # fmt: skip


@pytest.mark.parametrize("said", HARMS)
def test_a_run_that_cannot_predict_says_why(said: str, copied: Path):
    HARMS[said](copied)
    with pytest.raises(ValueError, match=said) as caught:
        predictor.load(copied)
    assert str(caught.value).startswith(str(copied)) and "\n" not in str(caught.value)


def test_what_is_no_run_says_what_there_is(copied: Path):
    with pytest.raises(ValueError, match=f"1 runs in it, give one of them: {copied}$"):
        predictor.load(copied.parent)
    with pytest.raises(ValueError, match="no such folder"):
        predictor.load(copied / "none")


def test_logits_that_are_not_finite_are_no_prediction(copied: Path, pictures: Path, capsys):
    reweighed(copied, lambda arrays: arrays["layers.2.bias"].fill(np.inf))
    with pytest.raises(SystemExit):
        main([str(copied), str(pictures / "val" / CLASSES[0])])
    said = capsys.readouterr()
    assert said.err.count("not finite numbers") == 4 and said.out == ""


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("kind", ["pickled", "names"])
def test_a_hostile_run_directory_runs_and_writes_nothing(
    kind: str, copied: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    file = copied / run_dir.WEIGHTS
    run_id, trained_on = weights.described(file)
    if kind == "pickled":
        for path in (file, copied / run_dir.CHECKPOINT, copied / "data.pkl"):
            path.write_bytes(pickle.dumps(Hostile()))
    else:
        trained_on.classes = ["../../harm", "\x1b[2J\x1b]0;harm\x07", "[/red][link=file:///harm]"]
        trained_on.names = ["=cmd|harm", "\ud800\r\n", "${oc.env:HOME} {{7*7}}"]
        weights.write(file, load_file(file), run_id, trained_on)
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    one, *_ = (pictures / "val" / CLASSES[0]).iterdir()
    if kind == "pickled":
        with pytest.raises(SystemExit):
            main([str(copied), str(one), "--csv", "out.csv"])
    else:
        main([str(copied), str(one), "--csv", "out.csv"])
        said = capsys.readouterr()
        assert "\x1b" not in said.out and "\x07" not in said.out and "\x1b" not in Path("out.csv").read_text()
        assert "[/red][link=file:///harm]" in said.out and "{{7*7}}" in said.out  # as text
        assert Path("out.csv").read_text().count("\n") == 4
        Path("out.csv").unlink()
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("loss, dead, outcome", [
    ("10503983296.0", "0.6", "exploded"), (repr(float(np.log(3))), "0.6", "collapsed"), ("0.5", "0.6", None),
])  # fmt: skip
def test_predictions_of_a_lost_run_come_with_a_notice(
    copied: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    loss: str, dead: str, outcome: str | None
):  # fmt: skip
    """By its figures: whatever word an older version recorded."""
    monkeypatch.setattr(console, "_said", set())
    columns, *lines = (copied / run_dir.METRICS).read_text().splitlines()
    last = dict(zip(columns.split(","), lines[-1].split(","), strict=True)) | {"train_loss": loss, "dead_1": dead}
    (copied / run_dir.METRICS).write_text("\n".join([columns, *lines[:-1], ",".join(last.values()), ""]))
    changed(copied, lambda s: s.update(outcome="collapsed", metrics_sha256=None))
    main([str(copied), str(pictures / "val" / CLASSES[0] / "0.jpg")])
    err = capsys.readouterr().err
    said = [f"mlp_sweep: the run {outcome}: its predictions are no better than guesses"] if outcome else []
    assert err.splitlines() == said
