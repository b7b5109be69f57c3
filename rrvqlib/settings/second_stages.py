"""Priors learnt over the codes of a finished model: the settings of each kind, their registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rrvqlib.settings.fields import Kind, Settings, setting


@dataclass(frozen=True, kw_only=True)
class SecondStageSettings(Settings):
    """What all second stages have."""

    kind: str = ""

    @property
    def by_batch(self) -> bool:
        """Whether a training step needs its whole batch at once, as counts of used codes do."""
        return False


@dataclass(frozen=True, kw_only=True)
class NoSecondStage(SecondStageSettings):
    """The model's own prior."""

    kind: Literal["none"] = "none"


@dataclass(frozen=True, kw_only=True)
class CodePriorSettings(SecondStageSettings):
    """A prior over the codes of a finished, frozen model."""

    prior_channels: int = setting(
        64, "width of the second stage's networks", at_least=1, at_most=65_536
    )
    prior_blocks: int = setting(
        5,
        "gated layers of a PixelCNN; residual blocks of a greedy layer",
        at_least=1,
        at_most=1000,
    )


@dataclass(frozen=True, kw_only=True)
class PixelCNNSettings(CodePriorSettings):
    """A PixelCNN over each grid of codes (VQ-VAE)."""

    kind: Literal["pixelcnn"] = "pixelcnn"


@dataclass(frozen=True, kw_only=True)
class GreedySettings(CodePriorSettings):
    """A layer of relaxed codes above the frozen ones (HQA)."""

    kind: Literal["greedy"] = "greedy"

    @property
    def by_batch(self) -> bool:
        return True


# The one place that knows all kinds; the first is the default.
SECOND_STAGES = {
    "none": Kind(NoSecondStage),
    "pixelcnn": Kind(PixelCNNSettings, "rrvqlib.models.code_priors:PixelCNNPrior"),
    "greedy": Kind(GreedySettings, "rrvqlib.models.code_priors:GreedyPrior"),
}
