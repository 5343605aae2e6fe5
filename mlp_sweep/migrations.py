"""Records of older versions, brought up to date when they are read; what is on disk stays as it is.

status.json and jobs.json name the version of the record that they are (version 1 named none). Whoever adds a setting
raises VERSION and adds a line to MIGRATIONS; tests/records holds a sweep of each version that must stay readable.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

VERSION = 2
KEY = "record"  # of a record, its version


def _nothing(_: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Migration:
    """What a version changed in a run's settings."""

    # Setting -> the value that runs of older records were trained with. A run_id leaves out a setting at this value,
    # so that the setting changes no run_id that was written before there was one.
    added: Mapping[str, Any] = field(default_factory=dict)
    change: Callable[[dict[str, Any]], None] = _nothing  # of the nested settings, in place


def _to_2(settings: dict[str, Any]) -> None:
    """Settings that came while records had no version. Today's run_ids cover them, so they are none of `added`."""
    settings.setdefault("augment", {"flip": False, "shift": 0})
    for key, value in {"on_divergence": "stop", "dry_run": False, "fail_fast": False}.items():
        settings.setdefault(key, value)
    dataset = settings.get("dataset")
    if not isinstance(dataset, dict):
        return
    dataset.setdefault("verify", False)
    if dataset.get("name") != "synthetic":
        if isinstance(dataset.get("md5"), str):  # of the one file that `url` named whole; now it names the folder
            dataset |= {"md5": {}, "url": None}
        rules = {"resize": "crop", "interpolation": "bilinear", "color": "rgb", "on_error": "raise"}
        for key, value in ({"download": False, "url": None, "md5": {}} | rules).items():
            dataset.setdefault(key, value)


MIGRATIONS = {2: Migration(change=_to_2)}  # by the version that they lead to


def stamped(record: dict[str, Any]) -> dict[str, Any]:
    """A record to be written, with the present version."""
    return record | {KEY: VERSION}


def version(record: Mapping[str, Any], where: object) -> int:
    """ValueError for a record that is newer than this code, or whose version is no number."""
    found = record.get(KEY, 1)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ValueError(f"{where}: record version {found!r:.40} is not a version")
    if found > VERSION:
        raise ValueError(
            f"{where}: written by a newer mlp_sweep (record version {found}; this one reads up to {VERSION})"
        )
    return found


def settings(found: Any, since: int) -> Any:
    """A run's settings of a record of version `since` as the present version has them; what is no dict is returned."""
    if not isinstance(found, dict):
        return found
    for to in range(since + 1, VERSION + 1):
        for key, value in MIGRATIONS[to].added.items():
            group, _, leaf = key.rpartition(".")
            place = found.setdefault(group, {}) if group else found
            if isinstance(place, dict):
                place.setdefault(leaf, value)
        MIGRATIONS[to].change(found)
    return found


def for_run_id(found: dict[str, Any]) -> dict[str, Any]:
    """Settings less those that a migration added and that are at their legacy value (see Migration.added)."""
    kept = {key: dict(value) if isinstance(value, dict) else value for key, value in found.items()}
    for migration in MIGRATIONS.values():
        for key, value in migration.added.items():
            group, _, leaf = key.rpartition(".")
            place = kept.get(group) if group else kept
            if isinstance(place, dict) and place.get(leaf) == value:
                del place[leaf]
                if group and not place:  # a group that is new as a whole
                    del kept[group]
    return kept
