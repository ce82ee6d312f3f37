"""Batches of every kind become the inputs of the graph, and what cannot is refused by name."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.calibrations import Tokens, Traced, Two, net
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from torch2edge.build.calibration import CalibrationWarning
from torch2edge.errors import ConfigError, InputError

COUNT = 48
Pair = collections.namedtuple("Pair", ["image", "label"])


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(COUNT, 3, 8, 8)


@pytest.fixture
def one() -> Traced:
    return Traced(net(), [torch.randn(4, 3, 8, 8)])


@pytest.fixture
def two() -> Traced:
    return Traced(Two(), [torch.randn(4, 5), torch.randn(4, 5)])


def four(images: torch.Tensor) -> list[list[torch.Tensor]]:
    return [[b] for b in images.split(4)]


class Items(Dataset):
    """A map-style dataset of dicts."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"picture": self.images[index], "name": f"{index}.png"}


class Stream(IterableDataset):
    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __iter__(self):
        return iter([(image, 1) for image in self.images])


LABELS = torch.arange(COUNT)
FORMS: dict[str, Callable[[torch.Tensor], Any]] = {
    "tensors": lambda x: list(x.split(4)),
    "one-tuples": lambda x: [(b,) for b in x.split(4)],
    "image, label": lambda x: [(b, torch.arange(4)) for b in x.split(4)],
    "lists": lambda x: [[b, ["a", "b", "c", "d"]] for b in x.split(4)],
    "named tuples": lambda x: [Pair(b, 3) for b in x.split(4)],
    "dicts": lambda x: [{"picture": b, "names": ["a"] * 4} for b in x.split(4)],
    "a dict beside": lambda x: [(b, {"boxes": torch.ones(3)}) for b in x.split(4)],
    "loader": lambda x: DataLoader(TensorDataset(x, LABELS), batch_size=4),
    "shuffled loader": lambda x: DataLoader(TensorDataset(x, LABELS), batch_size=4, shuffle=True),
    "loader of 16": lambda x: DataLoader(TensorDataset(x, LABELS), batch_size=16),
    "loader of 1": lambda x: DataLoader(TensorDataset(x), batch_size=1),
    "loader of 7": lambda x: DataLoader(TensorDataset(x), batch_size=7),
    "dataset": lambda x: TensorDataset(x, LABELS),
    "dataset of dicts": Items,
    "stream": Stream,
    "generator": lambda x: (b for b in x.split(4)),
    "not contiguous": lambda x: [b.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1) for b in x.split(4)],
    "double": lambda x: [b.double() for b in x.split(4)],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_data_gives_the_same_scales(form, one, images):
    assert one.calibrate(FORMS[form](images)) == one.largest(*four(images))
    assert one.calibrate(FORMS[form](images), "mse") == one.calibrate(list(images.split(4)), "mse")


def test_what_a_batch_gives_can_be_told(one, two, images):
    data = [{"a": {"b": image}} for image in images.split(4)]
    expected = one.largest(*four(images))
    assert one.calibrate(data, batch_to_inputs=lambda batch: batch["a"]["b"]) == expected
    assert one.calibrate(data, batch_to_inputs=lambda batch: (batch["a"]["b"],)) == expected
    pairs = [torch.randn(2, 4, 5) for _ in range(8)]
    assert two.calibrate(pairs, batch_to_inputs=lambda p: [p[1], p[0]]) == two.largest(*[[p[1], p[0]] for p in pairs])


def test_whole_numbers_are_converted_where_told(one):
    data = [torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8) for _ in range(8)]
    with pytest.raises(InputError, match=r"batch 0: args\[0\] is torch.uint8, but the model takes torch.float32") as caught:
        one.calibrate(data)
    assert "x.float() / 255" in str(caught.value)
    amax = one.calibrate(data, batch_to_inputs=lambda x: x.float() / 255)
    assert amax == one.largest(*[[x.float() / 255] for x in data])


def test_two_inputs_take_two_tensors(two):
    data = [(torch.randn(4, 5), torch.randn(4, 5) * 9, torch.arange(4)) for _ in range(8)]
    assert two.calibrate(data) == two.largest(*[d[:2] for d in data])


