"""Is it right? Fresh random inputs through the original and through the engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ..report import CheckRow

__all__ = ["TOLERANCE", "TRIALS", "Trial", "compare", "draw", "floor_of", "verify", "verify_batches", "verify_sizes"]

# Largest relative L2 error of an output. fp32: summation order alone gives 1e-6 to 1e-5 over a deep network. Half and
# bfloat16 have 11 and 8 bits of mantissa; errors add up over the layers. INT8 has 8 bits for a whole tensor.
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": 2e-1}
FLOOR = 0.1  # errors are held against no less than this share of the output's norm in its largest trial
PEAK = 10  # a single element may be off by this many times the tolerance, relative to the largest one


@dataclass(frozen=True)
class Trial:
    """How fresh inputs are drawn: normal with this standard deviation and mean, or the examples' elements shuffled."""

    seed: int
    scale: float = 1.0
    center: float = 0.0
    shuffled: bool = False
    shapes: tuple[tuple[int, ...], ...] = ()  # of the inputs; those of the examples where there are none
    where: str = ""  # what these shapes are: "batch = 16"

    def __str__(self) -> str:
        drawn = f"seed {self.seed}, " + ("example shuffled" if self.shuffled else f"N({self.center:g}, {self.scale:g})")
        return f"{self.where}, {drawn}" if self.where else drawn


# An error may hide at one scale (a saturated sigmoid) or in the sign (relu against identity on positive inputs). Shuffled
# examples stay where the model is defined: log and sqrt of normal inputs are NaN in half of the places.
TRIALS = (Trial(1, 1.0, 0.0), Trial(2, 3.0, 0.0), Trial(3, 0.5, 1.0), Trial(4, shuffled=True))
AT_OTHER_SIZES = (Trial(1, 1.0, 0.0), Trial(3, 0.5, 1.0))  # what hangs on the values is seen at the examples' sizes


def draw(examples: Sequence[torch.Tensor], trial: Trial) -> list[torch.Tensor]:
    """Random tensors of the dtypes and devices of ``examples``, and of their shapes, where the trial has none of its own.

    Floats are normal; integers are uniform between the smallest and the largest of the example, because they index
    something whose size nobody tells; bools are fair coins.
    """
    generator = torch.Generator().manual_seed(trial.seed)
    drawn = []
    for example, shape in zip(examples, trial.shapes or [e.shape for e in examples], strict=True):
        if trial.shuffled:
            order = torch.randperm(example.numel(), generator=generator).to(example.device)
            fresh = example.detach().reshape(-1)[order].reshape(example.shape)
        elif example.dtype == torch.bool:
            fresh = torch.rand(shape, generator=generator) < 0.5
        elif example.is_floating_point():
            fresh = torch.randn(shape, generator=generator) * trial.scale + trial.center
        else:
            low, high = int(example.min()), int(example.max())
            high = min(high, torch.iinfo(torch.int64).max - 1)  # randint's bound is exclusive
            fresh = torch.randint(low, high + 1, shape, generator=generator)
        drawn.append(fresh.to(dtype=example.dtype, device=example.device))
    return drawn


def compare(
    given: torch.Tensor, reference: torch.Tensor, output: str, trial: str, tolerance: float,
    floor: tuple[float, float] = (0.0, 0.0),
) -> CheckRow:  # fmt: skip
    """The figures of one output; NaN and infinities must be in the same places.

    Args:
        floor: smallest norm and largest magnitude that errors are held against; those of the reference, where larger.
    """
    if given.shape != reference.shape or given.dtype != reference.dtype:
        return CheckRow(output, math.inf, math.inf, 0.0, math.inf, f"{given.dtype} {tuple(given.shape)}", False)
    a, b = given.detach().cpu().double().flatten(), reference.detach().cpu().double().flatten()
    finite = b.isfinite()
    same_specials = bool(((a == b) | (a.isnan() & b.isnan()))[~finite].all())
    a, b = a[finite], b[finite]
    error = (a - b).abs()
    max_abs = float(error.max()) if len(b) else 0.0
    ref_max = float(b.abs().max()) if len(b) else 0.0
    norm = float(b.norm())
    scale, peak = max(norm, floor[0]), max(ref_max, floor[1])
    if not reference.is_floating_point():
        relative = float((error != 0).double().mean()) if len(b) else 0.0
        passed = relative <= tolerance
    else:
        relative = float(error.norm()) / (scale or 1.0)
        passed = relative <= tolerance and max_abs <= PEAK * tolerance * (peak or 1.0)
    given_norm = float(a.norm())
    cosine = float(torch.dot(a, b)) / (given_norm * norm) if given_norm and norm else float(given_norm == norm)
    return CheckRow(output, max_abs, relative, cosine, ref_max, trial, bool(passed and same_specials), len(b))


