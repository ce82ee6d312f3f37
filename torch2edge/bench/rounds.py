"""Several contenders in rounds: in each round all of them, one after the other.

Absolute times on a machine that others use, or whose clocks change, mean little; what was measured within a second of each
other can be compared.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from .contender import Contender, Run

__all__ = ["ROUNDS", "in_rounds", "joined", "ratios"]

ROUNDS = 10


def in_rounds(contenders: Sequence[Contender], rounds: int, calls: int, seconds: float) -> tuple[list[list[Run]], list[str]]:
    """The runs of each contender, and why one after the first failed, or "".

    Each has at least ``calls`` calls on each stream, and ``seconds``, over all rounds. An error of the first is raised.
    """
    runs: list[list[Run]] = [[] for _ in contenders]
    failed = ["" for _ in contenders]
    for _ in range(rounds):
        for i, contender in enumerate(contenders):
            if failed[i]:
                continue
            try:
                runs[i].append(contender.run(math.ceil(calls / rounds), seconds / rounds))
            except Exception as error:
                if i == 0:
                    raise
                failed[i] = f"failed while it was measured: {type(error).__name__}: {error}"
    return runs, failed


def joined(runs: Sequence[Run]) -> Run:
    """All rounds as one run."""
    return Run([query for run in runs for query in run.queries], math.fsum(run.seconds for run in runs))


def ratios(runs: Sequence[Run], base: Sequence[Run]) -> list[float]:
    """By round, the median latency by that of ``base``."""
    medians = [[statistics.median(query.latency for query in run.queries) for run in one] for one in (runs, base)]
    return [mine / its for mine, its in zip(*medians)]
