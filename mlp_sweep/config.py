"""What a run is: the typed schema of conf/, its checks, and the step from OmegaConf to plain values.

This is the one module that knows OmegaConf. The dataclasses here are schema and plain value at once
(OmegaConf refuses frozen ones); the defaults are in conf/*.yaml alone. No torch at import: --help is quick.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from . import migrations

_PACKAGED = Path(__file__).parent / "conf"  # in a wheel; beside the package in a checkout
CONF_DIR = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parent.parent / "conf"

ENGINES = ("auto", "stacked", "reference")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("highest", "high", "medium")
ON_DIVERGENCE = ("stop", "continue")
UNDECISIVE = ("roll", "data_dir", "dry_run", "fail_fast")  # act through other settings, or on no number at all
PLACES = ("root", "val_root", "download", "url", "md5", "verify")  # of a data set: where pictures are, not which or how
WITH_SLOPE = ("scaled",)  # the activations that have a slope r
RESIZES = ("crop", "squash")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")  # all but nearest with antialiasing
COLORS = ("rgb", "grey")
ON_ERROR = ("raise", "skip")
IMAGENETTE_SIZES = ("full", "320px", "160px")


@dataclass
class Dataset:
    name: str
    num_classes: int | None  # None: every class there is
    image_size: int  # pixels a side
    verify: bool  # read the whole cache and compare it with its checksum


@dataclass
class Synthetic(Dataset):
    samples_per_class: int
    val_per_class: int


@dataclass
class Pictures(Dataset):
    """A set of real pictures: where it is, which of them, and how they are made arrays."""

    root: str
    download: bool
    url: str | None  # the folder that it is fetched from; None: a set that may not be
    md5: dict[str, str]  # of each file to fetch, by its name in that folder
    classes: list[str] | None
    samples_per_class: int | None
    resize: str
    interpolation: str
    color: str
    on_error: str


@dataclass
class ImageFolder(Pictures):
    val_root: str | None
    val_fraction: float


@dataclass
class Imagenette(Pictures):
    size: str  # full, or pictures of this shorter side


@dataclass
class Model:
    name: str
    hidden: list[int]


@dataclass
class Activation:
    name: str
    r: float


@dataclass
class Optimizer:
    name: str
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float


@dataclass
class Augment:
    flip: bool  # mirror each training picture left to right, or not, by a coin
    shift: int  # pixels that it is moved at most, each way


@dataclass
class Run:
    """All that decides the numbers of one training run, and where its pictures are kept."""

    dataset: Dataset
    model: Model
    activation: Activation
    optimizer: Optimizer
    augment: Augment
    roll: int
    seed: int
    data_seed: int
    epochs: int
    batch_size: int
    device: str
    matmul_precision: str
    engine: str
    on_divergence: str
    data_dir: str
    dry_run: bool
    fail_fast: bool

    def settings(self) -> dict[str, Any]:
        """What decides the numbers, as plain nested values: equal settings are equal runs.

        `roll` acts through the number of classes and r only; a path decides nothing, the pictures behind it do.
        """
        settings = asdict(self)
        for key in UNDECISIVE:
            settings.pop(key, None)
        return settings

    def id(self, data_fingerprint: str) -> str:
        """Hash of what decides the numbers: the settings, less paths, and the pictures' own fingerprint."""
        settings = migrations.for_run_id(self.settings())
        settings["dataset"] = data_fingerprint
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def decisive(settings: dict[str, Any], free: tuple[str, ...] = ()) -> dict[str, Any]:
    """The settings that tell one run from another, flat and sorted: no paths, none of those `free`."""
    leaves = {}
    for key, value in settings.items():
        leaves |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    skipped = {*UNDECISIVE, *free, *(f"dataset.{key}" for key in PLACES)}
    return {key: leaves[key] for key in sorted(leaves.keys() - skipped)}


