"""The test suite with several versions of torch, one environment each: make test-matrix.

For each file constraints/torch-*.txt: an environment .venv-torch<name> gets that torch; the wheel, built once, is installed
beside it and imported from outside of the checkout, and torch must still be the same; then the whole suite runs. What has
passed on the same sources is not run again, so an interrupted run goes on where it was. Results go to results/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints"
BUILT = ROOT / "build" / "matrix"

# Run in the environment, from a folder without sources: what is installed, and where torch2edge comes from.
FACTS = """
import importlib.metadata, json, platform, sys
import torch, torchvision
facts = {"python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__,
         "numpy": importlib.metadata.version("numpy")}
if sys.argv[1:]:
    import torch2edge, torch2edge.converters
    from torch2edge.lower import registry
    facts |= {"file": torch2edge.__file__, "converters": len(registry().all())}
    facts["tensorrt"] = torch2edge._trt.capabilities().title
print(json.dumps(facts))
"""


class Failed(Exception):
    """A step went wrong; the message is what its line says."""


def run(*command: object, cwd: Path = ROOT) -> str:
    """The command's output; it must succeed."""
    done = subprocess.run([str(c) for c in command], cwd=cwd, text=True, capture_output=True)
    if done.returncode:
        raise Failed(f"{' '.join(str(c) for c in command[:6])}: {(done.stderr.strip() or done.stdout.strip())[-2000:]}")
    return done.stdout


def pip(python: Path, *arguments: object) -> None:
    """pip in the environment of ``python``."""
    run(python, "-m", "pip", *arguments[:1], "--quiet", "--disable-pip-version-check", *arguments[1:])


