"""The examples stage as its manifest describes it: what is in the files, and where they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.errors import ImgembedError
from trainer.transform import Transform

TRAIN, VALIDATION, TEST = schema.SPLITS


@dataclass(frozen=True)
class ExampleFiles:
    """A version of the examples, and all that a reader must know of it."""

    version: Version
    spec: schema.ExampleSpec
    image_size: int | None  # None: the content is ready features
    classes: tuple[str, ...]
    compression: str  # as tf.data calls it
    num_tokens: int  # tokens are 0 to num_tokens - 1
    texts: int  # in the training split; 0 = there is nothing to learn a text tower from
    labelled: int  # seeds of the training split with a label
    class_counts: tuple[int, ...]  # training images of each class
    with_neighbors: int  # seeds of any split with a neighbour

    @classmethod
    def open(cls, version: Version) -> ExampleFiles:
        """ImgembedError where an earlier imgembed wrote them."""
        manifest = version.manifest
        spec = read_spec(version)
        return cls(
            version=version,
            spec=spec,
            image_size=int(manifest["image_size"]) if spec.feature_dim is None else None,
            classes=tuple(manifest["classes"]),
            compression="GZIP" if manifest["compression"] == "gzip" else "",
            num_tokens=int(manifest["token_ids"]),
            texts=int(manifest["texts"].get(TRAIN, 0)),
            labelled=int(manifest["labelled"].get(TRAIN, 0)),
            class_counts=tuple(manifest["images_of_class"].values()),
            with_neighbors=int(manifest["counts"]["images"]["with_neighbors"]),
        )

    def records(self, split: str) -> int:
        """How many examples the split holds, by the manifest."""
        return int(self._split(split).get("records", 0))

    def files(self, split: str) -> list[str]:
        """The split's TFRecords; ImgembedError where the manifest tells of more than there are."""
        files = self.version.shards(split)
        wanted = int(self._split(split).get("files", 0))
        if self.records(split) and len(files) != wanted:
            raise ImgembedError(
                f"{self.version.path}: {len(files)} files {split}-*.tfrecord*, but the manifest "
                f"says that the {self.records(split)} examples of the split are in {wanted}; make "
                f"the stage anew with: {schema.STAGE_COMMANDS[schema.EXAMPLES]}"
            )
        return files

    def _split(self, split: str) -> dict[str, Any]:
        return self.version.manifest["splits"].get(split, {})

    def transform(self) -> Transform:
        """The saved tf.Transform graph of this stage."""
        return Transform(self.version.file(schema.TRANSFORM_FOLDER))

    @property
    def content_shape(self) -> tuple[int, ...]:
        """The shape of one seed's content in a batch."""
        if self.spec.feature_dim is not None:
            return (self.spec.feature_dim,)
        assert self.image_size is not None
        return (self.image_size, self.image_size, 3)


def read_spec(version: Version) -> schema.ExampleSpec:
    """What the examples of a version look like, by its manifest."""
    try:
        return schema.ExampleSpec.from_manifest(version.manifest)
    except KeyError:
        raise ImgembedError(
            f"{version.path}: these examples were written by an earlier imgembed, in a form that "
            "is not read any more; make the stage anew with: "
            f"{schema.STAGE_COMMANDS[schema.EXAMPLES]}"
        ) from None