def test_dicts_go_by_the_names_of_parameters_and_keywords(two):
    data = [{"right": torch.randn(4, 5) * 9, "label": torch.ones(4), "left": torch.randn(4, 5)} for _ in range(8)]
    expected = two.largest(*[[d["left"], d["right"]] for d in data])
    assert two.calibrate(data, more={"parameters": ["left", "right", "scale"]}) == expected
    by_name = Traced(Two(), [torch.randn(4, 5)], {"right": torch.randn(4, 5), "scale": 2.0})
    given = by_name.calibrate(data, more={"parameters": ["left", "right", "scale"]})
    assert given == by_name.largest(*[[d["left"], d["right"]] for d in data])
    told = by_name.calibrate(
        data, batch_to_inputs=lambda d: {"left": d["left"], "right": d["right"]}, more={"parameters": ["left"]}
    )
    assert told == given
    all_named = Traced(Two(), [], {"left": torch.randn(4, 5), "right": torch.randn(4, 5)})
    assert all_named.calibrate(data) == all_named.largest(*[[d["left"], d["right"]] for d in data])


def test_whole_numbers_of_another_width():
    ids = [torch.randint(0, 10, (4, 6)) for _ in range(8)]
    model = Tokens()
    wide = Traced(model, [ids[0]])
    assert (
        wide.calibrate([i.int() for i in ids])
        == wide.calibrate([i.to(torch.uint8) for i in ids])
        == wide.largest(*[[i] for i in ids])
    )
    narrow = Traced(model, [ids[0].int()])
    assert narrow.calibrate(ids) == wide.calibrate(ids)
    with pytest.raises(InputError, match=r"is torch.int64, but the model takes torch.int32"):
        narrow.calibrate([ids[0] + 2**40])
    with pytest.raises(InputError, match=r"is torch.float32, but the model takes torch.int64"):
        wide.calibrate([i.float() for i in ids])


def test_nested_inputs():
    class Nested(torch.nn.Module):
        def forward(self, pair: list[torch.Tensor], options: dict[str, torch.Tensor]) -> torch.Tensor:
            return pair[0] + pair[1] * options["b"] + options["a"]

    def draw() -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        return [torch.randn(4, 2), torch.randn(4, 2)], {"b": torch.randn(4, 2), "a": torch.randn(4, 2)}

    traced = Traced(Nested(), list(draw()))
    data = [(*draw(), torch.arange(4)) for _ in range(8)]
    assert traced.calibrate(data) == traced.largest(*[[*p, o["b"], o["a"]] for p, o, _ in data])


# ---- sizes ---------------------------------------------------------------------------------------------------------------


def test_the_last_samples_are_left_out_where_they_fill_no_batch(one, images):
    with pytest.warns(CalibrationWarning, match="the last 3 samples are left out"):
        amax = one.calibrate(DataLoader(TensorDataset(images[:43]), batch_size=4))
    assert amax == one.largest(*four(images[:40]))


def test_a_single_small_batch_is_filled_by_repeating(images):
    eight = Traced(net(), [torch.randn(8, 3, 8, 8)])
    told: list[str] = []
    amax = eight.calibrate([images[:3]], more={"tell": told.append})
    assert "only 3 samples, fewer than the example's batch; they were repeated to fill it" in told[0]
    assert len(told) == 2  # and that they are few
    assert amax == eight.largest([images[[0, 1, 2, 0, 1, 2, 0, 1]]])


def test_axes_that_vary_take_other_sizes(images):
    traced = Traced(
        net(), [torch.randn(4, 3, 8, 8)], dynamic={0: {0: (1, 4, 8), 2: "side", 3: "side"}}, dims={"side": (6, 8, 16)}
    )
    sizes = [(1, 6), (8, 16), (3, 7), (20, 9), (5, 8)]
    data = [torch.randn(n, 3, s, s) for n, s in sizes]
    pieces = [[p] for b in data for p in (b.split(4) if len(b) > 8 else [b])]
    assert traced.calibrate(data) == pytest.approx(traced.largest(*pieces), rel=1e-5)
    with pytest.raises(InputError, match=r"batch 0: args\[0\] is torch.float32 \(4, 3, 8, 17\)"):
        traced.calibrate([torch.randn(4, 3, 8, 17)])
    with pytest.raises(
        InputError, match=re.escape("(4, 3, 8, 9), but the model takes args[0] (1 to 8, 3, side: 6 to 16, side")
    ):
        traced.calibrate([torch.randn(4, 3, 8, 9)])


