"""Real models with random weights, by name: what benchmarks/zoo.py converts and the tests draw samples from.

A file per source. Their libraries are imported on use: torchvision is in the extra ``dev``, all of them are in ``zoo``.
"""

from __future__ import annotations

from .audio import audio_models
from .entry import Entry, Example
from .timm_models import timm_models
from .torchvision_models import torchvision_models
from .transformers_models import transformers_models

__all__ = ["COLLECTIONS", "Entry", "Example", "catalogue"]

COLLECTIONS = {
    "torchvision": torchvision_models,
    "timm": timm_models,
    "transformers": transformers_models,
    "audio": audio_models,
}


def catalogue(*collections: str) -> dict[str, Entry]:
    """Name -> entry, of these collections or of all."""
    entries = [entry for name in collections or COLLECTIONS for entry in COLLECTIONS[name]()]
    return {entry.name: entry for entry in entries}
