"""What pixels can be, given the decoder's output: the settings of each kind, and their registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rrvqlib.settings.fields import Kind, Settings, setting

MAX_COMPONENTS = 1000


@dataclass(frozen=True, kw_only=True)
class LikelihoodSettings(Settings):
    """What all kinds of likelihoods have."""

    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class GlobalScaleSettings(LikelihoodSettings):
    """Logistics whose scales are learnt, not decoded."""

    scale_per_channel: bool = setting(True, "one scale per colour channel, else one for all")


@dataclass(frozen=True, kw_only=True)
class LogisticSettings(GlobalScaleSettings):
    """Logistics around the decoder's means, with scales of their own (Kingma et al. 2016)."""

    kind: Literal["logistic"] = "logistic"


@dataclass(frozen=True, kw_only=True)
class EdgeLogisticSettings(GlobalScaleSettings):
    """The same, with outermost bins that reach to infinity."""

    kind: Literal["logistic-edge"] = "logistic-edge"


@dataclass(frozen=True, kw_only=True)
class PixelLogisticSettings(LikelihoodSettings):
    """A scale for every sub-pixel."""

    kind: Literal["logistic-pixel"] = "logistic-pixel"


@dataclass(frozen=True, kw_only=True)
class MixtureSettings(LikelihoodSettings):
    """Mixtures of logistics whose channels know of each other (PixelCNN++)."""

    kind: Literal["mixture"] = "mixture"
    components: int = setting(5, "I, logistics of a mixture", at_least=1, at_most=MAX_COMPONENTS)


# The one place that knows all kinds; the first is the default.
LIKELIHOODS = {
    "logistic": Kind(LogisticSettings, "rrvqlib.likelihoods.logistic:Logistic"),
    "logistic-edge": Kind(EdgeLogisticSettings, "rrvqlib.likelihoods.logistic_edge:EdgeLogistic"),
    "logistic-pixel": Kind(
        PixelLogisticSettings, "rrvqlib.likelihoods.logistic_pixel:PixelLogistic"
    ),
    "mixture": Kind(MixtureSettings, "rrvqlib.likelihoods.mixture:LogisticMixture"),
}
