"""The configuration of the trainer: sections `model` and `training` of the YAML.

Every key has a default, a range, and its unit in its name or its line.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Width = Annotated[int, Field(ge=1, le=65_536)]
Weight = Annotated[float, Field(ge=0.0)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Aggregation = Literal["dist", "add", "concat", "project_dist", "project_add", "project_concat"]


class Section(BaseModel):
    """A section of the YAML: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(Section):
    """The towers that look at pictures, ready features and texts."""

    dim: Annotated[int, Field(ge=2, le=4096)] = Field(
        64, description="numbers in an embedding, which has length 1"
    )
    size: Literal["tiny", "small", "base"] = Field(
        "small", description="of all towers; the keys that are null follow it"
    )
    image_tower: str = Field(
        "residual",
        description="of pictures: residual (our small network), or a class of keras.applications "
        "such as MobileNetV3Small",
    )
    backbone_weights: str | None = Field(
        None,
        description="a local .weights.h5 or .keras file of that class without its top; nothing is "
        "downloaded; null: begins at random",
    )
    fine_tune: bool = Field(
        False, description="whether that class's own weights are trained too, or stay as they are"
    )
    image_filters: Annotated[list[Width], Field(min_length=1, max_length=6)] | None = Field(
        None,
        description="channels of the residual tower, one entry a stage; each stage halves the side",
    )
    feature_hidden: list[Width] | None = Field(
        None, description="hidden units of the tower for ready features, one entry a layer"
    )
    token_dim: Width | None = Field(
        None, description="numbers that stand for a word in the text tower"
    )
    text_pooling: Literal["attention", "mean"] = Field(
        "attention", description="words of a text count by learned weights, or all alike"
    )
    graph_network: Literal["none", "gcn", "message_passing"] = Field(
        "none",
        description="none: the graph only shapes what is learned; else an image's embedding is "
        "made of its neighbours' too, where it has some",
    )
    agreement: Literal["none", "gam", "gam_no_graph"] = Field(
        "none",
        description="whether it is learned which edges to trust, and images are labelled in turns: "
        "gam, or gam_no_graph, of pairs that need be no edges",
    )
    dropout: Share = Field(
        0.1, description="share of the units left out in training, before each tower's last layer"
    )


class TrainingConfig(Section):
    """How the model learns, and from what."""

    epochs: Annotated[int, Field(ge=1)] = Field(
        28, description="passes over the training split, at most"
    )
    batch_size: Annotated[int, Field(ge=2)] = Field(
        32,
        description="seed images a step, of all devices together; small ones make more steps of "
        "few labels and clicks",
    )
    learning_rate: Annotated[float, Field(gt=0.0)] = Field(0.002, description="the highest")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="of the learning rate after the warm-up: falls to 1 %, or stays"
    )
    warmup: Share = Field(
        0.05, description="share of the steps in which the learning rate rises from nearly 0"
    )
    weight_decay: Weight = Field(0.01, description="of AdamW, a step, times the learning rate")
    clip_norm: Annotated[float, Field(gt=0.0)] | None = Field(
        1.0, description="longest gradient over all weights; null: as it comes"
    )
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = Field(
        "float32", description="of the towers' arithmetic; weights and losses stay float32"
    )
    patience: Annotated[int, Field(ge=1)] = Field(
        10, description="epochs without a better validation figure after which training ends"
    )
    checkpoint_minutes: Annotated[float, Field(gt=0.0)] = Field(
        10.0, description="between checkpoints, from which a stopped training goes on"
    )
    neighbors: Annotated[int, Field(ge=0)] = Field(
        1, description="neighbours of a seed a step, drawn by weight; each costs one picture more"
    )
    neighbor_dropout: Share = Field(
        0.3,
        description="share of the seeds that a graph_network sees without their neighbours in "
        "training, so that it serves images that have none",
    )
    temperature: Annotated[float, Field(gt=0.0)] = Field(
        0.1, description="of the contrastive terms; a lower one looks more at the hardest negatives"
    )
    logq_correction: Literal["none", "batch", "popularity"] = Field(
        "batch",
        description="popular images stand in more batches, and would be pushed away more often: "
        "corrects by how often an image is in the batch, or by how often to be expected",
    )
    hard_negatives: Annotated[int, Field(ge=0)] = Field(
        0, description="negatives of an image that count, the hardest of its batch; 0: all"
    )
    hard_negatives_after: Share = Field(
        0.3, description="share of the steps after which hard_negatives holds"
    )
    supervised: Weight = Field(1.0, description="weight of the cross-entropy of the labels")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: labels count in inverse proportion to their frequency"
    )
    sampled_softmax_above: Annotated[int, Field(ge=1)] = Field(
        10_000, description="classes above which a step looks at sampled_classes of them only"
    )
    sampled_classes: Annotated[int, Field(ge=1)] = Field(
        1_000, description="classes a step that are drawn beside those of its labels"
    )
    graph_regularization: Weight = Field(
        0.1, description="weight of the distance between neighbours"
    )
    regularized: Literal["embedding", "logits", "probabilities"] = Field(
        "embedding", description="what of two neighbours is compared in graph_regularization"
    )
    distance: Literal["l1", "l2", "cosine", "kl_divergence", "jensen_shannon_divergence"] = Field(
        "l2",
        description="between neighbours in graph_regularization; l2 is squared; the divergences "
        "are of probabilities",
    )
    graph_loss_normalization: Literal["readout", "nonzero", "weighted_mean"] = Field(
        "readout",
        description="an image's distances over its weighted degree, then the mean of the images; "
        "or the sum of all weighted distances over the number of edges, or over their weights",
    )
    graph_loss_over: Literal["all", "connected"] = Field(
        "all", description="images of that mean: all, those without neighbours at 0; or the others"
    )
    edge_contrast: Weight = Field(
        0.5, description="weight of telling neighbours from the other images of the batch"
    )
    text_contrast: Weight = Field(
        1.0, description="weight of telling an image's texts from those of the other images"
    )
    augmentation: Literal["none", "mirror", "turn"] = Field(
        "mirror",
        description="of pictures: mirror takes cut-outs and mirrors them; turn also turns them "
        "upside down and sideways, for pictures without an up and a down",
    )
    shuffle_buffer: Annotated[int, Field(ge=1)] = Field(
        2_048, description="examples shuffled at once, held in memory as they are in the files"
    )