def differences(theirs: dict[str, Any], run: Run, free: tuple[str, ...] = ()) -> list[str]:
    """The decisive settings, less those `free`, in which a run on disk differs from this one, a sentence each."""
    there, asked = decisive(theirs, free), decisive(asdict(run), free)
    keys = sorted(there.keys() | asked.keys())
    return [
        f"{key}: {there.get(key)} there, {asked.get(key)} asked for" for key in keys if there.get(key) != asked.get(key)
    ]


SCHEMAS = {  # (group, name) -> dataclass, as cli.py registers them with Hydra
    (None, "schema"): Run,
    ("schema/dataset", "synthetic"): Synthetic,
    ("schema/dataset", "pictures"): Pictures,
    ("schema/dataset", "image_folder"): ImageFolder,
    ("schema/dataset", "imagenette"): Imagenette,
}


def register_resolvers() -> None:
    """The functions that conf/*.yaml calls: ${sum:10,${roll}} and ${job_dir:...}."""
    OmegaConf.register_new_resolver("sum", lambda *terms: sum(terms), replace=True)
    OmegaConf.register_new_resolver("job_dir", job_dir, replace=True)


def job_dir(overrides: list[str]) -> str:
    """A job's directory name: its overrides, less paths; with a hash of them where they had to be changed or cut.

    At most 150 bytes of UTF-8: file systems allow 255 bytes, and count no characters.
    """
    named = [o for o in overrides if not o.split("=")[0].endswith(("root", "data_dir", "dry_run"))]
    whole = ",".join(named) or "defaults"
    name = "".join("_" if c == "/" or not c.isprintable() else c for c in whole)
    if name != whole or len(name.encode()) > 150 or name.startswith("."):
        start = name.lstrip(".").encode()[:137].decode(errors="ignore")  # a character is whole or left out
        name = f"{start}-{hashlib.sha256(whole.encode(errors='surrogateescape')).hexdigest()[:12]}"
    return name


def to_run(cfg: DictConfig) -> tuple[Run, list[str]]:
    """A checked Run from Hydra's config, and notices for the user. ValueError says which key is wrong and how."""
    try:
        run = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise ValueError(one_line(error)) from error
    assert isinstance(run, Run)
    check(run)
    notices = []
    if run.activation.name not in WITH_SLOPE and run.activation.r != 1:
        notices.append(f"{run.activation.name} has no slope: activation.r is set to 1 for it")
        run.activation.r = 1.0
    if run.activation.name == "scaled" and run.activation.r == 1:  # the same numbers, and the baseline of the others
        notices.append("activation=scaled with activation.r=1 is relu: it goes by that name")
        run.activation.name = "relu"
    return run, notices


def from_settings(settings: dict[str, Any]) -> Run:
    """A checked Run from plain values, such as status.json holds. ValueError: what is amiss."""
    if "${" in json.dumps(settings):  # by which a stranger's record could read this machine's environment
        raise ValueError("no settings of a run (a value is a reference to another)")
    try:
        dataset = settings["dataset"]
        schema = OmegaConf.structured(Run)
        schema.dataset = OmegaConf.structured(SCHEMAS.get(("schema/dataset", dataset["name"]), Pictures))
        cfg = OmegaConf.merge(schema, settings)
        assert isinstance(cfg, DictConfig)
        return to_run(cfg)[0]
    except OmegaConfBaseException as error:  # before the others: some of it are KeyErrors too
        raise ValueError(one_line(error)) from error
    except (KeyError, TypeError) as error:
        raise ValueError(f"no settings of a run ({error})") from error


