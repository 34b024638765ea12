"""Three images' examples as text, byte for byte: what a change of the format looks like.

To write the files anew: `python tests/test_example_golden.py`.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tempfile
from pathlib import Path

import pytest
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from small_catalogs import Edge, World, build, picture, serialized

from pipeline import schema

GOLDEN = Path(__file__).parent / "golden"
# Two neighbours of each other, one of them held out, and an image alone.
BRIDGE, OWL, STONE = "bridge/1", "öwl", "stone"
WORLD = World(
    rows=[
        {
            "image_id": BRIDGE,
            "image": picture(1),
            "label": ["bridge", "red"],
            "text": "A red bridge",
            "split": "train",
        },
        {
            "image_id": OWL,
            "image": picture(2),
            "label": ["red"],
            "text": "An owl",
            "split": "validation",
        },
        {
            "image_id": STONE,
            "image": picture(3),
            "label": [],
            "text": None,
            "split": "train",
        },
    ],
    edges=[Edge(BRIDGE, OWL, 1, 2.5), Edge(OWL, BRIDGE, 1, 1.75)],
    queries=[("bridge at night", BRIDGE, 3)],
)


def golden_texts(layout: schema.Layout) -> dict[str, str]:
    """{name of the file: its text} of the world in a layout."""
    with tempfile.TemporaryDirectory() as folder:
        version = build(Path(folder), WORLD, neighbors=2, layout=layout, image_encoding="png")
        records = "\n".join(
            f"# {split}, record {number}\n{as_text(record)}"
            for split in schema.SPLITS
            for number, record in enumerate(serialized(version, split), 1)
        )
        described = Path(version.file(schema.EXAMPLE_SCHEMA_FILE)).read_text()
    return {f"examples-{layout}.textproto": records, f"schema-{layout}.pbtxt": described}


def as_text(record: bytes) -> str:
    """The example, features by their names; of a picture only a digest of its pixels.

    Another zlib may pack the same pixels in other bytes.
    """
    example = tf.train.Example.FromString(record)
    for name, feature in example.features.feature.items():
        if name.endswith("image"):
            values = [digest(value) for value in feature.bytes_list.value]
            feature.bytes_list.value[:] = values
    return text_format.MessageToString(example, as_utf8=True)


def digest(content: bytes) -> bytes:
    picture = Image.open(io.BytesIO(content))
    pixels = hashlib.sha256(picture.tobytes()).hexdigest()[:16]
    return f"{picture.format} {picture.mode} {picture.width}x{picture.height} {pixels}".encode()


@pytest.mark.parametrize("layout", ["nsl", "compact"])
def test_three_images_are_the_examples_of_the_golden_files(layout: schema.Layout) -> None:
    for name, text in golden_texts(layout).items():
        assert text == (GOLDEN / name).read_text(encoding="utf-8"), name


if __name__ == "__main__":
    for chosen in ("nsl", "compact"):
        for file, content in golden_texts(chosen).items():
            (GOLDEN / file).write_text(content, encoding="utf-8")
            sys.stdout.write(f"{GOLDEN / file}\n")
