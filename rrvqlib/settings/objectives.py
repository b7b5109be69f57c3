"""What training can raise: the settings of each kind, and their registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rrvqlib.settings.fields import Kind, Settings, setting

MAX_SAMPLES = 65_536


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings(Settings):
    """What all objectives have."""

    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class ElboSettings(ObjectiveSettings):
    """The ELBO, Eq. (5)."""

    kind: Literal["elbo"] = "elbo"


@dataclass(frozen=True, kw_only=True)
class ScoreFunctionSettings(ObjectiveSettings):
    """Gradients without a relaxation, from several draws."""

    num_samples: int = setting(8, "J, draws an image in training", at_least=2, at_most=MAX_SAMPLES)


@dataclass(frozen=True, kw_only=True)
class LeaveOneOutSettings(ScoreFunctionSettings):
    """Of the ELBO, each draw against the mean of the others."""

    kind: Literal["leave-one-out"] = "leave-one-out"


@dataclass(frozen=True, kw_only=True)
class VimcoSettings(ScoreFunctionSettings):
    """Of the importance-weighted bound."""

    kind: Literal["vimco"] = "vimco"


# The one place that knows all kinds; the first is the default.
OBJECTIVES = {
    "elbo": Kind(ElboSettings),
    "leave-one-out": Kind(
        LeaveOneOutSettings, "rrvqlib.objectives.score_function:leave_one_out_terms"
    ),
    "vimco": Kind(VimcoSettings, "rrvqlib.objectives.score_function:vimco_terms"),
}
