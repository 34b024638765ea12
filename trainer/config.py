"""The configuration of the trainer: sections `model` and `training` of the YAML.

Every key has a default, a range, and its unit in its name or its line.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Width = Annotated[int, Field(ge=1, le=65_536)]
Weight = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """A section of the YAML: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(Section):
    """The towers that look at pictures, ready features and texts."""

    dim: Annotated[int, Field(ge=2, le=4096)] = Field(
        64, description="numbers in an embedding, which has length 1"
    )
    image_filters: Annotated[list[Width], Field(min_length=1, max_length=6)] = Field(
        [32, 64, 192],
        description="channels of the picture tower, one entry a stage; each stage halves the side",
    )
    feature_hidden: list[Width] = Field(
        [256, 256], description="hidden units of the tower for ready features, one entry a layer"
    )
    token_dim: Width = Field(64, description="numbers that stand for a word in the text tower")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.1, description="share of the units left out in training, before each tower's last layer"
    )


class TrainingConfig(Section):
    """How the model learns, and from what."""

    epochs: Annotated[int, Field(ge=1)] = Field(
        28, description="passes over the training split, at most"
    )
    batch_size: Annotated[int, Field(ge=2)] = Field(
        32, description="seed images a step; small ones make more steps of few labels and clicks"
    )
    learning_rate: Annotated[float, Field(gt=0.0)] = Field(
        0.002, description="the highest; it rises over the first steps and falls as a cosine"
    )
    patience: Annotated[int, Field(ge=1)] = Field(
        10, description="epochs without a better validation figure after which training ends"
    )
    neighbors: Annotated[int, Field(ge=0)] = Field(
        1, description="neighbours of a seed a step, drawn by weight; each costs one picture more"
    )
    temperature: Annotated[float, Field(gt=0.0)] = Field(
        0.1, description="of the contrastive terms; a lower one looks more at the hardest negatives"
    )
    supervised: Weight = Field(1.0, description="weight of the cross-entropy of the labels")
    graph_regularization: Weight = Field(
        0.1, description="weight of the distance between neighbours' embeddings"
    )
    edge_contrast: Weight = Field(
        0.5, description="weight of telling neighbours from the other images of the batch"
    )
    text_contrast: Weight = Field(
        1.0, description="weight of telling an image's texts from those of the other images"
    )
    distance: Literal["l1", "l2", "cosine"] = Field(
        "l2", description="between neighbours in graph_regularization; l2 is squared"
    )
    augmentation: Literal["none", "mirror", "turn"] = Field(
        "mirror",
        description="of pictures: mirror takes cut-outs and mirrors them; turn also turns them "
        "upside down and sideways, for pictures without an up and a down",
    )
    shuffle_buffer: Annotated[int, Field(ge=1)] = Field(
        2_048, description="examples shuffled at once, held in memory as they are in the files"
    )
