"""What is true of the world, as two tables: images and sessions in, Arrow tables out.

For measuring only: no stage of the pipeline reads these tables. Rows are in the order of image
numbers and of sessions, bots last.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipeline.world.catalog import Image
from pipeline.world.sessions import Session

IMAGES_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("shape", pa.string()),
        ("colour", pa.string()),
        ("texture", pa.string()),
        ("count", pa.int64()),
        ("intent", pa.string()),
        ("hub", pa.bool_()),
        ("cold", pa.bool_()),
        ("label", pa.string()),
    ]
)
CLICKS_SCHEMA = pa.schema(
    [
        ("session_id", pa.string()),
        ("user_id", pa.string()),
        ("image_id", pa.string()),
        ("intent", pa.string()),
        ("noise", pa.bool_()),
        ("bot", pa.bool_()),
    ]
)


def images_table(images: Sequence[Image]) -> pa.Table:
    """One row an image; `label` is the true one, also where the catalog tells none."""
    rows = [
        {
            "image_id": image.image_id,
            **image.intent._asdict(),
            "count": image.count,
            "intent": image.intent.name,
            "hub": image.hub,
            "cold": image.cold,
            "label": image.intent.shape,
        }
        for image in images
    ]
    return pa.Table.from_pylist(rows, schema=IMAGES_SCHEMA)


def clicks_table(sessions: Sequence[Session], images: Sequence[Image]) -> pa.Table:
    """One row a good event; `intent` is what was searched for (two words where that was broad).

    `noise` says that the image does not fit the intent. A bot has no intent (null) and no noise.
    """
    rows = [
        (
            session.session_id,
            session.user_id,
            images[event.image].image_id,
            session.intent.name if session.intent else None,
            event.noise,
            session.bot,
        )
        for session in sessions
        for event in session.events
    ]
    columns = zip(CLICKS_SCHEMA, zip(*rows, strict=True), strict=True)
    arrays = [pa.array(values, field.type) for field, values in columns]
    return pa.Table.from_arrays(arrays, schema=CLICKS_SCHEMA)