def one_line(error: Exception) -> str:
    """Errors in one line: the path and the system's words; OmegaConf's many lines as the key and the sentence."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        said = str(error)
        return said if said.startswith("out of memory") else f"out of memory ({said or 'no more is given'})"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    keys = [line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")]
    said = [line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type="))]
    if isinstance(error.__cause__, OmegaConfBaseException):
        said.append(one_line(error.__cause__))
    text = ": ".join(dict.fromkeys(line.rstrip(":.") for line in said))
    text = re.sub(r"Structured config of type `\w+` has missing mandatory value: .+", "has to be given", text)
    text = text.replace("is not a ListConfig, list or tuple", "is no list, such as [a,b]")
    return f"{keys[0]}: {text}" if keys and keys[0] not in text else text


LARGEST = 3.4e38  # that float32 holds


def check(run: Run) -> None:
    """ValueError with the key, its value and what is allowed, for the first setting that cannot be trained."""

    def need(ok: bool, key: str, value: Any, allowed: str) -> None:
        if not ok:
            raise ValueError(f"{key}={value}: must be {allowed}")

    data, optimizer = run.dataset, run.optimizer
    need(0 < run.activation.r < LARGEST, "activation.r", run.activation.r, f"greater than 0, below {LARGEST:g}")
    need(0 < optimizer.lr < LARGEST, "optimizer.lr", optimizer.lr, f"greater than 0, below {LARGEST:g}")
    need(0 <= optimizer.momentum < 1, "optimizer.momentum", optimizer.momentum, "in [0, 1)")
    decay = optimizer.weight_decay
    need(0 <= decay < LARGEST, "optimizer.weight_decay", decay, f"0 or more, below {LARGEST:g}")
    need(
        not optimizer.nesterov or optimizer.momentum > 0,
        "optimizer.nesterov",
        optimizer.nesterov,
        "false without optimizer.momentum",
    )
    need(run.epochs >= 0, "epochs", run.epochs, "0 or more")
    need(run.batch_size >= 1, "batch_size", run.batch_size, "1 or more")
    need(0 <= run.seed < 2**63, "seed", run.seed, "in [0, 2^63)")
    need(0 <= run.data_seed < 2**63, "data_seed", run.data_seed, "in [0, 2^63)")
    need(run.device in DEVICES, "device", run.device, f"one of {', '.join(DEVICES)}")
    need(run.engine in ENGINES, "engine", run.engine, f"one of {', '.join(ENGINES)}")
    need(run.on_divergence in ON_DIVERGENCE, "on_divergence", run.on_divergence, f"one of {', '.join(ON_DIVERGENCE)}")
    need(
        run.matmul_precision in PRECISIONS, "matmul_precision", run.matmul_precision, f"one of {', '.join(PRECISIONS)}"
    )
    need(all(width >= 1 for width in run.model.hidden), "model.hidden", run.model.hidden, "widths of 1 or more")
    need(not run.model.hidden or run.model.name != "linear", "model.hidden", run.model.hidden, "[] with model=linear")
    need(data.image_size >= 1, "dataset.image_size", data.image_size, "1 or more")
    need(0 <= run.augment.shift < data.image_size, "augment.shift", run.augment.shift, "in [0, dataset.image_size)")
    if data.num_classes is not None:
        need(data.num_classes >= 2, "dataset.num_classes", data.num_classes, "2 or more (C = 10 + roll unless set)")
    if isinstance(data, Synthetic):
        need(data.num_classes is not None, "dataset.num_classes", "null", "a number for generated pictures")
        need(data.val_per_class >= 1, "dataset.val_per_class", data.val_per_class, "1 or more")
    samples = getattr(data, "samples_per_class", None)
    if samples is not None:
        need(samples >= 1, "dataset.samples_per_class", samples, "1 or more")
    if isinstance(data, Pictures):
        for key, allowed in (
            ("resize", RESIZES),
            ("interpolation", INTERPOLATIONS),
            ("color", COLORS),
            ("on_error", ON_ERROR),
        ):
            value = getattr(data, key)
            need(value in allowed, f"dataset.{key}", value, f"one of {', '.join(allowed)}")
        need(data.classes is None or len(set(data.classes)) >= 2, "dataset.classes", data.classes, "two or more")
    if isinstance(data, Imagenette):
        need(data.size in IMAGENETTE_SIZES, "dataset.size", data.size, f"one of {', '.join(IMAGENETTE_SIZES)}")
    if isinstance(data, ImageFolder):
        need(0 < data.val_fraction < 1, "dataset.val_fraction", data.val_fraction, "between 0 and 1")