class AgreementConfig(Section):
    """Edges judged and images labelled in turns with training, where model.agreement asks for it.

    Graph agreement models, Stretcu et al., NeurIPS 2019; the defaults are ours where their own do
    badly with few labels. A turn is a training, what it labels, and what is learned of edges.
    """

    iterations: Annotated[int, Field(ge=1)] = Field(
        5, description="trainings after the plain first one, at most; ends when nothing new is sure"
    )
    samples_to_label: Annotated[int, Field(ge=0)] = Field(
        200, description="images a turn that get the label which the model gives them, at most"
    )
    min_confidence: Share = Field(
        0.5, description="probability that a label must exceed before an image is given it"
    )
    keep_proportions: bool = Field(
        True, description="whether new labels are shared among classes as the known ones are"
    )
    sticky_labels: bool = Field(
        True,
        description="whether a label once given stays; else each turn gives all of them anew, and "
        "samples_to_label more than the last one",
    )
    always_agree: bool = Field(
        False,
        description="whether all edges count alike and nothing is learned of them: graph "
        "regularization with self-training, to see what agreement adds",
    )
    weight_ll: Weight = Field(0.0, description="in the loss, of pairs of two labelled images")
    weight_lu: Weight = Field(1.0, description="of a labelled image and one without a label")
    weight_uu: Weight = Field(0.5, description="of two images without a label")
    penalize_negative: bool = Field(
        False, description="whether a pair counts by what its agreement exceeds a half, or by all"
    )
    uu_target: Literal["both", "stopgrad"] = Field(
        "both", description="of two images without a label: both are pulled, or the first one stays"
    )
    aggregation: Aggregation = Field(
        "dist",
        description="of two encoded images in the agreement model: squared difference, sum, or "
        "side by side; project: after another shared layer",
    )
    hidden: Annotated[list[Width], Field(min_length=1)] = Field(
        [128], description="units of the agreement model's encoder, one entry a layer"
    )
    pair_source: Literal["labelled_pairs", "edges"] = Field(
        "labelled_pairs",
        description="what the agreement model learns from: all pairs of labelled images and edges "
        "among them, or, as published, these edges alone",
    )
    edge_features: bool = Field(
        True, description="whether it also sees what the logs tell of an edge"
    )
    calibrate: bool = Field(
        True, description="whether its probabilities are set right on held-out pairs"
    )
    class_evidence: bool = Field(
        True,
        description="whether an edge is also judged by the classes that the last turn's model sees "
        "in both images",
    )
    edge_prior: bool = Field(
        True,
        description="whether as many edges agree as seem to, rather than half of them; only where "
        "classes are trained",
    )
    learning_rate: Annotated[float, Field(gt=0.0)] = Field(0.002, description="of that model")
    steps: Annotated[int, Field(ge=1)] = Field(800, description="of that model, at most")
    patience: Annotated[int, Field(ge=1)] = Field(
        150, description="its steps without a better figure on held-out pairs, then it ends"
    )
    batch: Annotated[int, Field(ge=2)] = Field(
        128, description="pairs a step of it, half of which agree"
    )
    decay: Weight = Field(0.0, description="of its weights, squared and halved, in its loss")
    min_auc: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.6,
        description="how well it must tell held-out pairs apart; else no edge is judged by it, and "
        "by classes alone only where these do",
    )
    min_positive_pairs: Annotated[int, Field(ge=1)] = Field(
        20, description="pairs that agree, without which no edge is judged by it"
    )