def test_what_the_model_demands_of_its_sizes_is_told():
    class Halves(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.unflatten(1, (2, -1)) if x.shape[1] % 2 == 0 else x[:, None]) * 2

    traced = Traced(Halves(), [torch.randn(4, 6)], dynamic={0: {1: (4, 6, 8)}})
    data = [torch.randn(4, n) for n in (4, 6, 8)] * 3
    assert traced.calibrate(data) == traced.largest(*[[b] for b in data])
    for samples in (4, 1, 9):
        with pytest.raises(InputError, match=rf"has args\[0\] \({samples}, 7\), but the model takes .*where .*% 2"):
            traced.calibrate([torch.randn(samples, 7)])


def test_samples_wait_for_others_of_their_shape():
    traced = Traced(Two(), [torch.randn(4, 5), torch.randn(4, 5)], dynamic={0: {1: "n"}, 1: {1: "n"}}, dims={"n": (2, 5, 9)})
    data = [torch.randn(2, 3, n) for n in (2, 7, 2, 7, 2, 7, 2, 7) * 2]
    whole = [torch.cat([b for b in data if b.shape[2] == n], 1).split(4, 1) for n in (2, 7)]
    assert traced.calibrate([tuple(b) for b in data]) == traced.largest(*[list(b) for batches in whole for b in batches])


def test_inputs_without_a_common_axis_take_their_own_shapes_only():
    class Scaled(torch.nn.Module):
        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return x * scale

    traced = Traced(Scaled(), [torch.randn(4, 3), torch.randn(3)])
    data = [(torch.randn(4, 3), torch.randn(3)) for _ in range(8)]
    assert traced.calibrate(data) == traced.largest(*data)
    with pytest.raises(InputError, match=r"args\[0\] is torch.float32 \(8, 3\), but the model takes torch.float32 \(4, 3\)"):
        traced.calibrate([(torch.randn(8, 3), torch.randn(3))])


def test_inputs_of_different_counts_are_refused(two):
    with pytest.raises(InputError, match=re.escape("batch 0 has args[0] (8, 5), args[1] (4, 5)")):
        two.calibrate([(torch.randn(8, 5), torch.randn(4, 5))])


# ---- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "told"), [
    (torch.randn(4, 3, 8, 9), "args[0] is torch.float32 (4, 3, 8, 9), but the model takes torch.float32 (4, 3, 8, 8)"),
    (torch.randn(3, 8, 8), "args[0] is torch.float32 (3, 8, 8), but"),
    (torch.randn(0, 3, 8, 8), "args[0] is torch.float32 (0, 3, 8, 8), but"),
    (torch.randn(4, 3, 8, 8, dtype=torch.complex64), "args[0] is torch.complex64, but"),
    (torch.ones(4, 3, 8, 8, dtype=torch.bool), "args[0] is torch.bool, but"),
    (np.zeros((4, 3, 8, 8)), "is a numpy.ndarray with 0 tensors, but the model takes 1: args[0]"),
    (("a", 3), "is a tuple with 0 tensors"),
    (None, "is a NoneType with 0 tensors"),
    ({"x": torch.ones(1), "y": torch.ones(1)}, "is a dict of 'x', 'y', in which the positional inputs (args[0])"),
])  # fmt: skip
def test_a_batch_that_the_graph_cannot_take(one, images, batch, told):
    with pytest.raises(InputError) as caught:
        one.calibrate([*images.split(4), batch])
    assert f"calibration: batch 12{':' if told.startswith('args') else ''} {told}" in str(caught.value)


def test_too_few_tensors_and_missing_keywords(two):
    with pytest.raises(InputError, match=r"with 1 tensor, but the model takes 2: args\[0\], args\[1\]"):
        two.calibrate([(torch.randn(4, 5),)])
    named = Traced(Two(), [torch.randn(4, 5)], {"right": torch.randn(4, 5)})
    with pytest.raises(InputError, match="keyword inputs 'right': give dicts as batches"):
        named.calibrate([(torch.randn(4, 5), torch.randn(4, 5))])
    with pytest.raises(InputError, match="has no entry 'right', an input of the model; it has 'left'"):
        named.calibrate([{"left": torch.randn(4, 5)}])
    with pytest.raises(InputError, match=r"makes the inputs \[tensor\].*but the model was traced with \[tensor, tensor\]"):
        two.calibrate([torch.randn(4, 5)], batch_to_inputs=lambda x: x)


