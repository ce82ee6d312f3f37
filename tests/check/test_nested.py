"""compare_nested(): detections agree in any order, and what differs is found."""

from __future__ import annotations

import pytest
import torch

from torch2edge.check.nested import compare_nested, floors_of


def detections(count: int = 100, masks: bool = True) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(count)
    found = {
        "boxes": torch.rand(count, 4, generator=generator) * 100,
        "labels": torch.randint(0, 5, (count,), generator=generator),
        "scores": torch.rand(count, generator=generator),
    }
    return [found | ({"masks": torch.rand(count, 1, 12, 12, generator=generator)} if masks else {})]


def reordered(value: list[dict[str, torch.Tensor]], order: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    return [{k: v[order].clone() for k, v in value[0].items()}]


def check(given, reference, tolerance: float = 1e-4):
    return compare_nested(given, reference, "seed 1", tolerance)


def test_the_same_order_is_compared_tensor_by_tensor():
    rows = check(detections(), detections())
    assert [r.output for r in rows] == [f"output[0]['{k}']" for k in ("boxes", "labels", "scores", "masks")]
    assert all(r.passed and r.max_abs == 0 for r in rows)


def test_another_order_is_no_difference():
    (row,) = check(reordered(detections(), torch.arange(99, -1, -1)), detections())
    assert row.passed
    assert row.trial == "seed 1; 100 of 100 rows found among 100, in any order"
    assert (row.max_abs, row.finite) == (0, 100)


def test_one_row_may_come_or_go_but_not_many():
    for kept, passed in ((99, True), (98, True), (90, False)):
        (row,) = check(reordered(detections(), torch.arange(kept)), detections())
        assert row.passed is passed, row
    (row,) = check(detections(), reordered(detections(), torch.arange(90)))
    assert not row.passed


def test_a_changed_field_is_found():
    for key, change in (("boxes", 1.0), ("labels", 1), ("scores", 0.1), ("masks", 0.1)):
        wrong = reordered(detections(), torch.arange(99, -1, -1))
        wrong[0][key][:20] += change
        (row,) = check(wrong, detections())
        assert not row.passed, key
        assert row.trial.startswith("seed 1; 80 of 100")


def test_two_rows_do_not_share_a_partner():
    reference = detections(50)
    doubled = reordered(reference, torch.arange(50) // 2)
    (row,) = check(doubled, reference)
    assert not row.passed


def test_empty_and_plain_outputs():
    assert all(r.passed and r.finite == 0 for r in check(detections(0), detections(0)))
    (row,) = check(detections(0), detections(5))
    assert not row.passed
    rows = check((torch.ones(2), {"a": torch.ones(3)}), (torch.ones(2), {"a": torch.zeros(3)}))
    assert [(r.output, r.passed) for r in rows] == [("output[0]", True), ("output[1]['a']", False)]


def test_other_structures_fail():
    (row,) = check([torch.ones(1)], (torch.ones(1),))
    assert (row.passed, row.trial) == (False, "another structure")
    assert not check(detections(5, masks=False), detections(5))[0].passed
    halves = [{k: v.half() if v.is_floating_point() else v for k, v in detections(5)[0].items()}]
    assert check(halves, detections(5))[0].trial == "other dtypes or shapes"


def test_errors_are_held_against_a_share_of_the_largest_trial():
    trials = [{"a": torch.randn(50) * scale} for scale in (1.0, 1e-3)]
    floors = floors_of(trials)
    given = {"a": trials[1]["a"] + 1e-3 * torch.randn(50)}
    assert not compare_nested(given, trials[1], "small", 0.02)[0].passed
    assert compare_nested(given, trials[1], "small", 0.02, floors)[0].passed
    assert floors["output['a']"] == pytest.approx((0.1 * float(trials[0]["a"].norm()), 0.1 * largest(trials[0]["a"])))
    assert floors_of([{"a": object()}]) == {}


def largest(tensor: torch.Tensor) -> float:
    return float(tensor.abs().max())
