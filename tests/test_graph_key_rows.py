"""Whatever converts can be hashed: over all op tables, and graphs of one hash become one network."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator

import pytest
from support.dynamic_rows import DynamicRow
from support.rows import Row
from support.tables import all_dynamic_rows, all_rows

from torch2edge.build.graph_key import graph_digests
from torch2edge.build.session import BuildSession
from torch2edge.graph import Graph
from torch2edge.lower import lower, registry
from torch2edge.network_key import network_digest
from torch2edge.options import Options
from torch2edge.trace import trace


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rows that PyTorch has something to say of
        yield


def traced(row: Row) -> Graph:
    known = registry()
    return trace(row.module(), row.draw(0), is_leaf=known.is_leaf, module_classes=known.module_classes())


def traced_dynamic(row: DynamicRow) -> Graph:
    usual, known = row.at(row.every_size()[1]), registry()
    return trace(
        usual.module(), usual.draw(seed=0), is_leaf=known.is_leaf, module_classes=known.module_classes(), dynamic=row.dynamic()
    )


def network_of(graph: Graph) -> str:
    session = BuildSession(Options())
    kept = lower(graph, session.network, registry())
    assert kept is not None
    return network_digest(session.network)


def test_graphs_of_one_hash_become_one_network() -> None:
    found: dict[tuple[str, ...], list[Callable[[], Graph]]] = defaultdict(list)
    for row in all_rows():
        graphs = [traced(row), traced(row)]
        digests = {tuple(graph_digests(graph).values()) for graph in graphs}
        assert len(digests) == 1, f"{row} is hashed differently each time"
        found[digests.pop()].append(lambda row=row: traced(row))
    assert len(found) > 1500
    for same in found.values():
        if len(same) > 1:
            assert len({network_of(make()) for make in same}) == 1


def test_dynamic_graphs() -> None:
    for row in all_dynamic_rows():
        assert graph_digests(traced_dynamic(row)) == graph_digests(traced_dynamic(row)), str(row)
