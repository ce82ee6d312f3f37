"""Several processes with torch.distributed on this machine, each running the same code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["run"]

ROOT = Path(__file__).parent.parent.parent
START = """
import json, os, sys, torch
import torch.distributed as dist
dist.init_process_group("gloo")
rank, world, folder = dist.get_rank(), dist.get_world_size(), sys.argv[1]
result = {}
"""
END = """
with open(f"{folder}/result{rank}.json", "w") as file:
    json.dump(result, file)
dist.barrier()
os._exit(0)  # torch 2.4 may wait for ever in destroy_process_group()
"""


def run(code: str, folder: Path, world: int = 2) -> list[dict[str, Any]]:
    """What each rank put into ``result``; ``rank``, ``world`` and ``folder`` are there for the code."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(world):
        env = os.environ | {
            "RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        command = [sys.executable, "-c", START + code + END, str(folder)]
        processes.append(subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    try:
        printed = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [p.returncode for p in processes] == [0] * world, "\n".join(printed)
    return [json.loads((folder / f"result{rank}.json").read_text()) for rank in range(world)]
