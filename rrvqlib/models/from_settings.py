"""Settings -> the model that they name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rrvqlib.settings.fields import load
from rrvqlib.settings.model import MODELS, TWO_STAGES, ModelSettings

if TYPE_CHECKING:
    from rrvqlib.models.base import VAE


def build(settings: ModelSettings) -> VAE:
    """The model that the settings name, with fresh weights."""
    if settings.second_stage.kind != "none":
        return load(TWO_STAGES)(settings, build(settings.first_stage))
    return load(MODELS[settings.kind])(settings)
