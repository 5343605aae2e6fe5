"""What a run is: the typed schema of conf/, its checks, and the step from OmegaConf to plain values.

This is the one module that knows OmegaConf. The dataclasses here are schema and plain value at once
(OmegaConf refuses frozen ones); the defaults are in conf/*.yaml alone. No torch at import: --help is quick.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from . import migrations
from .properties import ACTIVATIONS, MODELS, OPTIMIZERS, with_slope

_PACKAGED = Path(__file__).parent / "conf"  # in a wheel; beside the package in a checkout
CONF_DIR = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parent.parent / "conf"

ENGINES = ("auto", "stacked", "reference")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("highest", "high", "medium")
ON_DIVERGENCE = ("stop", "continue")
UNDECISIVE = ("roll", "data_dir", "dry_run", "fail_fast")  # act through other settings, or on no number at all
PLACES = ("root", "val_root", "download", "url", "md5", "verify")  # of a data set: where pictures are, not which or how
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


def _leaves(settings: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys to values, two levels deep."""
    leaves = {}
    for key, value in settings.items():
        leaves |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return leaves


def decisive(settings: dict[str, Any], free: tuple[str, ...] = ()) -> dict[str, Any]:
    """The settings that tell one run from another, flat and sorted: no paths, none of those `free`."""
    leaves = _leaves(settings)
    skipped = {*UNDECISIVE, *free, *(f"dataset.{key}" for key in PLACES)}
    return {key: leaves[key] for key in sorted(leaves.keys() - skipped)}


def differences(theirs: dict[str, Any], run: Run, free: tuple[str, ...] = ()) -> list[str]:
    """The decisive settings, less those `free`, in which a run on disk differs from this one, a sentence each."""
    there, asked = decisive(theirs, free), decisive(asdict(run), free)
    keys = sorted(there.keys() | asked.keys())
    return [
        f"{key}: {there.get(key)} there, {asked.get(key)} asked for" for key in keys if there.get(key) != asked.get(key)
    ]


@dataclass
class Command(Run):
    """What may be typed: a run, and values that its settings may refer to as ${vars.NAME}."""

    vars: dict[str, Any] = field(default_factory=dict)  # decides nothing by itself, so it is never recorded


SCHEMAS = {  # (group, name) -> dataclass, as cli.py registers them with Hydra
    (None, "schema"): Command,
    ("schema/dataset", "synthetic"): Synthetic,
    ("schema/dataset", "pictures"): Pictures,
    ("schema/dataset", "image_folder"): ImageFolder,
    ("schema/dataset", "imagenette"): Imagenette,
}


def register_resolvers() -> None:
    """The functions that conf/*.yaml calls: ${sum:10,${roll}} and ${job_dir:...}."""
    OmegaConf.register_new_resolver("sum", lambda *terms: sum(terms), replace=True)
    OmegaConf.register_new_resolver("job_dir", job_dir, replace=True)


def job_dir(overrides: Sequence[str]) -> str:
    """A job's directory name: its overrides, less paths; with a hash of them where they had to be changed or cut.

    At most 150 bytes of UTF-8: file systems allow 255 bytes, and count no characters.
    """
    if isinstance(overrides, ListConfig):  # as typed: seed=${vars.x} is a name here, not a reference
        overrides = [str(override) for override in OmegaConf.to_container(overrides) or []]
    named = [o for o in overrides if not o.split("=")[0].endswith(("root", "data_dir", "dry_run"))]
    whole = ",".join(named) or "defaults"
    name = "".join("_" if c == "/" or not c.isprintable() else c for c in whole)
    if name != whole or len(name.encode()) > 150 or name.startswith("."):
        start = name.lstrip(".").encode()[:137].decode(errors="ignore")  # a character is whole or left out
        name = f"{start}-{hashlib.sha256(whole.encode(errors='surrogateescape')).hexdigest()[:12]}"
    return name


