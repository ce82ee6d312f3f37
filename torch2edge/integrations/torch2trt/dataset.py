"""Datasets: samples of a module's positional inputs, recorded or inserted."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import InputError
from .flattener import Flattener

__all__ = ["Dataset", "DatasetRecorder", "FolderDataset", "ListDataset", "TensorBatchDataset"]


class DatasetRecorder:
    """Inserts the inputs of every call of ``module`` while it is entered."""

    def __init__(self, dataset: Dataset, module: nn.Module) -> None:
        self.dataset, self.module = dataset, module
        self.handle: Any = None

    def __enter__(self) -> DatasetRecorder:
        """Begin to record.

        Raises:
            RuntimeError: it has begun already.
        """
        if self.handle is not None:
            raise RuntimeError("this DatasetRecorder is active already; record() gives another one")
        self.handle = self.module.register_forward_pre_hook(self._insert, with_kwargs=True)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.handle is not None:
            self.handle.remove()
            self.handle = None

    def _insert(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs:
            raise InputError(
                f"a Dataset holds positional inputs only, but {type(module).__name__} is called with {', '.join(kwargs)} as "
                "keywords, which would be lost"
            )
        self.dataset.insert(args)


class Dataset:
    """A sequence of inputs, each a list or tuple for ``module(*inputs)``; subclasses have the three methods that raise."""

    _flattener: Flattener | None = None

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} has no __len__")

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no __getitem__")

    def insert(self, item: Any) -> None:
        """Add the inputs of one call."""
        raise NotImplementedError(f"{type(self).__name__} has no insert")

    def record(self, module: nn.Module) -> DatasetRecorder:
        """``with dataset.record(module):`` inserts the inputs of every call of ``module`` inside."""
        return DatasetRecorder(self, module)

    def num_inputs(self) -> int:
        """Tensors per item."""
        return len(self.flattener)

    @property
    def flattener(self) -> Flattener:
        """That of the first item.

        Raises:
            InputError: there is none.
        """
        if self._flattener is None:
            if len(self) == 0:
                raise InputError("the Dataset is empty: insert an item, or record the calls of a module")
            self._flattener = Flattener.from_value(self[0])
        return self._flattener

    def getitem_flat(self, index: int) -> list[Any]:
        """The tensors of an item."""
        return self.flattener.flatten(self[index])

    def shapes_for_index(self, index: int, flat: bool = False) -> Any:
        """Shape per tensor of an item."""
        return self._nested([torch.Size(t.shape) for t in self.getitem_flat(index)], flat)

    def shapes(self, flat: bool = False) -> Any:
        """All shapes per tensor."""
        rows = [self.shapes_for_index(i, flat=True) for i in range(len(self))]
        return self._nested([[row[j] for row in rows] for j in range(self.num_inputs())], flat)

    def min_shapes(self, flat: bool = False) -> Any:
        """The smallest size of each axis per tensor."""
        return self._extremes(min, flat)

    def max_shapes(self, flat: bool = False) -> Any:
        """The largest size of each axis per tensor."""
        return self._extremes(max, flat)

    def item_numel(self, index: int) -> int:
        """Elements of all tensors of an item."""
        return sum(t.numel() for t in self.getitem_flat(index))

    def median_numel_shapes(self, flat: bool = False) -> Any:
        """Shapes of the item that is the median by its number of elements."""
        order = sorted(range(len(self)), key=self.item_numel)
        return self.shapes_for_index(order[len(order) // 2], flat=flat)

    def infer_dynamic_axes(self, flat: bool = False) -> Any:
        """The axes per tensor whose sizes differ between items."""
        both = zip(self.min_shapes(flat=True), self.max_shapes(flat=True))
        return self._nested([[axis for axis, (a, b) in enumerate(zip(low, high)) if a != b] for low, high in both], flat)

    def _extremes(self, extreme: Callable[[Iterable[int]], int], flat: bool) -> Any:
        result = []
        for shapes in self.shapes(flat=True):
            if len({len(shape) for shape in shapes}) != 1:
                raise InputError(f"the items hold tensors of different ranks: {[tuple(s) for s in shapes]}")
            result.append(torch.Size([extreme(sizes) for sizes in zip(*shapes)]))
        return self._nested(result, flat)

    def _nested(self, values: list[Any], flat: bool) -> Any:
        return values if flat else self.flattener.unflatten(values)


class ListDataset(Dataset):
    """Items in a list."""

    def __init__(self, items: Iterable[Any] | None = None) -> None:
        self.items = list(items or [])

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]

    def insert(self, item: Any) -> None:
        """Add the inputs of one call; the tensors are kept, not copied."""
        self.items.append(item)


class TensorBatchDataset(Dataset):
    """Tensors joined along axis 0; an item is one slice of it, so its batch is 1."""

    def __init__(self, tensors: Any = None) -> None:
        self.tensors: Sequence[torch.Tensor] | None = None
        if tensors is not None:
            self.insert(tensors)

    def __len__(self) -> int:
        return 0 if self.tensors is None else len(self.tensors[0])

    def __getitem__(self, index: int) -> Any:
        if self.tensors is None or not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of a TensorBatchDataset of {len(self)} items")
        index %= len(self)
        return self.flattener.unflatten([t[index : index + 1] for t in self.tensors])

    def insert(self, item: Any) -> None:
        """Add a batch of inputs.

        Raises:
            ValueError: it is nested otherwise than those before, or its tensors are of different lengths.
        """
        flattener = self._flattener or Flattener.from_value(item)
        tensors = flattener.flatten(item)
        if len({t.shape[:1] for t in tensors}) != 1 or tensors[0].dim() == 0:
            raise ValueError(f"the tensors need one batch size, but are {[tuple(t.shape) for t in tensors]}")
        joined = [torch.cat(pair) for pair in zip(self.tensors, tensors)] if self.tensors is not None else tensors
        self._flattener, self.tensors = flattener, joined


class FolderDataset(Dataset):
    """A file ``input_N.pth`` per item in a folder, which is made where there is none."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = os.fspath(folder)
        Path(folder).mkdir(parents=True, exist_ok=True)

    def file_paths(self) -> list[str]:
        """The files in order of their numbers."""
        return [str(p) for p in sorted(Path(self.folder).glob("*.pth"), key=lambda p: (_number(p), p.name))]

    def __len__(self) -> int:
        return len(self.file_paths())

    def __getitem__(self, index: int) -> Any:
        return torch.load(self.file_paths()[index], weights_only=True)

    def insert(self, item: Any) -> None:
        """Write the inputs of one call to a new file."""
        last = max((_number(Path(p)) for p in self.file_paths()), default=-1)
        torch.save(item, Path(self.folder) / f"input_{last + 1}.pth")


def _number(path: Path) -> int:
    found = re.fullmatch(r"input_(\d+)", path.stem)
    return int(found[1]) if found else -1