def sources() -> list[Path]:
    """The files that a run depends on: what git tracks, and what it would track."""
    listed = sorted(filter(None, run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")))
    return [ROOT / n for n in listed if not n.startswith("benchmarks/results/") and (ROOT / n).is_file()]


def digest(files: Sequence[Path]) -> str:
    """Names and contents of files, in a word."""
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def wheel(python: Path, state: str) -> Path:
    """The wheel of these sources."""
    folder = BUILT / state
    if not list(folder.glob("*.whl")):
        shutil.rmtree(BUILT, ignore_errors=True)
        shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # setuptools puts what it holds into the package
        pip(python, "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    return next(folder.glob("*.whl"))


def facts(python: Path, *arguments: str) -> dict[str, Any]:
    """What is installed there; with an argument of torch2edge too."""
    BUILT.mkdir(parents=True, exist_ok=True)
    return json.loads(run(python, "-I", "-c", FACTS, *arguments, cwd=BUILT))


def environment(name: str, venv: Path, extras: str, state: str) -> Path:
    """An environment with that torch and what the suite needs; its Python."""
    python, limits = venv / "bin" / "python", CONSTRAINTS / f"torch-{name}.txt"
    stamp = venv / ".matrix-installed"
    wanted = extras + digest([limits, CONSTRAINTS / "common.txt", ROOT / "pyproject.toml"])
    pinned = "torch==" in limits.read_text()
    if pinned and stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"torch {name}: installing into {venv.name}; some minutes, some GB, if it is not there yet", flush=True)
    if not python.exists():
        run(sys.executable, "-m", "venv", venv)
    stamp.unlink(missing_ok=True)
    pip(python, "install", "--upgrade", "--constraint", limits, "torch", "torchvision")
    pip(python, "install", "--constraint", limits, f"{wheel(python, state)}[{extras}]")
    stamp.write_text(wanted)
    return python


def beside(python: Path, file: Path) -> dict[str, Any]:
    """Install the wheel there as a user does; torch must stay, and torch2edge be importable from elsewhere."""
    before = facts(python)
    pip(python, "uninstall", "--yes", "torch2edge")
    pip(python, "install", file)  # no constraint keeps torch in place
    pip(python, "check")
    after = facts(python, "torch2edge")
    if {k: after[k] for k in before} != before:
        raise Failed(f"installing {file.name} changed {before} to {after}")
    home = Path(after.pop("file"))
    if python.parent.parent not in home.parents:
        raise Failed(f"the installed torch2edge is {home}, not in {python.parent.parent}")
    return {**after, "wheel": file.name}


def suite(python: Path, report: Path) -> dict[str, Any]:
    """The whole test suite from the checkout; pytest's output goes to the terminal."""
    begun = time.perf_counter()
    report.unlink(missing_ok=True)
    # the checkout itself, as make test has it: editable
    pip(python, "install", "--no-deps", "--no-build-isolation", "--editable", ROOT)
    around = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    code = subprocess.run([python, "-m", "pytest", "-q", f"--junitxml={report}"], cwd=ROOT, env=around).returncode
    if not report.exists():
        raise Failed(f"pytest ended with {code} and no report")
    counted = next(ElementTree.parse(report).getroot().iter("testsuite"))
    total, *others = (int(counted.get(k, 0)) for k in ("tests", "failures", "errors", "skipped"))
    failed, errors, skipped = others
    reasons = sorted({s.get("message", "") for s in counted.iter("skipped")})
    return {
        "passed": total - sum(others), "failed": failed, "errors": errors, "skipped": skipped, "skips": reasons,
        "exit": code, "seconds": round(time.perf_counter() - begun),
    }  # fmt: skip


def one(name: str, extras: str, state: str) -> dict[str, Any]:
    """All of one version; what has passed on the same sources is told again."""
    venv = ROOT / f".venv-torch{name}"
    kept = venv / ".matrix.json"
    try:
        python = environment(name, venv, extras, state)
        before = json.loads(kept.read_text()) if kept.exists() else {}
        if before.get("state") == state and before["row"]["exit"] == 0 and before["torch"] == facts(python)["torch"]:
            print(f"torch {name}: passed before on the same sources", flush=True)
            return before["row"]
        commit = run("git", "describe", "--always", "--dirty").strip()
        row = {"name": name, "date": time.strftime("%Y-%m-%d"), "commit": commit, **beside(python, wheel(python, state))}
        print(f"torch {name}: {row['wheel']} installs beside torch {row['torch']}; the suite:", flush=True)
        row |= suite(python, venv / "junit.xml")
    except Failed as error:
        return {"name": name, "error": str(error), "exit": 1}
    kept.write_text(json.dumps({"state": state, "torch": row["torch"], "row": row}))
    return row


def line(row: dict[str, Any]) -> str:
    """A result for people."""
    if "error" in row:
        return f"torch {row['name']}: FAILED: {row['error']}"
    counts = f"{row['passed']} passed, {row['skipped']} skipped, {row['failed'] + row['errors']} failed"
    verdict = "ok" if row["exit"] == 0 else "FAILED"
    return f"torch {row['torch']}, torchvision {row['torchvision']}: {verdict}: {counts} in {row['seconds']} s; wheel installs"


def write(rows: list[dict[str, Any]], folder: Path) -> Path:
    """The results as a file that is named after its conditions."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    versions = "-".join(r["torch"].partition("+")[0] for r in rows)
    path = folder / f"test-matrix-cpu{os.cpu_count()}-torch{versions}.json"
    path.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    return path


def main() -> int:
    """The command."""
    names = sorted((f.stem.removeprefix("torch-") for f in CONSTRAINTS.glob("torch-*.txt")), key=_order)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=names, help=f"of {', '.join(names)}; all, where none is given")
    parser.add_argument("--extras", default="dev,rtx", help="what to install of torch2edge's extras")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(names):
        parser.error(f"no constraints/torch-{unknown.pop()}.txt")
    state = digest(sources())
    rows = [one(name, arguments.extras, state) for name in arguments.names]
    passed = all(row["exit"] == 0 for row in rows)
    if passed and set(arguments.names) == set(names):
        print(f"\nwritten to {write(rows, arguments.out)}")
    print("\n".join(line(row) for row in rows))
    return 0 if passed else 1


def _order(name: str) -> tuple[int, ...]:
    """By version; what is no version is the newest."""
    return tuple(int(n) for n in name.split(".")) if name[0].isdigit() else (sys.maxsize,)


if __name__ == "__main__":
    sys.exit(main())
