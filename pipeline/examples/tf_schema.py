"""The examples' schema as TensorFlow Metadata has it: `schema.pbtxt`, for every tool of TFX.

In: the spec of the examples. Out: types, presence, numbers of values and domains.
"""

from __future__ import annotations

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from pipeline import schema, storage

_TYPES = {"bytes": schema_pb2.BYTES, "int64": schema_pb2.INT, "float32": schema_pb2.FLOAT}
_LABELS = (schema.LABEL.name, schema.LABELS.name)
_UP_TO_NEIGHBORS = (schema.NUM_NEIGHBORS, schema.GRAPH_SENDERS, schema.GRAPH_RECEIVERS)
# Features that not every example has.
_OPTIONAL = ("heldout_", schema.NEIGHBOR_PREFIX, schema.COMPACT_PREFIX)


def make_schema(spec: schema.ExampleSpec, classes: int) -> schema_pb2.Schema:
    """The schema of examples whose labels are -1 (none) or 0 to `classes` - 1."""
    found = schema_pb2.Schema()
    for feature in spec.features():
        _describe(found.feature.add(), feature, spec, classes)
    return found


def _describe(
    target: schema_pb2.Feature, feature: schema.Feature, spec: schema.ExampleSpec, classes: int
) -> None:
    target.name, target.type = feature.name, _TYPES[feature.dtype]
    if feature.shape and feature.shape[0] is None:
        target.value_count.min = 1  # an empty list is not written
    else:
        size = feature.shape[0] if feature.shape else 1
        target.value_count.min = target.value_count.max = size
        if not _is_optional(feature.name, spec):
            target.presence.min_fraction = 1.0
    if feature == schema.COMPACT_LABEL_COUNTS:
        target.int_domain.min, target.int_domain.max = 0, classes
    elif feature.name.endswith(_LABELS):
        target.int_domain.min, target.int_domain.max = schema.NO_LABEL, classes - 1
        target.int_domain.is_categorical = True
    elif feature in _UP_TO_NEIGHBORS:
        target.int_domain.min, target.int_domain.max = 0, spec.neighbors
    elif feature.name.endswith(schema.WEIGHT_SUFFIX):
        target.float_domain.min = 0.0
    elif feature.name.endswith(schema.IMAGE.name) and spec.image_encoding in ("jpeg", "png"):
        target.image_domain.SetInParent()


def _is_optional(name: str, spec: schema.ExampleSpec) -> bool:
    if name == schema.NUM_NEIGHBORS.name or name.endswith(schema.WEIGHT_SUFFIX):
        return False
    return name.startswith(_OPTIONAL)


def write(path: str, spec: schema.ExampleSpec, classes: int) -> None:
    """Writes the schema as text."""
    with storage.open_write(path) as file:
        file.write(text_format.MessageToString(make_schema(spec, classes)).encode())


def read(path: str) -> schema_pb2.Schema:
    """A schema that `write` wrote."""
    with storage.open_read(path) as file:
        return text_format.Parse(file.read().decode(), schema_pb2.Schema())
