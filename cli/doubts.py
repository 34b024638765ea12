"""The most doubted edges as rows of pictures: an image, then its neighbours, the strongest first.

A green frame is around a neighbour that is trusted, a grey one around one that is doubted; below it
stand its agreement and its weight.
"""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.compute as pc

from cli.contact_sheet import Answer, Row, draw_contact_sheet
from cli.showing import picture_of
from pipeline import schema
from pipeline.artifacts import Version
from pipeline.errors import ImgembedError
from pipeline.examples import reading

TRUSTED = 0.5  # the agreement from which on
_SHOWN = 6  # neighbours of an image


def draw_doubts(edges: pa.Table, images: list[str], examples: Version) -> bytes | None:
    """A PNG of these images with their neighbours; None where there are no pictures to draw.

    edges: `schema.AGREEMENT_SCHEMA`. Drawn is what the example of an image holds; an image without
    an example is left out.
    """
    if reading.spec_of(examples).feature_dim is not None:
        return None
    rows = [row for image_id in images if (row := _row(image_id, edges, examples)) is not None]
    if not rows:
        return None
    sink = io.BytesIO()
    draw_contact_sheet(rows).save(sink, "PNG", optimize=True)
    return sink.getvalue()


def _row(image_id: str, edges: pa.Table, examples: Version) -> Row | None:
    try:
        example = reading.find_example(examples, image_id, schema.SPLITS)
    except ImgembedError:  # embedded, but no part of the examples
        return None
    own = edges.filter(pc.equal(edges["src"], image_id))
    agreement = dict(zip(own["dst"].to_pylist(), own["agreement"].to_pylist(), strict=True))
    answers = [
        Answer(
            picture_of(near.node, example, examples),
            f"{agreement[near.node.image_id]:.0%} of {near.weight:.3g}",
            right=agreement[near.node.image_id] >= TRUSTED,
        )
        for near in example.neighbors
        if near.node.image_id in agreement
    ]
    if all(answer.right for answer in answers):
        return None  # the doubted edge is not among those that the example holds
    return Row(image_id, answers[:_SHOWN], picture_of(example.seed, example, examples))
