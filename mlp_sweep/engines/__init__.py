"""One training step in two forms. Which one serves a run is said here."""

from .reference import ReferenceEngine

__all__ = ["ReferenceEngine"]
