"""Neighbours, and the edges among them, are those of a dictionary of the graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.examples.neighbors import ADJACENCY_SCHEMA, first_of_each, with_out_edges
from pipeline.examples.places import PLACE, column
from pipeline.examples.subgraphs import OutEdges, edges_among, strongest

Graph = dict[int, list[tuple[int, float]]]  # {place: [(place, weight)], the strongest first}


class Drawn(NamedTuple):
    """A graph, the places of the seeds, and those of its other images, in any order."""

    graph: Graph
    seeds: list[int]
    others: list[int]


@st.composite
def graphs(draw: st.DrawFn) -> Drawn:
    places = draw(st.lists(st.integers(0, 2**64 - 1), max_size=7, unique=True))
    graph: Graph = {}
    for place in places:
        ends = draw(st.lists(st.sampled_from(places), max_size=6, unique=True))
        weights = draw(
            st.lists(st.floats(0.125, 9, width=32), min_size=len(ends), max_size=len(ends))
        )
        pairs = zip(ends, sorted(weights, reverse=True), strict=True)
        graph[place] = [(end, weight) for end, weight in pairs if end != place]
    cut = draw(st.integers(0, len(places)))
    return Drawn(graph, sorted(places[:cut]), places[cut:])


def table(places: list[int], graph: Graph) -> pa.Table:
    """Nodes with their out-edges, in the order of `places`."""
    ascending = sorted(places)
    rows = [(place, end, weight) for place in ascending for end, weight in graph[place]]
    columns = [list(values) for values in zip(*rows, strict=True)] or [[], [], []]
    adjacency = pa.table(columns, schema=ADJACENCY_SCHEMA)
    nodes = pa.table({PLACE: pa.array(ascending, pa.uint64())})
    nodes = with_out_edges(nodes, adjacency, column(nodes, PLACE))
    return nodes.take(pa.array([ascending.index(place) for place in places], pa.int64()))


def among(nodes: list[int], graph: Graph) -> list[tuple[int, int, float]]:
    """(sender, receiver, weight) of the edges among nodes, in order."""
    return sorted(
        (sender, nodes.index(end), weight)
        for sender, node in enumerate(nodes)
        for end, weight in graph[node]
        if end in nodes
    )


def found_among(drawn: Drawn, limit: int) -> list[list[tuple[int, int, float]]]:
    """The same of each example, by the functions under test."""
    near = sorted({end for seed in drawn.seeds for end, _ in drawn.graph[seed][:limit]})
    near = near[::-1]  # replies come in no order
    seeds, neighbors = (OutEdges.of(table(part, drawn.graph)) for part in (drawn.seeds, near))
    rows = np.full((len(drawn.seeds), limit), -1)
    for index, seed in enumerate(drawn.seeds):
        ends = [near.index(end) for end, _ in drawn.graph[seed][:limit]]
        rows[index, : len(ends)] = ends
    found = edges_among(seeds, neighbors, np.arange(len(drawn.seeds)), rows)
    assert len(found.counts) == len(drawn.seeds)
    edges: list[Any] = list(
        zip(found.senders.tolist(), found.receivers.tolist(), found.weights.tolist(), strict=True)
    )
    ends = np.cumsum(found.counts)
    assert not len(ends) or ends[-1] == len(edges)
    return [edges[end - count : end] for end, count in zip(ends, found.counts, strict=True)]


@given(drawn=graphs(), limit=st.integers(0, 8))
@settings(max_examples=200, deadline=None)
def test_the_strongest_neighbors_are_the_first_of_the_dictionary(drawn, limit):
    places, weights = strongest(OutEdges.of(table(drawn.seeds, drawn.graph)), limit)
    assert places.shape == weights.shape == (len(drawn.seeds), limit)
    assert (places.dtype, weights.dtype) == (np.uint64, np.float32)
    for row, seed in enumerate(drawn.seeds):
        expected = drawn.graph[seed][:limit]
        expected = expected + [(0, 0.0)] * (limit - len(expected))
        assert list(zip(places[row].tolist(), weights[row].tolist(), strict=True)) == expected


@given(drawn=graphs(), limit=st.integers(0, 8))
@settings(max_examples=200, deadline=None)
def test_the_edges_among_the_nodes_of_an_example_are_those_of_the_dictionary(drawn, limit):
    expected = [
        among([seed, *(end for end, _ in drawn.graph[seed][:limit])], drawn.graph)
        for seed in drawn.seeds
    ]
    assert found_among(drawn, limit) == expected


@given(drawn=graphs(), start=st.integers(0, 4), size=st.integers(0, 4))
@settings(max_examples=100, deadline=None)
def test_out_edges_of_a_part_of_the_nodes_are_theirs(drawn, start, size):
    part = OutEdges.of(table(drawn.seeds, drawn.graph).slice(start, size))
    places = drawn.seeds[start : start + size]
    assert part.place.tolist() == places
    for row, place in enumerate(places):
        owner, edges = part.of_rows(np.array([row]))
        assert owner.tolist() == [0] * len(edges)
        assert part.targets[edges].tolist() == [end for end, _ in drawn.graph[place]]
        assert part.weights[edges].tolist() == [weight for _, weight in drawn.graph[place]]


def test_edges_of_both_directions_are_two_edges():
    drawn = Drawn({1: [(2, 4.0)], 2: [(3, 2.0), (1, 1.0)], 3: []}, [1], [2, 3])
    # 2 -> 3 is none of the example's: 3 is no neighbour of 1.
    assert found_among(drawn, 1) == [[(0, 1, 4.0), (1, 0, 1.0)]]


def test_two_neighbors_are_joined_where_the_graph_joins_them_and_neither_is_a_seed():
    drawn = Drawn({1: [(2, 4.0), (3, 3.0)], 2: [], 3: [(2, 7.0)]}, [1], [2, 3])
    assert found_among(drawn, 2) == [[(0, 1, 4.0), (0, 2, 3.0), (2, 1, 7.0)]]


def test_seeds_without_any_neighbor_have_no_edges():
    assert found_among(Drawn({0: [], 5: []}, [0, 5], []), 3) == [[], []]


def test_a_place_that_is_zero_is_not_taken_for_a_neighbor_that_is_missing():
    drawn = Drawn({0: [(9, 1.0)], 5: [(9, 1.0)], 9: [(0, 2.0)]}, [0, 5], [9])
    assert found_among(drawn, 2) == [[(0, 1, 1.0), (1, 0, 2.0)], [(0, 1, 1.0)]]


@given(st.lists(st.integers(0, 4), max_size=12), st.integers(0, 4))
def test_the_first_rows_of_each_value_are_marked(values, limit):
    values = sorted(values)
    expected = [values[:row].count(value) < limit for row, value in enumerate(values)]
    assert first_of_each(np.array(values, np.uint64), limit).tolist() == expected
