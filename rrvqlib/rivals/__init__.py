"""The rivals of Table 1 and near relatives, built of the same parts and trained alike.

What is a change of one part is a setting of the other models: `--latent nearest` (the two levels
of VQ-VAE-2), `--latent binary` (bits), `--covariance shared` (SQ-VAE). What needs its own
objective is a model here; what learns a prior afterwards is `TwoStageVAE`.
"""

from rrvqlib.models.base import VAE
from rrvqlib.rivals.score_function import VIMCOVAE, LeaveOneOutVAE
from rrvqlib.rivals.two_stage import TwoStageVAE

RIVALS: dict[str, type[VAE]] = {"leave-one-out": LeaveOneOutVAE, "vimco": VIMCOVAE}

__all__ = ["RIVALS", "LeaveOneOutVAE", "TwoStageVAE", "VIMCOVAE"]