def to_run(cfg: DictConfig, in_sweep: bool = False) -> tuple[Run, list[str]]:
    """A checked Run from Hydra's config, and notices for the user. ValueError says which key is wrong and how.

    in_sweep: a value of activation.r, meant for other jobs of the sweep, is ignored by an activation without a slope.
    """
    try:
        settings = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(one_line(error)) from error
    assert isinstance(settings, dict)
    settings.pop("vars", None)
    run = _typed({str(key): value for key, value in settings.items()})
    check_names(run)
    notices = []
    activation = run.activation
    if in_sweep and not ACTIVATIONS[activation.name].has_slope and activation.r != 1:
        notices.append(f"{activation.name} ignores activation.r: jobs that differ in nothing else train once")
        activation.r = 1.0
    return run, notices + _checked(run)


def from_settings(settings: dict[str, Any]) -> Run:
    """A checked Run from plain values, such as status.json holds. ValueError: what is wrong."""
    run = _typed(settings)
    _checked(run)
    return run


def _checked(run: Run) -> list[str]:
    """Checks a run, and gives it the name that equal numbers are recorded under; notices of it."""
    check(run)
    activation = run.activation
    recorded_as = ACTIVATIONS[activation.name].unit_slope
    if not recorded_as or activation.r != 1:
        return []
    notice = f"activation={activation.name} with activation.r=1 is recorded as {recorded_as}"
    activation.name = recorded_as
    return [notice]


def _typed(settings: dict[str, Any]) -> Run:
    """The Run that plain values give, its types checked. ValueError names a key that is unknown, missing or wrong."""
    if "${" in json.dumps(settings, default=str):  # a stranger's record could read this machine's environment by it
        raise ValueError("no settings of a run (a value is a reference to another)")
    dataset = settings.get("dataset")
    name = dataset.get("name") if isinstance(dataset, dict) else None
    kind = SCHEMAS.get(("schema/dataset", str(name)), Pictures)
    _check_keys(settings, Run, kind)
    try:
        schema = OmegaConf.structured(Run)
        schema.dataset = OmegaConf.structured(kind)
        run = OmegaConf.to_object(OmegaConf.merge(schema, settings))
    except OmegaConfBaseException as error:
        raise ValueError(one_line(error)) from error
    assert isinstance(run, Run)
    for part in (run, run.dataset, run.model, run.activation, run.optimizer, run.augment):
        for key, value in vars(part).items():
            if value == 0 and isinstance(value, float):
                setattr(part, key, 0.0)  # -0.0 trains the same, so it must not be another run
    return run


def _check_keys(settings: dict[str, Any], schema: type, dataset: type, above: str = "") -> None:
    """ValueError names the first key that the schema does not have."""
    types = {one.name: one.type for one in fields(schema)}
    for key, value in settings.items():
        name = f"{above}{key}"
        if key not in types:
            raise ValueError(unknown_key(name, dataset))
        kind = dataset if name == "dataset" else types[key]
        if isinstance(kind, type) and is_dataclass(kind):
            if not isinstance(value, dict):
                raise ValueError(f"{name}={value}: must hold {', '.join(one.name for one in fields(kind))}")
            _check_keys(value, kind, dataset, f"{name}.")


def unknown_key(key: str, dataset: type | None = None) -> str:
    """The sentence that refuses a key: with the known key of the same last name, or the closest one.

    dataset: the schema of the data set that was chosen; without it, keys of all of them may be meant.
    """
    known = list(dict.fromkeys(_known_keys(Run, dataset)))
    if key in _known_keys(Run):
        return f"{key}: the data set that was chosen has no such setting"
    last = key.rpartition(".")[2]
    similar = [one for one in known if "." in one or "." not in key]  # dataset.foo is not meant to be dataset
    close = [one for one in known if one.rpartition(".")[2] == last][:3] or get_close_matches(key, similar, 1)
    closest = f"closest: {', '.join(close)}; " if close else ""
    return f"{key}: no such setting ({closest}python -m mlp_sweep --help lists all)"


