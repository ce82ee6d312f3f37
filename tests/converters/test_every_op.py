"""Every registered converter has rows; check_row asserts of each row that its converter was called."""

from __future__ import annotations

from support.tables import all_dynamic_rows, all_rows

from torch2edge.lower import registry


def test_every_registered_op_has_rows() -> None:
    tested = {row.op for row in (*all_rows(), *all_dynamic_rows())}
    missing = [str(target) for target in registry().all() if target not in tested]
    assert not missing, f"{len(missing)} converters have no row: {missing}"
