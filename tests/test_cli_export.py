"""``torch2edge export``, and ``inspect`` of engines that others built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.plans import Images, images, ultralytics_file
from support.triton import needs_schema, parsed
from torch import nn

import torch2edge
from torch2edge import Input
from torch2edge._trt import why_not_executable
from torch2edge.cli import main
from torch2edge.run.engine_file import pack

builds_only = pytest.mark.skipif(not why_not_executable(), reason="an engine can be deserialised here: test_foreign_gpu.py")


@pytest.fixture(scope="module")
def module() -> torch2edge.EdgeModule:
    return torch2edge.convert(nn.Sequential(nn.Linear(4, 3)).eval(), [Input(("n", 4), dims={"n": (1, 4, 8)})])


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: torch2edge.EdgeModule) -> None:
    monkeypatch.chdir(tmp_path)
    header = {**module.metadata, "tensorrt": "tensorrt", "version": "8.6.0", "title": "TensorRT 8.6.0"}
    Path("net.engine").write_bytes(pack(header, module._plan))


def refused(capsys: Any, *arguments: str) -> str:
    status = main(["export", *arguments])
    printed = capsys.readouterr()
    assert status == 2, printed
    assert printed.err.startswith("torch2edge: error: ")
    assert "Traceback" not in printed.err
    return str(printed.err)


def test_plain(capsys: Any, module: torch2edge.EdgeModule) -> None:
    assert main(["export", "net.engine", "--plain", "net.plan"]) == 0
    assert capsys.readouterr().out == "wrote net.plan\n"
    assert Path("net.plan").read_bytes() == module._plan
    ultralytics_file(Path("yolo.engine"), module._plan)
    assert main(["export", "yolo.engine", "--plain", "yolo.plan"]) == 0
    assert Path("yolo.plan").read_bytes() == module._plan


@needs_schema
def test_triton(capsys: Any, module: torch2edge.EdgeModule) -> None:
    more = "--name linear --model-version 2 --instances 3 --gpus 0,1 --profiles 0 --max-batch-size 6 "
    more += "--preferred-batch-sizes 2,4 --max-queue-delay 50"
    assert main(["export", "net.engine", "--triton", "models", *more.split()]) == 0
    out = capsys.readouterr().out
    assert "wrote models/linear/2/model.plan\nwrote models/linear/config.pbtxt\n" in out
    assert "note: n lies in 1 to 8" in out
    assert Path("models/linear/2/model.plan").read_bytes() == module._plan
    made = parsed(Path("models/linear/config.pbtxt").read_text())
    group, batching = made.instance_group[0], made.dynamic_batching
    assert (made.name, made.max_batch_size, group.count, list(group.gpus)) == ("linear", 6, 3, [0, 1])
    assert (list(batching.preferred_batch_size), batching.max_queue_delay_microseconds) == ([2, 4], 50)
    assert main(["export", "net.engine", "--triton", "models", "--max-batch-size", "0"]) == 0
    assert parsed(Path("models/net/config.pbtxt").read_text()).max_batch_size == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["net.engine"], "nothing to write: give --plain FILE or --triton FOLDER"),
        (["net.engine", "--plain", "p", "--gpus", "0", "--model-version", "2"], "--model-version, --gpus: for a Triton model"),
        (["net.engine", "--triton", "m", "--max-batch-size", "9"], "max_batch_size=9: the engine takes 8 at most"),
        (["net.engine", "--plain", "none/p"], "cannot write none/p: there is no folder none"),
        (["net.engine", "--plain", "net.engine"], "it is read here, and would be gone"),
        (["none.engine", "--plain", "p"], "cannot read none.engine: No such file"),
    ],
)
def test_what_is_refused(capsys: Any, arguments: list[str], message: str) -> None:
    assert message in refused(capsys, *arguments)
    assert sorted(p.name for p in Path().iterdir()) == ["net.engine"]


def test_numbers_that_are_none(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["export", "net.engine", "--triton", "m", "--gpus", "0;1"])
    assert "'0;1' are no whole numbers with commas between them" in capsys.readouterr().err


@builds_only
def test_a_triton_model_of_a_foreign_plan_needs_tensorrt_to_read_it(capsys: Any) -> None:
    Path("yolo.plan").write_bytes(images(Images()).data)
    assert "only the deserialised engine tells its inputs and outputs" in refused(capsys, "yolo.plan", "--triton", "m")


@builds_only
def test_inspect_tells_of_a_foreign_engine_what_it_can(capsys: Any) -> None:
    plan = images(Images()).data
    ultralytics_file(Path("yolo.engine"), plan, task="detect", names={str(i): f"class{i}" for i in range(80)})
    assert main(["inspect", "yolo.engine"]) == 0
    told = capsys.readouterr().out
    for part in ("Ultralytics 8.4.190", "task", "detect", f"{len(plan)} bytes", "not known", "no NVIDIA GPU", "..."):
        assert part in told, told
    assert main(["inspect", "yolo.engine", "--json"]) == 0
    header = json.loads(capsys.readouterr().out)
    assert (header["kind"], header["plan_bytes"], header["header"]["task"]) == ("ultralytics", len(plan), "detect")
    assert main(["inspect", "net.engine"]) == 0
    assert "built with  TensorRT 8.6.0" in capsys.readouterr().out
    torch.save({"w": torch.ones(2)}, "w.pth")
    assert main(["inspect", "w.pth"]) == 2
    assert "holds weights (w)" in capsys.readouterr().err
