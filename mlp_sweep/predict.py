"""python -m mlp_sweep.predict RUN PICTURE...: what a finished run takes pictures for, from its directory alone."""

import argparse
import csv
import itertools
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from . import console, machine
from .outcomes import LOST

if TYPE_CHECKING:
    import numpy as np

    from .predictor import Predictor

TOGETHER = 256  # pictures decoded and classified at a time
COLUMNS = ("picture", "rank", "class", "name", "probability")


def main(argv: list[str] | None = None) -> None:
    """Exit status 0, or 1 with a line on stderr for each picture that got no prediction, or one for the run."""
    parser = argparse.ArgumentParser(
        prog="python -m mlp_sweep.predict",
        description="What a finished run takes pictures for. Its directory is enough: neither the data set nor the "
        "cache is needed. Pictures are prepared as the run's own were.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's directory")
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="pictures, or folders of them")
    parser.add_argument("--top", type=_count, default=5, metavar="K", help="classes to name, the likeliest first (5)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every row to a CSV file too")
    console.outlive_streams()
    args = parser.parse_args(argv)
    try:
        whole = predict(args.run, args.pictures, args.top, args.csv)
    except KeyboardInterrupt:
        console.stopped(None)
    except (ValueError, OSError) as error:
        console.error(console.plain(str(error)))
        sys.exit(1)
    console.say_if_lost(closed_pipe=False)
    if not whole or console.lost():
        sys.exit(1)


def predict(run: Path, pictures: list[Path], top: int, out: Path | None) -> bool:
    """Prints the table and writes the CSV; whether every picture got a prediction. ValueError: what the run lacks."""
    from .predictor import load  # imports torch

    predictor = load(run)
    if predictor.outcome in LOST:
        console.notice(f"the run {predictor.outcome}: its predictions are no better than guesses")
    shown: list[dict[str, str]] = []
    more, whole = 0, True
    with ExitStack() as stack:
        writer = None
        if out is not None:
            writer = csv.writer(
                stack.enter_context(open(out, "w", newline="", encoding="utf-8", errors="surrogateescape"))
            )
            writer.writerow(COLUMNS)
        for path, said in classified(predictor, found(pictures), top):
            if isinstance(said, str):
                console.error(console.plain(f"{path}: {said}"))
                whole = False
                continue
            for rank, (key, name, probability) in enumerate(said, start=1):
                if writer:
                    writer.writerow([path, rank, key, name, repr(probability)])
                if len(shown) < console.MOST_ROWS:
                    first = str(path) if rank == 1 else ""
                    shown.append({"picture": first, "class": key, "name": name, "probability": f"{probability:.4f}"})
                else:
                    more += 1
    console.table(shown, ("probability",))
    if more:
        console.result(f"... and {more} more rows" + ("" if out else " (--csv FILE writes them all)"))
    return whole


def found(paths: list[Path]) -> Iterator[tuple[Path, str | None]]:
    """Every picture named, and those at any depth of a folder; with a reason where there is none."""
    from .data.folders import EXTENSIONS

    for path in paths:
        if not path.is_dir():
            yield path, None
            continue
        below = sorted(Path(folder, name) for folder, _, names in os.walk(path) for name in names)
        inside = [file for file in below if file.name.lower().endswith(EXTENSIONS)]
        if not inside:
            yield path, f"no picture in it (known endings: {' '.join(EXTENSIONS)})"
        yield from ((file, None) for file in inside)


def classified(
    predictor: "Predictor", paths: Iterator[tuple[Path, str | None]], top: int
) -> Iterator[tuple[Path, str | list[tuple[str, str, float]]]]:
    """Each path with its likeliest classes (id, name, probability), or with the reason why it has none."""
    import numpy as np
    import torch

    def prepared(item: tuple[Path, str | None]) -> "np.ndarray | str":
        path, reason = item
        try:
            return reason or predictor.read(path)
        except (ValueError, OSError) as error:
            return getattr(error, "strerror", None) or str(error)

    classes, names = predictor.trained_on.classes, predictor.trained_on.names
    with ThreadPoolExecutor(machine.cores()) as pool:
        while some := list(itertools.islice(paths, TOGETHER)):
            ready = list(pool.map(prepared, some))
            arrays = [x_CHW for x_CHW in ready if not isinstance(x_CHW, str)]
            logits_NC = predictor.logits(np.stack(arrays)) if arrays else torch.empty(0, len(classes))
            rows = iter(logits_NC.double())
            for (path, _), one in zip(some, ready, strict=True):
                if isinstance(one, str):
                    yield path, one
                    continue
                logits_C = next(rows)
                if not logits_C.isfinite().all():
                    yield path, "the run's logits for it are not finite numbers"
                    continue
                likeliest = logits_C.softmax(0).topk(min(top, len(classes)))
                pairs = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
                yield path, [(console.plain(classes[i]), console.plain(names[i]), p) for i, p in pairs]


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of classes: 1 or more")
    return int(text)


if __name__ == "__main__":
    main()
