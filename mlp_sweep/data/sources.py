"""The sets of real pictures by the name in their config group."""

from collections.abc import Callable

from .. import config
from ..console import Progress
from .folders import image_folder, imagenet, imagenette
from .in_memory import Cifar, FashionMNIST
from .listing import Source
from .tiny_imagenet import TinyImageNet

SOURCES: dict[str, Callable[..., Source]] = {
    "image_folder": image_folder,
    "imagenet": imagenet,
    "imagenette": imagenette,
    "tiny_imagenet": TinyImageNet,
    "cifar10": Cifar,
    "cifar100": Cifar,
    "fashion_mnist": FashionMNIST,
}


def source(dataset: config.Pictures, data_seed: int, progress: Progress) -> Source:
    """The set's source, fetched first where it is missing and dataset.download says so."""
    if dataset.name not in SOURCES:
        raise ValueError(f"dataset.name={dataset.name}: must be synthetic or one of {', '.join(SOURCES)}")
    return SOURCES[dataset.name](dataset, data_seed, progress)
