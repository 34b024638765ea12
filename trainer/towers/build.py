"""The towers that a configuration asks for: the one place where `model.size` becomes numbers."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from pipeline.errors import ConfigError
from trainer.config import ModelConfig
from trainer.towers.backbones import BackboneTower
from trainer.towers.features import FeatureTower
from trainer.towers.pictures import Channels, PictureTower
from trainer.towers.texts import TextTower

RESIDUAL = "residual"


@dataclass(frozen=True)
class Sizes:
    """How wide the towers are."""

    image_filters: tuple[int, ...]
    feature_hidden: tuple[int, ...]
    token_dim: int
    text_hidden: int  # times the embedding's dim


SIZES = {
    "tiny": Sizes((16, 32, 64), (128,), 32, 1),
    "small": Sizes((32, 64, 192), (256, 256), 64, 2),
    "base": Sizes((64, 128, 256, 512), (512, 512), 128, 4),
}


def resolve_sizes(config: ModelConfig) -> Sizes:
    """The widths of `model.size`, but for the keys that are set themselves."""
    sizes = SIZES[config.size]
    return Sizes(
        tuple(config.image_filters or sizes.image_filters),
        sizes.feature_hidden if config.feature_hidden is None else tuple(config.feature_hidden),
        config.token_dim or sizes.token_dim,
        sizes.text_hidden,
    )


def image_tower(
    config: ModelConfig, *, channels: Channels | None, image_size: int | None, augmentation: str
) -> keras.Model:
    """The tower for pictures; without channels, for ready features."""
    sizes = resolve_sizes(config)
    if config.image_tower == RESIDUAL and config.backbone_weights is not None:
        raise ConfigError(
            f"model.backbone_weights: {config.backbone_weights!r} is for a class of "
            f"keras.applications, but model.image_tower is {RESIDUAL!r}; name the class there"
        )
    if channels is None:
        if config.image_tower != RESIDUAL:
            raise ConfigError(
                f"model.image_tower: {config.image_tower!r} is for pictures, but the catalog's "
                f"images are ready features; leave it at {RESIDUAL!r}"
            )
        return FeatureTower(dim=config.dim, hidden=sizes.feature_hidden, dropout=config.dropout)
    if config.image_tower == RESIDUAL:
        return PictureTower(
            dim=config.dim,
            filters=sizes.image_filters,
            dropout=config.dropout,
            augmentation=augmentation,
            channels=channels,
        )
    if image_size is None:
        raise ValueError(f"image_size is None; {config.image_tower} must know it")
    return BackboneTower(config, image_size=image_size, augmentation=augmentation)


def text_tower(config: ModelConfig, num_tokens: int) -> keras.Model:
    """The tower for texts of the tokens 0 to num_tokens - 1."""
    sizes = resolve_sizes(config)
    return TextTower(
        dim=config.dim,
        num_tokens=num_tokens,
        token_dim=sizes.token_dim,
        hidden=sizes.text_hidden * config.dim,
        pooling=config.text_pooling,
        dropout=config.dropout,
    )
