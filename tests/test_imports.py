"""What imports what: the directions of the house, one TensorRT import, and a house that stands without TensorRT."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = ("trace", "lower", "build", "run", "check", "dla", "bench", "integrations")
FLOOR = (
    "builder_options",
    "options",
    "errors",
    "files",
    "host_memory",
    "report",
    "_trt",
    "structure",
    "graph",
    "shapes",
    "sizes",
    "inputs",
    "cut",
    "attention",
    "modules",
)
GROUND = {f"torch2edge.{name}" for name in FLOOR}
PUBLIC = {"torch2edge", "torch2edge.api"}  # what the doors to other libraries stand on
# Its TRTModule is an EdgeModule with another state dict, and it hands the network to its users' converters.
FOR_TORCH2TRT = {
    "torch2edge.lower.network",
    "torch2edge.run",
    "torch2edge.run.engine_file",
    "torch2edge.run.foreign",
    "torch2edge.run.plain",
}
FOR_CONVERTERS = {"torch2edge.lower.registry", "torch2edge.lower.network", "torch2edge.graph"}


def modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    found = {}
    for folder, name in (("torch2edge", "torch2edge"), ("converters", "torch2edge.converters")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((name, *parts)).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(module: str, path: Path) -> Iterator[str]:
    """Full names of the modules of this package that a file imports, wherever in the file."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module or "") if part)
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield inner if inner in MODULES else source


def stage_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def ours(names: Iterator[str]) -> set[str]:
    return {name for name in names if name == "torch2edge" or name.startswith("torch2edge.")}


@pytest.mark.parametrize("module", [m for m in MODULES if stage_of(m) in STAGES])
def test_a_stage_imports_itself_and_the_ground_floor(module):
    stage = f"torch2edge.{stage_of(module)}"
    others = ours(imports(module, MODULES[module])) - GROUND
    wrong = {name for name in others if name != stage and not name.startswith(stage + ".")}
    if stage == "torch2edge.integrations":
        wrong -= PUBLIC | (FOR_TORCH2TRT if ".torch2trt" in module else set())
    assert not wrong, f"{module} imports {sorted(wrong)}; a stage is handed what came before as values"


@pytest.mark.parametrize("module", sorted(GROUND))
def test_the_ground_floor_imports_no_stage(module):
    assert ours(imports(module, MODULES[module])) <= GROUND


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("torch2edge.converters.")])
def test_converters_import_the_registry_and_network_only(module):
    allowed = {n for n in MODULES if any(n == a or n.startswith(a + ".") for a in FOR_CONVERTERS | {"torch2edge.converters"})}
    wrong = ours(imports(module, MODULES[module])) - allowed
    assert not wrong, f"{module} imports {sorted(wrong)}"


def test_only_api_and_the_command_know_the_stages():
    knowing = set()
    for module, path in MODULES.items():
        stages = {stage_of(name) for name in ours(imports(module, path))} & set(STAGES)
        if len(stages - {stage_of(module)}) > 1 and not module.startswith(("torch2edge.cli", "torch2edge.converters")):
            knowing.add(module)
    knowing -= {"torch2edge", "torch2edge.cli"}  # torch2edge/__init__.py only passes names on
    inside = {m for m in knowing if stage_of(m) != "integrations"}
    api = (
        "api",
        "arguments",
        "benchmarking",
        "caching",
        "comparison",
        "contribution",
        "dla_loadable",
        "dla_planning",
        "engine_cache",
        "fitting",
        "loading",
        "making",
        "marked",
        "network_key",
        "partition",
        "partition_data",
        "placement",
        "prepare",
        "recipe",
        "refitting",
        "roads",
        "search",
        "verification",
    )
    assert inside <= {f"torch2edge.{name}" for name in api}


def test_only_one_file_imports_tensorrt():
    for module, path in MODULES.items():
        names = {name.partition(".")[0] for name in imports(module, path)}
        assert not names & {"tensorrt", "tensorrt_rtx"}, f"{module} imports TensorRT; use torch2edge._trt"
        if module != "torch2edge._trt":
            assert "import_module(name)" not in path.read_text().replace("importlib.", "")


def run(code: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments, "-c", textwrap.dedent(code)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


WITHOUT_TENSORRT = """
    import importlib, sys
    class Nothing:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("tensorrt", "tensorrt_rtx"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    sys.meta_path.insert(0, Nothing())
"""


def test_every_module_imports_without_tensorrt():
    names = [m for m in MODULES if not m.endswith("__main__")]
    # Dynamo asks find_spec() for tensorrt while it is imported, and the finder above answers with an error
    load = f"    for name in {names!r}:\n        importlib.import_module(name)\n    print('all')"
    code = "\n    import torch._dynamo" + WITHOUT_TENSORRT + load
    result = run(code, "-W", "error")
    assert (result.returncode, result.stdout) == (0, "all\n"), result.stderr


def test_a_missing_tensorrt_says_what_to_install():
    code = (
        WITHOUT_TENSORRT
        + """
    import torch, torch2edge
    try:
        torch2edge.convert(torch.nn.ReLU().eval(), [torch.randn(2)])
    except torch2edge.TensorRTNotFoundError as error:
        assert isinstance(error, ImportError)
        print(error)
    """
    )
    result = run(code)
    for hint in ("pip install tensorrt_rtx_cu13==1.7.1.116", "pip install tensorrt", "Jetson", "--system-site-packages"):
        assert hint in result.stdout, result.stdout + result.stderr


def test_importing_the_package_imports_no_tensorrt_and_nothing_that_takes_long():
    slow = ("tensorrt", "triton", "onnx", "torchvision", "sympy", "torch._dynamo", "torch._inductor", "torch.onnx._internal")
    result = run(
        f"import sys, torch; before = set(sys.modules); import torch2edge; print([m for m in set(sys.modules) - before if "
        f"m.startswith({slow!r})])"
    )
    assert result.stdout == "[]\n", result.stdout + result.stderr


def test_the_folder_converters_is_no_package_of_its_own():
    result = run("import converters")
    assert result.returncode == 1
    assert "ImportError" in result.stderr
    assert "import that, not the folder converters" in result.stderr


def test_converters_are_loaded_once():
    result = run(
        "import sys, torch2edge.converters, torch2edge.lower as l; l.registry();"
        "print([m for m in sys.modules if m.endswith('converters.activation')])"
    )
    assert result.stdout == "['torch2edge.converters.activation']\n", result.stderr
