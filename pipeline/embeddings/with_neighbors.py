"""Whether an export embeds images with their neighbours, and if not, why not.

In: the model and the examples in force, the catalog, the settings. Out: the examples, where they
are of the catalog and form that the model and the export are of. Whether an export is up to date
depends on it, so that this module loads no Beam.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import schema, storage
from pipeline.artifacts import INPUTS, Version, file_marks
from pipeline.config import ExportConfig, ImagesConfig
from pipeline.embeddings import model as models

_GO_ON = "images are embedded alone"


def choose(
    model: Version,
    examples: Version | None,
    *,
    images: ImagesConfig,
    files: Sequence[storage.FileInfo],
    export: ExportConfig,
) -> tuple[Version | None, str | None]:
    """(the examples to embed, a line for people): None where images are embedded alone.

    files: of the catalog that is exported. There is no line where nothing else could be expected.
    """
    network = model.manifest.get("config", {}).get("model", {}).get("graph_network", "none")
    if network == "none":
        return None, None
    if export.neighbors == "none":
        return None, f"export.neighbors is none: {_GO_ON}, though the model has a graph network"
    why = _obstacle(model, examples, images, files)
    if why is None:
        return examples, None
    return None, f"{why}: {_GO_ON}, as the model does for an image without neighbours"


def _obstacle(
    model: Version,
    examples: Version | None,
    images: ImagesConfig,
    files: Sequence[storage.FileInfo],
) -> str | None:
    """Why the examples cannot be embedded in place of the catalog; None where they can."""
    if not models.has_signature(model, schema.EXAMPLE_SIGNATURE):
        return (
            "the model cannot be asked with neighbours: it learned to trust some edges more than "
            "others, or an earlier imgembed trained it"
        )
    if examples is None:
        return "there are no examples that would tell of neighbours"
    if examples.manifest.get(INPUTS) is None:
        return "an earlier imgembed wrote the examples and did not say of which files"
    if examples.manifest["config"]["images"] != images.model_dump():
        return "the examples are of another catalog, or read otherwise"
    if examples.manifest[INPUTS] != file_marks(files):
        return "the catalog changed since the examples were made of it"
    form = schema.ExampleSpec.from_manifest(examples.manifest).to_manifest()
    if form != model.manifest["example_form"] or _size(examples) != _size(model):
        return "the examples have another form than those that the model was trained on"
    if form["feature_dim"] is not None and not _is_of(model, examples):
        return "the examples' features are scaled otherwise than those that the model knows"
    return None


def _size(version: Version) -> int | None:
    return version.manifest["image_size"] if version.manifest["content"] == "image" else None


def _is_of(model: Version, examples: Version) -> bool:
    """Whether the model was trained on these very examples."""
    return model.manifest["upstream"][schema.EXAMPLES] == examples.name
