"""python -m mlp_sweep.data: what is in a set, in words and on a sheet; and every group of conf/dataset composes."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from small_sets import arrays, encoded, picture_tree, run_settings, settings

from mlp_sweep import config
from mlp_sweep.data.__main__ import main
from mlp_sweep.data.contact_sheet import GAP, LETTERS, MARGIN, contact_sheet
from mlp_sweep.data.sources import SOURCES


@pytest.fixture
def tree(tmp_path):
    root = picture_tree(tmp_path / "set", ["ant", "bee"], 10, size=50)
    (root / "bee/bad.jpg").write_bytes(b"no picture")
    (root / "ant/white.png").write_bytes(encoded(Image.new("RGB", (9, 9), "white"), "PNG"))
    return root


def test_a_set_is_prepared_and_shown(tree, tmp_path, capsys):
    main(
        [
            "dataset=image_folder",
            f"dataset.root={tree}",
            "dataset.num_classes=2",
            "dataset.on_error=skip",
            f"data_dir={tmp_path}",
        ]
    )
    said = capsys.readouterr().out
    for words in ("image_folder, 2 classes", "3 x 64 x 64, 12,288 features", "skipped        1 pictures", "bad.jpg"):
        assert words in said
    [sheet] = (tmp_path / "cache").glob("*/contact_sheet.png")
    assert str(sheet) in said.replace("\n", "")
    with Image.open(sheet) as image:
        assert image.width > 8 * 64


def test_the_sheet_shows_the_pictures_of_the_model(tree, tmp_path):
    dataset = settings("image_folder", root=str(tree), num_classes=2, image_size=20, on_error="skip")
    made = arrays(dataset, tmp_path)
    sheet = np.asarray(contact_sheet(made))
    top, left = MARGIN + LETTERS + 2 * GAP, MARGIN
    tile = sheet[top : top + 60, left : left + 60]  # 20 pixels, each shown as 3 x 3
    np.testing.assert_array_equal(tile[::3, ::3].transpose(2, 0, 1), made.train_x[0])
    np.testing.assert_array_equal(tile[2::3, 2::3], tile[::3, ::3])


@pytest.mark.parametrize(
    "overrides", [["dataset=none"], ["dataset=image_folder", "dataset.root=none"], ["dataset.x=1"]]
)
def test_bad_settings_are_one_line(overrides, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*overrides, f"data_dir={tmp_path}"])
    said = capsys.readouterr().err
    assert caught.value.code == 1 and said.count("\n") == 1 and said.startswith("mlp_sweep: ")


def test_help_shows_examples(capsys):
    main(["--help"])
    assert "python -m mlp_sweep.data dataset=" in capsys.readouterr().out


@pytest.mark.parametrize("group", ["synthetic", *SOURCES])
def test_every_group_composes(group):
    assert settings(group).name == group


@pytest.mark.parametrize("group", ["synthetic", *SOURCES])
def test_every_group_comes_back_from_a_record(group):
    run = run_settings(group)
    assert config.from_settings(json.loads(json.dumps(dataclasses.asdict(run)))) == run


def test_every_group_is_a_source():
    assert {path.stem for path in (config.CONF_DIR / "dataset").glob("*.yaml")} == {"synthetic", *SOURCES}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("dataset.verify=false", "mlp_sweep: dataset.root: has to be given"),
        ("dataset.classes=goldfish", "str is no list, such as [a,b]"),
    ],
)
def test_what_is_missing_or_no_list_is_said_in_plain_words(override, said, capsys):
    with pytest.raises(SystemExit):
        main(["dataset=image_folder", override])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value"), [("resize", "pad"), ("interpolation", "cubic"), ("color", "red"), ("on_error", "no")]
)
def test_a_wrong_rule_names_what_is_allowed(key, value, capsys):
    with pytest.raises(SystemExit):
        main(["dataset=cifar10", f"dataset.{key}={value}"])
    said = capsys.readouterr().err
    assert f"dataset.{key}={value}" in said and "must be one of" in said
