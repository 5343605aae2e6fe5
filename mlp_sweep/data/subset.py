"""Which classes and pictures of a set are used: asked for by name, or drawn by data_seed."""

from collections.abc import Iterable, Mapping

from .. import config
from .draws import draws

SHOWN = 5  # classes that an error names


def choose_classes(dataset: config.Pictures, names: Mapping[str, str], data_seed: int) -> list[str]:
    """The ids of the classes listed in dataset.classes, or of num_classes drawn by data_seed, sorted.

    `names` holds every class there is: id -> name in words. ValueError says what there is.
    """
    if dataset.classes is not None:
        return _named(dataset.classes, names, dataset.root)
    there_are, count = sorted(names), dataset.num_classes
    if count is None:
        return there_are
    if count > len(there_are):
        raise ValueError(
            f"dataset.num_classes={count}: {dataset.root} has {len(there_are)} classes; "
            f"set dataset.num_classes={len(there_are)} or fewer (null: all of them)"
        )
    return sorted(there_are[i] for i in draws(data_seed, 0).choice(len(there_are), count, replace=False))


def _named(wanted: Iterable[str], names: Mapping[str, str], where: str) -> list[str]:
    """Ids of classes given by id, by name ("tabby, tabby cat") or by one word of it ("tabby")."""
    called: dict[str, list[str]] = {}
    for key, name in names.items():
        for word in {name.lower(), *(part.strip().lower() for part in name.split(","))}:
            called.setdefault(word, []).append(key)
    found = {word: [word] if word in names else called.get(word.strip().lower(), []) for word in wanted}
    unknown = sorted(word for word, ids in found.items() if not ids)
    if unknown:
        some = ", ".join(f"{key} ({names[key]})" if names[key] != key else key for key in sorted(names)[:SHOWN])
        more = ", ..." if len(names) > SHOWN else ""
        raise ValueError(
            f"dataset.classes: {where} has no class {', '.join(unknown)}; its {len(names)} are {some}{more}"
        )
    for word, ids in found.items():
        if len(ids) > 1:
            raise ValueError(f"dataset.classes: {word} may be {' or '.join(sorted(ids))}: give the id")
    words_of = {ids[0]: [word for word, other in found.items() if other == ids] for ids in found.values()}
    for key, words in words_of.items():
        if len(words) > 1:
            raise ValueError(f"dataset.classes: {' and '.join(words)} are one class, {key}")
    return sorted(words_of)


def thin(pictures: list[str], dataset: config.Pictures, data_seed: int, label: int) -> list[str]:
    """samples_per_class of a class's training pictures drawn by data_seed, in their order; null: all of them."""
    count = dataset.samples_per_class
    if count is None or count == len(pictures):
        return pictures
    if count > len(pictures):
        raise ValueError(
            f"dataset.samples_per_class={count}: a class of {dataset.root} has {len(pictures)} training pictures; "
            f"set {len(pictures)} or fewer (null: all of them)"
        )
    drawn = draws(data_seed, 1, label).choice(len(pictures), count, replace=False)
    return [pictures[i] for i in sorted(drawn)]
