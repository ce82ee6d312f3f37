"""Every option of the builder reaches TensorRT's IBuilderConfig, or is refused."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpu import FAST, needs_gpu
from support.partition_models import Cut
from torch import nn

import torch2edge
from torch2edge import api
from torch2edge._trt import capabilities, members, trt
from torch2edge.build import BuildSession
from torch2edge.builder_options import BuilderOptions, memory_size
from torch2edge.cli.builder import add_builder, builder_options
from torch2edge.cli.main import parser
from torch2edge.errors import BuildError, ConfigError, EngineFileError
from torch2edge.options import Options
from torch2edge.run.engine_file import check_built_for_here

only_rtx = pytest.mark.skipif(capabilities().name != "tensorrt_rtx", reason="what TensorRT-RTX has")
X = torch.randn(2, 8)
GIB, MIB = 2**30, 2**20


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


def flag(name: str) -> Callable[[Any], Any]:
    return lambda config: config.get_flag(getattr(trt.BuilderFlag, name))


def pool(name: str) -> Callable[[Any], Any]:
    return lambda config: config.get_memory_pool_limit(members("MemoryPoolType")[name])


# what is given, what reads it back from an IBuilderConfig, what it must read
EVERYWHERE: list[tuple[dict[str, Any], Callable[[Any], Any], Any]] = [
    ({"optimization_level": 1}, lambda c: c.builder_optimization_level, 1),
    ({"workspace": 3 * MIB}, pool("WORKSPACE"), 3 * MIB),
    ({"workspace": "64M"}, pool("WORKSPACE"), 64 * MIB),
    ({"workspace": "1.5G"}, pool("WORKSPACE"), 3 * GIB // 2),
    ({"memory_pools": {"WORKSPACE": "32MiB"}}, pool("WORKSPACE"), 32 * MIB),
    ({"memory_pools": {"TACTIC_DRAM": "2G"}}, pool("TACTIC_DRAM"), 2 * GIB),
    ({"avg_timing_iterations": 5}, lambda c: c.avg_timing_iterations, 5),
    ({"max_aux_streams": 0}, lambda c: c.max_aux_streams, 0),
    ({"max_aux_streams": 3}, lambda c: c.max_aux_streams, 3),
    ({"tactic_sources": 0}, lambda c: c.get_tactic_sources(), 0),
    ({"profiling_verbosity": "detailed"}, lambda c: c.profiling_verbosity == trt.ProfilingVerbosity.DETAILED, True),
    ({"profiling_verbosity": "NONE"}, lambda c: c.profiling_verbosity == trt.ProfilingVerbosity.NONE, True),
    ({"engine_capability": "standard"}, lambda c: c.engine_capability == trt.EngineCapability.STANDARD, True),
    ({"tf32": True}, flag("TF32"), True),
    ({"tf32": False}, flag("TF32"), False),
    ({"sparse": True}, flag("SPARSE_WEIGHTS"), True),
    ({"version_compatible": True}, flag("VERSION_COMPATIBLE"), True),
    ({"version_compatible": True, "exclude_lean_runtime": True}, flag("EXCLUDE_LEAN_RUNTIME"), True),
    ({"builder_flags": ["DEBUG", "DISABLE_TIMING_CACHE"]}, flag("DEBUG"), True),
    ({"builder_flags": "DEBUG,DISABLE_TIMING_CACHE"}, flag("DISABLE_TIMING_CACHE"), True),
]
ON_RTX: list[tuple[dict[str, Any], Callable[[Any], Any], Any]] = [
    ({"memory_pools": {"TACTIC_SHARED_MEMORY": "48K"}}, pool("TACTIC_SHARED_MEMORY"), 49152),
    ({"max_num_tactics": 7}, lambda c: c.max_num_tactics, 7),
    ({"tiling_optimization_level": "fast"}, lambda c: c.tiling_optimization_level.name, "FAST"),
    ({"l2_limit_for_tiling": "16M"}, lambda c: c.l2_limit_for_tiling, 16 * MIB),
    *(
        ({"builder_flags": [name]}, flag(name), True)
        for name in ("DISTRIBUTIVE_INDEPENDENCE", "EDITABLE_TIMING_CACHE", "ERROR_ON_TIMING_CACHE_MISS", "MONITOR_MEMORY",
                     "STRICT_NANS", "DISABLE_COMPILATION_CACHE")
    ),
    ({"preview_features": "-RUNTIME_ACTIVATION_RESIZE_10_10"},
     lambda c: c.get_preview_feature(trt.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10), False),
    ({"preview_features": "+ALIASED_PLUGIN_IO_10_03, -RUNTIME_ACTIVATION_RESIZE_10_10"},
     lambda c: c.get_preview_feature(trt.PreviewFeature.ALIASED_PLUGIN_IO_10_03), True),
]  # fmt: skip


@pytest.mark.parametrize(("given", "read", "wanted"), EVERYWHERE, ids=lambda x: str(x) if isinstance(x, dict) else "")
def test_an_option_reaches_tensorrt(given: dict[str, Any], read: Callable[[Any], Any], wanted: Any) -> None:
    assert read(BuildSession(Options(**given)).config) == wanted


@only_rtx
@pytest.mark.parametrize(("given", "read", "wanted"), ON_RTX, ids=lambda x: str(x) if isinstance(x, dict) else "")
def test_an_option_of_newer_versions_reaches_tensorrt(given: Any, read: Callable[[Any], Any], wanted: Any) -> None:
    assert read(BuildSession(Options()).config) != wanted  # else the test could not fail
    assert read(BuildSession(Options(**given)).config) == wanted


def test_tactic_sources_by_name_change_tensorrts_own() -> None:
    """As trtexec reads them: what is not named stays as TensorRT has it."""
    own = BuildSession(Options()).config.get_tactic_sources()
    for name, value in members("TacticSource").items():
        bit = 1 << int(value)
        assert BuildSession(Options(tactic_sources=f"-{name}")).config.get_tactic_sources() == own & ~bit
        assert BuildSession(Options(tactic_sources=[f"+{name}"])).config.get_tactic_sources() == own | bit
    names = sorted(members("TacticSource"))
    both = f"+{names[0]},-{names[1]}"
    first, second = (1 << int(members("TacticSource")[n]) for n in names[:2])
    assert BuildSession(Options(tactic_sources=both)).config.get_tactic_sources() == (own | first) & ~second


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"workspace": "2T"}, r"""workspace is a size in bytes, or written as "512M" or "2G", but is '2T'"""),
    ({"workspace": True}, "workspace is a size in bytes"),
    ({"workspace": -1}, "workspace is a size in bytes"),
    ({"workspace": "0.5"}, "workspace is a size in bytes"),
    ({"workspace": 1.5e9}, "workspace is a size in bytes"),
    ({"workspace": "1G", "memory_pools": {"WORKSPACE": "1G"}}, "one limit: give it once"),
    ({"memory_pools": "2G"}, "memory_pools is a str; write"),
    ({"memory_pools": {"SCRATCH": "2G"}}, r"has no pool 'SCRATCH', only .*TACTIC_DRAM.*WORKSPACE"),
    ({"memory_pools": {"TACTIC_DRAM": "lots"}}, r"memory_pools\['TACTIC_DRAM'\] is a size"),
    ({"memory_pools": {"DLA_LOCAL_DRAM": "256M"}}, r"is of a DLA; write dla_pools=\{'DLA_LOCAL_DRAM': '256M'\}"),
    ({"avg_timing_iterations": 0}, "avg_timing_iterations must be a whole number from 1 on, but is 0"),
    ({"avg_timing_iterations": True}, "avg_timing_iterations must be a whole number"),
    ({"max_aux_streams": -1}, "max_aux_streams must be a whole number from 0 on, but is -1"),
    ({"max_aux_streams": 2**31}, "max_aux_streams must be a whole number from 0 on"),
    ({"tactic_sources": 1 << 30}, "the mask 1073741824 has other bits"),
    ({"tactic_sources": -1}, "the mask -1 has other bits"),
    ({"tactic_sources": True}, "tactic_sources is a bit mask"),
    ({"tactic_sources": 1.0}, "tactic_sources is 1.0; it must be names"),
    ({"tactic_sources": "CUBLAS"}, "'CUBLAS' has no sign"),
    ({"tactic_sources": "+NVFUSER"}, "has no 'NVFUSER', only .*JIT_CONVOLUTIONS"),
    ({"tactic_sources": "+JIT_CONVOLUTIONS,-JIT_CONVOLUTIONS"}, "JIT_CONVOLUTIONS is both added and taken away"),
    ({"preview_features": "+NOTHING_0000"}, "preview_features: .* has no 'NOTHING_0000', only"),
    ({"preview_features": 7}, "preview_features is 7; it must be names"),
    ({"profiling_verbosity": "loud"}, "profiling_verbosity is 'loud'; .* has .*'detailed'"),
    ({"profiling_verbosity": 2}, "profiling_verbosity is 2"),
    ({"version_compatible": 1}, "version_compatible is 1; it must be True or False"),
    ({"exclude_lean_runtime": True}, "only an engine with version_compatible=True has one in it"),
    ({"engine_capability": "safety"}, "needs TensorRT's safety runtime"),
    ({"engine_capability": "dla_standalone"}, "build_loadable writes such a loadable"),
    ({"engine_capability": "fast"}, "engine_capability is 'fast'; it must be 'standard'"),
    ({"builder_flags": ["FP16"]}, r"FP16 is not set there: write fp16=True"),
    ({"builder_flags": ["WEIGHT_STREAMING"]}, "weights that stay in host memory are not there yet"),
    ({"builder_flags": ["REFIT"]}, r"REFIT is not set there: write refittable=True"),
    ({"builder_flags": ["STRIP_PLAN"]}, "an engine without its weights is not there yet"),
    ({"builder_flags": ["FAST"]}, "'FAST' is not among them"),
    ({"offload": "yes"}, "offload is 'yes'; it must be True or False"),
]


@pytest.mark.parametrize(("given", "what"), REFUSED, ids=lambda x: str(x) if isinstance(x, dict) else "")
def test_what_cannot_be_is_refused_before_any_work(given: dict[str, Any], what: str) -> None:
    stages: list[str] = []
    with pytest.raises(ConfigError, match=what):
        torch2edge.convert(small(), [X], progress=stages.append, **given)
    assert stages == []


LACKING = {
    "hardware_compatibility": ({"hardware_compatibility": "ampere+"}, not capabilities().hardware_compatibility),
    "max_num_tactics": ({"max_num_tactics": 3}, not capabilities().max_num_tactics),
    "l2_limit_for_tiling": ({"l2_limit_for_tiling": "1M"}, not capabilities().tiling),
    "tiling_optimization_level": ({"tiling_optimization_level": "fast"}, not capabilities().tiling),
    "tactic_sources": ({"tactic_sources": "-CUDNN"}, not capabilities().tactic_sources),
    "memory_pools": ({"memory_pools": {"TACTIC_SHARED_MEMORY": "48K"}},
                     "TACTIC_SHARED_MEMORY" not in members("MemoryPoolType")),
    "preview_features": ({"preview_features": "+PROFILE_SHARING_0806"},
                         "PROFILE_SHARING_0806" not in members("PreviewFeature")),
    "builder_flags": ({"builder_flags": ["STRICT_NANS"]}, "STRICT_NANS" not in members("BuilderFlag")),
}  # fmt: skip


@pytest.mark.parametrize("option", LACKING)
def test_what_this_tensorrt_lacks_is_refused_by_its_name(option: str) -> None:
    given, lacking = LACKING[option]
    if not lacking:
        BuildSession(Options(**given))
        return
    with pytest.raises(ConfigError) as caught:
        Options(**given)
    assert option in str(caught.value)
    assert capabilities().title in str(caught.value)


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("4K", 4096), ("4kb", 4096), (" 2G ", 2 * GIB), ("0.5M", MIB // 2), ("7MiB", 7 * MIB)]
)
def test_sizes(text: str, size: int) -> None:
    assert memory_size(text, "workspace") == size


def test_options_settle_once_and_for_all() -> None:
    """replace() makes them anew from what they hold."""
    given = Options(
        workspace="1G", memory_pools={"TACTIC_DRAM": "1G"}, tactic_sources="-JIT_CONVOLUTIONS", profiling_verbosity="Detailed"
    )
    assert (given.workspace, given.memory_pools) == (GIB, {"TACTIC_DRAM": GIB})
    assert (given.tactic_sources, given.profiling_verbosity) == (("-JIT_CONVOLUTIONS",), "detailed")
    assert dataclasses.replace(given) == given


def test_dla_pools_take_sizes_in_words() -> None:
    with pytest.raises(ConfigError, match=r"dla_pools\['DLA_LOCAL_DRAM'\] is 314572800; it must be a power of two"):
        Options(default_device_type=trt.DeviceType.DLA, dla_pools={"DLA_LOCAL_DRAM": "300M"})
    given = Options(default_device_type=trt.DeviceType.DLA, dla_pools={"DLA_LOCAL_DRAM": "256M"})
    assert given.dla_pools == {"DLA_LOCAL_DRAM": 256 * MIB}


@only_rtx
def test_tensorrts_refusal_is_a_config_error() -> None:
    """TensorRT-RTX without the library of its lean runtime cannot put that into an engine: it is said at the build."""
    with pytest.raises(BuildError, match="libnvinfer_lean"):
        torch2edge.convert(small(), [X], version_compatible=True)


# ---- through convert(), its parts and the command -------------------------------------------------------------------

CHOSEN: dict[str, Any] = {
    "workspace": "96M", "memory_pools": {"TACTIC_DRAM": "1G"}, "avg_timing_iterations": 3, "max_aux_streams": 1,
    "profiling_verbosity": "detailed", "optimization_level": 0, "tactic_sources": 0, "builder_flags": ["DEBUG"],
}  # fmt: skip


def read(config: Any) -> list[Any]:
    return [
        pool("WORKSPACE")(config), pool("TACTIC_DRAM")(config), config.avg_timing_iterations, config.max_aux_streams,
        config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED, config.builder_optimization_level,
        config.get_tactic_sources(), flag("DEBUG")(config),
    ]  # fmt: skip


WANTED = [96 * MIB, GIB, 3, 1, True, 0, 0, True]


def test_convert_passes_them_on() -> None:
    module = torch2edge.convert(small(), [X], keep_network=True, **CHOSEN)
    assert read(module._kept.road.session.config) == WANTED


def test_parts_of_a_partitioned_model_get_them() -> None:
    module = torch2edge.convert(Cut().eval(), [torch.randn(2, 3, 8, 8)], fallback="torch", keep_network=True, **CHOSEN)
    engines = [m for m in module.modules() if isinstance(m, torch2edge.EdgeModule)]
    assert engines
    for engine in engines:
        assert read(engine._kept.road.session.config) == WANTED


def test_every_field_of_the_options_goes_on_to_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def record(convert: Any, placed: Any, chosen: Any, settings: dict[str, Any], *more: Any) -> Any:
        seen.update(settings)
        raise KeyboardInterrupt  # enough is known

    monkeypatch.setattr(api, "part_converter", record)
    with pytest.raises(KeyboardInterrupt):
        torch2edge.convert(small(), [X], fallback="torch")
    per_part = {"precisions", "device_types"}  # by path, made for each part
    of_the_whole = {"io_dtype", "fallback", "onnx_exporter", "onnx_opset"}  # refused there, or the road itself
    assert {f.name for f in dataclasses.fields(Options)} - per_part - of_the_whole <= set(seen)


def test_the_command_has_every_option() -> None:
    arguments = parser().parse_args(["convert", "--model", "torchvision:resnet18", "--shape", "1x3x8x8"])
    given = builder_options(arguments)
    left = {f.name for f in dataclasses.fields(BuilderOptions)} - set(given)
    assert left == {"engine_capability"}  # one value only
    assert Options(**{**given, "compute_capabilities": ()}) == Options()
    assert add_builder.__doc__


def test_the_commands_words() -> None:
    words = [
        "--workspace", "512", "--memory-pool", "TACTIC_DRAM=2G", "--tactic-sources=-JIT_CONVOLUTIONS",
        "--max-aux-streams", "2", "--profiling-verbosity", "detailed", "--builder-flag", "DEBUG",
        "--avg-timing-iterations", "4", "--version-compatible",
    ]  # fmt: skip
    arguments = parser().parse_args(["convert", "--model", "torchvision:resnet18", "--shape", "1x3x8x8", *words])
    options = Options(**{**builder_options(arguments), "compute_capabilities": ()})
    assert options.workspace == 512 * MIB  # MiB, as for trtexec
    assert options.memory_pools == {"TACTIC_DRAM": 2 * GIB}
    assert options.tactic_sources == ("-JIT_CONVOLUTIONS",)
    assert (options.max_aux_streams, options.avg_timing_iterations) == (2, 4)
    assert options.builder_flags == ("DEBUG",)
    assert options.version_compatible


def test_a_wrong_word_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["convert", "--model", "torchvision:resnet18", "--memory-pool", "2G"])
    assert "write NAME=SIZE" in capsys.readouterr().err


# ---- where an engine may run ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def metadata() -> dict[str, Any]:
    return dict(torch2edge.convert(small(), [X]).metadata)


def test_another_version_of_tensorrt(metadata: dict[str, Any]) -> None:
    major = capabilities().version.partition(".")[0]
    check_built_for_here({**metadata, "version": f"{major}.99.0", "version_compatible": True}, "net.engine")
    for change in (
        {"version": f"{major}.99.0"},
        {"version": f"{int(major) + 9}.0.0", "version_compatible": True},
        {"tensorrt": "another", "version_compatible": True},
    ):
        with pytest.raises(EngineFileError, match="runs only in the TensorRT version that built it"):
            check_built_for_here({**metadata, **change}, "net.engine")


@pytest.mark.parametrize(
    ("here", "built", "level", "runs"),
    [
        ((8, 6), "8.6", None, True),
        ((8, 9), "8.6", None, False),
        ((8, 9), "8.6", "same_compute_capability", False),
        ((8, 6), "8.6", "same_compute_capability", True),
        ((8, 9), "8.6", "ampere_plus", True),
        ((12, 0), "8.6", "ampere_plus", True),
        ((7, 5), "8.6", "ampere_plus", False),
        ((8, 9), "8.6", "none", False),
    ],
)
def test_another_gpu(here: Any, built: str, level: Any, runs: bool, metadata: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: here)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    given = {**metadata, "compute_capabilities": [built], "hardware_compatibility": level}
    if runs:
        check_built_for_here(given, "net.engine")
        return
    with pytest.raises(EngineFileError, match="Convert the model again here"):
        check_built_for_here(given, "net.engine")


def test_files_without_the_new_entries_load(metadata: dict[str, Any]) -> None:
    older = {k: v for k, v in metadata.items() if k not in ("version_compatible", "hardware_compatibility")}
    check_built_for_here(older, "net.engine")


def test_host_code_is_for_what_was_built_here(tmp_path: Path) -> None:
    """A lean runtime is code: none runs from a file or a state dict, unless the caller says so."""
    module = torch2edge.convert(small(), [X], version_compatible=True, exclude_lean_runtime=True)
    assert module.engine_host_code_allowed
    assert copy.deepcopy(module).engine_host_code_allowed
    module.save(tmp_path / "net.engine")
    assert not torch2edge.load(tmp_path / "net.engine").engine_host_code_allowed
    assert torch2edge.load(tmp_path / "net.engine", engine_host_code_allowed=True).engine_host_code_allowed
    other = torch2edge.convert(small(), [X], version_compatible=True, exclude_lean_runtime=True)
    other.load_state_dict(module.state_dict())
    assert not other.engine_host_code_allowed
    assert not torch2edge.convert(small(), [X]).engine_host_code_allowed


def test_host_code_out_of_a_cache_is_code_out_of_a_file(tmp_path: Path) -> None:
    options = {"version_compatible": True, "exclude_lean_runtime": True, "cache_dir": tmp_path}
    model = small()
    assert torch2edge.convert(model, [X], **options).engine_host_code_allowed
    again = torch2edge.convert(model, [X], **options)
    assert again.report.cache.startswith("hit")
    assert not again.engine_host_code_allowed


# ---- on a GPU -------------------------------------------------------------------------------------------------------


def _exact(module: Any, model: nn.Module) -> None:
    x = torch.randn(2, 8, device="cuda")
    with torch.no_grad():
        torch.testing.assert_close(module(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@needs_gpu
def test_options_reach_the_tensorrt_of_the_gpu() -> None:
    lost = [given for given, read, wanted in EVERYWHERE if read(BuildSession(Options(**given)).config) != wanted]
    assert lost == []
    test_tactic_sources_by_name_change_tensorrts_own()
    for feature, value in members("PreviewFeature").items():
        for sign in "+-":
            config = BuildSession(Options(preview_features=sign + feature)).config
            assert config.get_preview_feature(value) is (sign == "+"), sign + feature
    for option in LACKING:
        test_what_this_tensorrt_lacks_is_refused_by_its_name(option)


@pytest.mark.gpu
@needs_gpu
def test_aux_streams_and_verbosity_are_the_engines() -> None:
    model = small().cuda()
    module = torch2edge.convert(
        model, [X.cuda()], **{**FAST, "max_aux_streams": 0, "profiling_verbosity": "detailed", "avg_timing_iterations": 2}
    )
    _exact(module, model)
    engine = module._runner(None).engine
    assert engine.num_aux_streams == 0
    assert engine.profiling_verbosity == trt.ProfilingVerbosity.DETAILED


@pytest.mark.gpu
@needs_gpu
@pytest.mark.skipif(not capabilities().hardware_compatibility, reason="this TensorRT has none")
def test_hardware_compatibility_is_the_engines() -> None:
    model = small().cuda()
    module = torch2edge.convert(model, [X.cuda()], hardware_compatibility="ampere+", **FAST)
    _exact(module, model)
    level = module._runner(None).engine.hardware_compatibility_level
    assert level == trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert module.metadata["hardware_compatibility"] == "ampere_plus"


@pytest.mark.gpu
@needs_gpu
def test_a_version_compatible_engine_runs_where_it_was_built(tmp_path: Path) -> None:
    model = small().cuda()
    module = torch2edge.convert(model, [X.cuda()], version_compatible=True, exclude_lean_runtime=True, **FAST)
    _exact(module, model)
    module.save(tmp_path / "net.engine")
    _exact(torch2edge.load(tmp_path / "net.engine", engine_host_code_allowed=True), model)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.skipif("PROFILE_SHARING_0806" not in members("PreviewFeature"), reason="this TensorRT always shares")
def test_profile_sharing_can_be_switched_off() -> None:
    given = {"dynamic": {0: {0: (1, 2, 4)}}, "keep_network": True, **FAST}
    feature = members("PreviewFeature")["PROFILE_SHARING_0806"]
    model = small().cuda()
    for options, wanted in (({}, True), ({"preview_features": "-PROFILE_SHARING_0806"}, False)):
        module = torch2edge.convert(model, [X.cuda()], **given, **options)
        _exact(module, model)
        assert module._kept.road.session.config.get_preview_feature(feature) is wanted


@pytest.mark.gpu
@needs_gpu
@pytest.mark.skipif(not capabilities().tactic_sources, reason="this TensorRT has no such sources")
def test_tactic_sources_by_name_are_the_engines() -> None:
    """cuBLAS and cuDNN are stubs where this runs: they must be away, and the convolution sources may stay."""
    model = small().cuda()
    module = torch2edge.convert(
        model, [X.cuda()], **{**FAST, "tactic_sources": "-CUBLAS,-CUBLAS_LT,-CUDNN", "keep_network": True}
    )
    _exact(module, model)
    mask = module._kept.road.session.config.get_tactic_sources()
    assert mask == sum(1 << int(members("TacticSource")[n]) for n in ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"))
    assert module._runner(None).engine.tactic_sources & ~mask == 0  # it names those that it uses