def _known_keys(schema: type, dataset: type | None = None, above: str = "") -> Iterator[str]:
    """The dotted names of all settings, those of every kind of data set among them unless one is given."""
    for one in fields(schema):
        yield f"{above}{one.name}"  # a group's name too, such as activation
        kinds = [one.type]
        if one.name == "dataset":
            kinds = [dataset] if dataset else [k for (group, _), k in SCHEMAS.items() if group == "schema/dataset"]
        for kind in kinds:
            if isinstance(kind, type) and is_dataclass(kind):
                yield from _known_keys(kind, dataset, f"{above}{one.name}.")


def refuse_slope(name: str, r: str) -> NoReturn:
    """ValueError: an activation without a slope was given one."""
    instead = f"; activation={with_slope(name)[0]} has one" if with_slope(name) else ""
    raise ValueError(f"activation.r={r}: must be 1, since activation={name} has no slope{instead}")


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


LARGEST = 2**63  # every number in settings is smaller: more is neither trained nor shown in a report
MOST_EPOCHS = 1_000_000
MOST_LAYERS = 1_000


def is_number(value: Any) -> bool:
    """Whether a value is a number that settings may hold: finite, and smaller than LARGEST."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _need(ok: bool, key: str, value: Any, allowed: str) -> None:
    if not ok:
        raise ValueError(f"{key}={value}: must be {allowed}")


def check_names(run: Run) -> None:
    """ValueError where there is no activation, model or optimizer of the name, before torch has to be asked."""
    named = {"activation": (run.activation, ACTIVATIONS), "model": (run.model, MODELS),
             "optimizer": (run.optimizer, OPTIMIZERS)}  # fmt: skip
    for key, (chosen, known) in named.items():
        _need(chosen.name in known, f"{key}.name", chosen.name, f"one of {', '.join(known)}")


def check(run: Run) -> None:
    """ValueError with the key, its value and what is allowed, for the first setting that cannot be trained."""
    need = _need
    check_names(run)
    for key, value in _leaves(asdict(run)).items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not isinstance(number, bool):
                need(is_number(number), key, f"{value!r:.60}", "finite and below 2^63 = 9.2e18")
    data, optimizer, activation = run.dataset, run.optimizer, run.activation
    need(activation.r > 0, "activation.r", activation.r, "greater than 0")
    if not ACTIVATIONS[activation.name].has_slope and activation.r != 1:
        refuse_slope(activation.name, f"{activation.r:g}")
    need(optimizer.lr > 0, "optimizer.lr", optimizer.lr, "greater than 0")
    need(0 <= optimizer.momentum < 1, "optimizer.momentum", optimizer.momentum, "in [0, 1)")
    need(optimizer.weight_decay >= 0, "optimizer.weight_decay", optimizer.weight_decay, "0 or more")
    need(
        not optimizer.nesterov or optimizer.momentum > 0,
        "optimizer.nesterov",
        optimizer.nesterov,
        "false without optimizer.momentum",
    )
    need(0 <= run.epochs <= MOST_EPOCHS, "epochs", run.epochs, f"in [0, {MOST_EPOCHS:,}]")
    need(run.batch_size >= 1, "batch_size", run.batch_size, "1 or more")
    need(run.seed >= 0, "seed", run.seed, "in [0, 2^63)")
    need(run.data_seed >= 0, "data_seed", run.data_seed, "in [0, 2^63)")
    need(run.device in DEVICES, "device", run.device, f"one of {', '.join(DEVICES)}")
    need(run.engine in ENGINES, "engine", run.engine, f"one of {', '.join(ENGINES)}")
    need(run.on_divergence in ON_DIVERGENCE, "on_divergence", run.on_divergence, f"one of {', '.join(ON_DIVERGENCE)}")
    need(
        run.matmul_precision in PRECISIONS, "matmul_precision", run.matmul_precision, f"one of {', '.join(PRECISIONS)}"
    )
    need(all(width >= 1 for width in run.model.hidden), "model.hidden", run.model.hidden, "widths of 1 or more")
    has_hidden = MODELS[run.model.name].has_hidden
    need(has_hidden or not run.model.hidden, "model.hidden", run.model.hidden, f"[] with model={run.model.name}")
    layers = len(run.model.hidden)
    need(layers <= MOST_LAYERS, "model.hidden", f"[{layers:,} layers]", f"at most {MOST_LAYERS:,} layers")
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