def floor_of(references: Sequence[torch.Tensor]) -> tuple[float, float]:
    """A share of the largest norm and magnitude over all trials.

    A trial may give next to nothing (a relu that hardly lets anything pass): then rounding inside of the model, which is
    as large as ever, is not small beside the output.
    """
    finite = [torch.where(r.isfinite(), r, 0).detach().cpu().double() for r in references]
    largest = max((float(t.abs().max()) for t in finite if t.numel()), default=0.0)
    return FLOOR * max(float(t.norm()) for t in finite), FLOOR * largest


def verify(
    run: Callable[[list[torch.Tensor]], list[torch.Tensor]], reference: Callable[[list[torch.Tensor]], list[torch.Tensor]],
    examples: Sequence[torch.Tensor], names: Sequence[str], tolerance: float, trials: Sequence[Trial] = TRIALS,
) -> tuple[list[CheckRow], Trial]:  # fmt: skip
    """Run both on the fresh inputs of every trial.

    Returns:
        The worst row of each output (a failed one before a passed one, then by relative error), and the trial of the
        first that failed, else the first trial.
    """
    worst: list[CheckRow] = []
    finite = [0] * len(names)
    failed: Trial | None = None
    # by trial; TensorRT and PyTorch run in turns, so that only outputs are held
    both = [(run(inputs), reference([t.clone() for t in inputs])) for inputs in (draw(examples, trial) for trial in trials)]
    floors = [floor_of([expected[i] for _, expected in both]) for i in range(len(names))]
    for trial, (given, expected) in zip(trials, both):
        rows = [
            compare(g, e, n, str(trial), tolerance, f) for g, e, n, f in zip(given, expected, names, floors, strict=True)
        ]  # fmt: skip
        finite = [total + row.finite for total, row in zip(finite, rows)]
        if failed is None and not all(row.passed for row in rows):
            failed = trial
        worst = rows if not worst else [max(w, r, key=lambda c: (not c.passed, c.rel_l2)) for w, r in zip(worst, rows)]
    return [replace(row, finite=total) for row, total in zip(worst, finite)], failed or trials[0]


def verify_batches(
    run: Callable[[list[torch.Tensor]], list[torch.Tensor]], reference: Callable[[list[torch.Tensor]], list[torch.Tensor]],
    batches: Sequence[list[torch.Tensor]], names: Sequence[str], tolerance: float, called: str,
) -> tuple[list[CheckRow], list[torch.Tensor]]:  # fmt: skip
    """``verify`` on given inputs: INT8 clips what is beyond the ranges that it was calibrated for.

    Returns:
        The worst row of each output, and the first inputs for which one failed, else the first of all.
    """
    both = [(run(inputs), reference([t.clone() for t in inputs])) for inputs in batches]
    floors = [floor_of([expected[i] for _, expected in both]) for i in range(len(names))]
    rows = [
        [compare(g, e, n, f"{called} {number}", tolerance, f) for g, e, n, f in zip(given, expected, names, floors)]
        for number, (given, expected) in enumerate(both)
    ]  # fmt: skip
    worst = [max(column, key=lambda c: (not c.passed, c.rel_l2)) for column in zip(*rows)]
    failed = next((i for i, row in enumerate(rows) if not all(r.passed for r in row)), 0)
    total = [sum(r.finite for r in column) for column in zip(*rows)]
    return [replace(row, finite=count) for row, count in zip(worst, total)], list(batches[failed])


def verify_sizes(
    run: Callable[[list[torch.Tensor]], list[torch.Tensor]], reference: Callable[[list[torch.Tensor]], list[torch.Tensor]],
    examples: Sequence[torch.Tensor], names: Sequence[str], tolerance: float,
    sizes: Sequence[tuple[str, tuple[tuple[int, ...], ...]]],
) -> tuple[list[CheckRow], Trial]:  # fmt: skip
    """``verify`` on the examples' shapes, and on others: errors are held against the outputs of the same sizes.

    Args:
        sizes: what to call them, and the shapes of the inputs.
    """
    worst, failed = verify(run, reference, examples, names, tolerance)
    for count, (where, shapes) in enumerate(sizes):
        trials = [replace(t, seed=10 * (count + 1) + t.seed, shapes=shapes, where=where) for t in AT_OTHER_SIZES]
        passed = all(row.passed for row in worst)
        rows, trial = verify(run, reference, examples, names, tolerance, trials)
        failed = failed if not passed or all(row.passed for row in rows) else trial
        total = [w.finite + r.finite for w, r in zip(worst, rows)]
        worst = [max(w, r, key=lambda c: (not c.passed, c.rel_l2)) for w, r in zip(worst, rows)]
        worst = [replace(row, finite=finite) for row, finite in zip(worst, total)]
    return worst, failed
