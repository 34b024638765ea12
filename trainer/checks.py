"""What cannot be trained, found before the first step: settings that do not fit the examples.

A setting other than its default asks for what it says; a default only for what there is, even where
it is written out, as in the file that `imgembed init` makes.
"""

from __future__ import annotations

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.errors import ConfigError, ImgembedError
from trainer.config import AgreementConfig, ModelConfig, TrainingConfig
from trainer.example_files import TRAIN, VALIDATION, ExampleFiles
from trainer.model import TERMS

_DEFAULT = AgreementConfig()
_NEIGHBOR_TERMS = ("graph_regularization", "edge_contrast")


def check(
    files: ExampleFiles,
    model: ModelConfig,
    training: TrainingConfig,
    image_size: int | None = None,
    agreement: AgreementConfig = _DEFAULT,
    graph: Version | None = None,
) -> None:
    """ImgembedError where there is nothing to learn, or nothing to learn it from.

    image_size: that of the configuration, where it was given; None: that of the examples. graph:
    the version that the examples were made of; None: it is gone, or nobody asks for it.
    """
    _check_records(files)
    _check_image_size(files, image_size)
    _check_neighbors(files, model, training)
    _check_labels(files, training)
    _check_terms(files, training)
    if model.agreement != "none":
        _check_agreement(files, model, training)
        _check_judge(files, model, agreement, graph)


def _check_records(files: ExampleFiles) -> None:
    if files.records(TRAIN) == 0:
        total = sum(files.records(split) for split in schema.SPLITS)
        raise ImgembedError(
            f"{files.version.path}: no example is in the training split, of {total} in all; "
            "raise examples.split.train, or check the catalog's column 'split'"
        )


def _check_image_size(files: ExampleFiles, image_size: int | None) -> None:
    if image_size is None or files.image_size is None or image_size == files.image_size:
        return
    raise ConfigError(
        f"images.image_size: {image_size}, but the pictures of {files.version.path} have "
        f"{files.image_size} pixels a side; make the stage anew with: "
        f"{schema.STAGE_COMMANDS[schema.EXAMPLES]}"
    )


def _check_neighbors(files: ExampleFiles, model: ModelConfig, training: TrainingConfig) -> None:
    asked = [f"training.{term}" for term in _NEIGHBOR_TERMS if _is_asked(training, term)]
    if model.graph_network != "none":
        asked.insert(0, "model.graph_network")
    if model.agreement == "gam":
        asked.insert(0, "model.agreement")
    if not asked:
        return
    if files.spec.neighbors == 0 or files.with_neighbors == 0:
        found = "without slots for them" if files.spec.neighbors == 0 else "none of which has any"
        raise ConfigError(
            f"{asked[0]}: wants neighbours, but the examples in {files.version.path} were written "
            f"{found}; raise examples.neighbors or add sessions, and make the stage anew with: "
            f"{schema.STAGE_COMMANDS[schema.EXAMPLES]}"
        )
    if training.neighbors == 0:
        raise ConfigError(
            f"{asked[0]}: wants neighbours, but training.neighbors is 0; raise it to 1 or more"
        )


def _check_labels(files: ExampleFiles, training: TrainingConfig) -> None:
    path = files.version.path
    if files.labelled == 0 and _is_asked(training, "supervised"):
        raise ConfigError(
            f"training.supervised: {training.supervised:g}, but no example of the training split "
            f"in {path} has a label; add labels to the catalog, or leave the setting out"
        )
    if files.labelled and len(files.classes) == 1 and training.supervised:
        raise ConfigError(
            f"training.supervised: {training.supervised:g}, but all {files.labelled} labels in "
            f"{path} are {files.classes[0]!r}: there is nothing to tell apart; add images of "
            "another class, or set it to 0"
        )


def _check_terms(files: ExampleFiles, training: TrainingConfig) -> None:
    if not any(getattr(training, term) for term in TERMS):
        raise ImgembedError(
            f"training: {', '.join(TERMS)} are all 0, so there is nothing to learn; raise one"
        )
    edges = files.with_neighbors > 0 and training.neighbors > 0
    there = {
        "supervised": files.labelled > 0,
        "graph_regularization": edges,
        "edge_contrast": edges,
        "text_contrast": files.texts > 0,
    }
    if not any(there[term] and getattr(training, term) for term in TERMS):
        raise ImgembedError(
            f"{files.version.path}: nothing to learn from: there are {files.labelled} labels and "
            f"{files.texts} texts in the training split and {files.with_neighbors} images with "
            "neighbours, but 'training' uses none of these; add labels, texts or sessions, or "
            "raise the weight of a term under 'training'"
        )


def _check_agreement(files: ExampleFiles, model: ModelConfig, training: TrainingConfig) -> None:
    """ConfigError where nobody would listen to agreement, or say whether it has helped."""
    path, asked = files.version.path, f"model.agreement: {model.agreement!r}"
    if files.spec.multi_label:
        raise ConfigError(
            f"{asked} is of images with one label each, but some in {path} have several; set it to "
            "none"
        )
    if not training.graph_regularization and (
        model.agreement == "gam_no_graph"
        or (not training.edge_contrast and model.graph_network == "none")
    ):
        raise ConfigError(
            f"{asked} is a factor of training.graph_regularization, which is 0; raise it"
        )
    if files.records(VALIDATION) == 0:
        raise ConfigError(
            f"{asked} takes the best iteration by the validation split, which is empty in {path}; "
            "raise examples.split.validation"
        )


def _check_judge(
    files: ExampleFiles, model: ModelConfig, agreement: AgreementConfig, graph: Version | None
) -> None:
    """ConfigError where nothing could be learned of pairs, or is to be learned of no pair."""
    if agreement.always_agree and model.agreement == "gam_no_graph":
        raise ConfigError(
            "agreement.always_agree is of edges, but model.agreement: 'gam_no_graph' compares "
            "images that nothing joins; set model.agreement to gam"
        )
    if files.labelled == 0 and not agreement.always_agree:
        _check_clicks(files, f"model.agreement: {model.agreement!r}", graph)


def _check_clicks(files: ExampleFiles, asked: str, graph: Version | None) -> None:
    """ConfigError where there are no queries in place of labels."""
    path = files.version.path
    if graph is None:
        raise ConfigError(
            f"{asked}: no example of the training split in {path} has a label, and the graph that "
            "they were made of, whose queries could stand in, is gone; make both anew with: "
            f"{schema.STAGE_COMMANDS[schema.EXAMPLES]}"
        )
    if not graph.manifest.get("counts", {}).get("queries", {}).get("published"):
        raise ConfigError(
            f"{asked}: no example of the training split in {path} has a label, and {graph.path} "
            "has no queries to stand in; add labels to the catalog or queries to the logs"
        )


def _is_asked(training: TrainingConfig, term: str) -> bool:
    """Whether a term has a weight that is neither 0 nor the default."""
    default = TrainingConfig.model_fields[term].default
    return getattr(training, term) not in (0, default)