def test_errors_of_the_users_code_are_the_cause(one, images):
    def failing():
        yield from images.split(4)[:2]
        raise OSError("disk gone")

    with pytest.raises(InputError, match=r"\(generator\) failed at batch 2: OSError: disk gone") as caught:
        one.calibrate(failing())
    assert isinstance(caught.value.__cause__, OSError)

    class Broken(Items):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index if index < 6 else 10**6)

    with pytest.raises(InputError, match="the Dataset Broken failed at batch 1: IndexError") as caught:
        one.calibrate(Broken(images))
    assert isinstance(caught.value.__cause__, IndexError)
    with pytest.raises(InputError, match="the DataLoader failed at batch 1: IndexError"):
        one.calibrate(DataLoader(Broken(images), batch_size=4))
    with pytest.raises(InputError, match="batch 0: batch_to_inputs failed: KeyError: 'image'") as caught:
        one.calibrate([{}], batch_to_inputs=lambda batch: batch["image"])
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(InputError, match="batch_to_inputs gave a str"):
        one.calibrate([{}], batch_to_inputs=lambda batch: "x")


def test_empty_data(one, images):
    loader = DataLoader(TensorDataset(images[:0]))
    for empty, whose in (([], "the list"), (loader, "the DataLoader"), (Items(images[:0]), "the Dataset Items")):
        with pytest.raises(InputError, match=f"{whose} gave no batch; it is empty"):
            one.calibrate(empty)
    used = iter(list(images.split(4)))
    one.calibrate(used)
    with pytest.raises(InputError, match=r"gave no batch\. One that was used before is empty the second time"):
        one.calibrate(used)


def test_a_dataset_without_a_length(one):
    class Endless(Dataset):
        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.zeros(3, 8, 8)

    with pytest.raises(ConfigError, match=r"the Dataset Endless has no len\(\)"):
        one.calibrate(Endless())


# ---- images --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Images of different sizes and modes, one deeper; and the tensors that they are."""
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng()
    tensors = []
    for i in range(34):
        name = tmp_path / ("deep" if i == 3 else ".") / f"{'abc'[i % 3]}{i:02}.{'png' if i % 2 else 'BMP'}"
        name.parent.mkdir(exist_ok=True)
        mode = ("RGB", "L", "RGBA", "P")[i % 4]
        pixels = rng.integers(0, 256 - 6 * i, (*((8, 8) if i % 3 else (13, 17)), 3), dtype=np.uint8)
        picture = image.fromarray(pixels).convert(mode if name.suffix == ".png" else "RGB")
        picture.save(name)
        with image.open(name) as saved:
            resized = np.array(saved.convert("RGB").resize((8, 8), image.Resampling.BILINEAR))
        tensors.append((name, torch.from_numpy(resized.astype(np.float32) / 255).permute(2, 0, 1)))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path, [t for _, t in sorted(tensors, key=lambda pair: pair[0])]


def test_a_folder_of_images(one, folder):
    path, tensors = folder
    batches = [[torch.stack(tensors[i : i + 4])] for i in range(0, 32, 4)]
    with pytest.warns(CalibrationWarning, match="the last 2 samples are left out"):
        amax = one.calibrate(str(path))
    assert amax == pytest.approx(one.largest(*batches), rel=1e-6)
    with pytest.warns(CalibrationWarning, match="only 8 samples"):
        first = one.calibrate(path, batches=2)
    assert first == pytest.approx(one.largest(*batches[:2]), rel=1e-6)  # in the order of their names


def test_a_folder_of_images_for_a_grey_model(folder):
    traced = Traced(torch.nn.Conv2d(1, 2, 3), [torch.randn(2, 1, 8, 8)])
    assert 0 < traced.calibrate(folder[0])["input0"] <= 1


def test_folders_that_cannot_be(one, two, folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match="holds no image"):
        one.calibrate(empty)
    with pytest.raises(ConfigError, match="is a folder of images, for a model with one floating point input of shape"):
        two.calibrate(folder[0])
    (folder[0] / "a00.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(InputError, match=r"failed at batch 0: InputError: .*a00.png cannot be read as an image"):
        one.calibrate(folder[0])
