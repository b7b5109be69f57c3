"""What a layer's variables can be: the settings of each kind, and their registry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rrvqlib.settings.fields import Kind, SettingError, Settings, Sides, setting

MAX_WIDTH = 65_536


@dataclass(frozen=True, kw_only=True)
class LatentSettings(Settings):
    """What all kinds of latents have."""

    kind: str = ""
    embedding_dim: int = setting(
        32,
        "D, size of a code; numbers or bits in other latents",
        at_least=1,
        at_most=MAX_WIDTH,
    )

    @property
    def starts_from_features(self) -> bool:
        """Whether codes are set from the first batch."""
        return False

    @property
    def by_batch(self) -> bool:
        """Whether a training step needs its whole batch at once, as moving averages do."""
        return False

    @property
    def relaxes(self) -> bool:
        """Whether training draws from a relaxation, which has a temperature."""
        return False

    @property
    def fixed_rate(self) -> bool:
        """Whether q is sure of its code and p of none, so that a code costs log K, always."""
        return False

    @property
    def uniform_prior(self) -> bool:
        """Whether p is uniform in every layer of a hierarchy, whatever the layers above say."""
        return self.fixed_rate

    @property
    def continuous(self) -> bool:
        """Whether the decoder sees numbers that no symbol tells."""
        return self.alphabet(0) is None

    @property
    def tables(self) -> bool:
        """Whether they are a `DiscreteLatent`, with tables for codecs and second stages."""
        return not self.continuous

    @property
    def score_function(self) -> bool:
        """Whether objectives that need no relaxation can train these codes."""
        return False

    def alphabet(self, layer: int) -> tuple[int, int] | None:
        """Symbols at a position, and how many values each has; None where there are none.

        Args:
            layer: 0 is l = 1.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class CodebookSettings(LatentSettings):
    """What latents with a codebook have."""

    codebook_size: Sides = setting(
        (256,),
        "K, codes of a codebook; one number, or one per layer",
        at_least=1,
        at_most=MAX_WIDTH,
    )
    codebook_init: Literal["normal", "unit", "kmeans"] = setting(
        "normal", "normal (std D^-1/2), unit (std 1) or kmeans (of the first batch's features)"
    )

    def check(self) -> None:
        if not self.codebook_size:
            raise SettingError("codebook_size", (), "must be one number, or one per layer")

    @property
    def starts_from_features(self) -> bool:
        return self.codebook_init == "kmeans"

    def size(self, layer: int) -> int:
        """K of a layer; 0 is l = 1."""
        return self.codebook_size[layer if len(self.codebook_size) > 1 else 0]

    def alphabet(self, layer: int) -> tuple[int, int]:
        """One code."""
        return 1, self.size(layer)


@dataclass(frozen=True, kw_only=True)
class RelaxedDrawSettings(CodebookSettings):
    """Codes that are drawn, by a relaxation in training."""

    relaxation: Literal["straight-through", "reinmax", "soft"] = setting(
        "straight-through", "of draws in training: straight-through, reinmax or soft"
    )

    @property
    def relaxes(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class LearntPriorSettings(RelaxedDrawSettings):
    """Codes that layers above can tell something of."""

    prior: Literal["embedding", "direct", "uniform"] = setting(
        "embedding",
        "p(z_l | above): embedding (Eq 7), direct (softmax of logits) or uniform (1/K, as in"
        " SQ-VAE-2)",
    )

    @property
    def uniform_prior(self) -> bool:
        return self.prior == "uniform"


@dataclass(frozen=True, kw_only=True)
class RelaxedSettings(LearntPriorSettings):
    """Codes whose posterior is the responsibilities of the codebook, Eq. (2) and (6)."""

    kind: Literal["relaxed"] = "relaxed"
    covariance: Literal["isotropic", "diagonal", "as_printed", "fixed"] = setting(
        "isotropic",
        "of codes: isotropic (correct normaliser), diagonal, as_printed (Eq 6), fixed (Eq 2)",
    )
    groups: int = setting(
        1,
        "G, codebooks that share a vector's D numbers; each sends a code at every position",
        at_least=1,
        at_most=MAX_WIDTH,
    )

    def check(self) -> None:
        super().check()
        if self.embedding_dim % self.groups:
            raise SettingError(
                "groups", self.groups, f"must divide embedding_dim, {self.embedding_dim}"
            )

    def alphabet(self, layer: int) -> tuple[int, int]:
        """G codes."""
        return self.groups, self.size(layer)

    @property
    def score_function(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class StochasticSettings(LearntPriorSettings):
    """SQ-VAE's codes: one variance for all of them, and a Gaussian term in training."""

    kind: Literal["stochastic"] = "stochastic"


@dataclass(frozen=True, kw_only=True)
class ResidualSettings(RelaxedDrawSettings):
    """RSQ-VAE's codes, each for what the former ones left over."""

    kind: Literal["residual"] = "residual"
    stages: int = setting(
        4,
        "codes at a position of residual latents, each from a codebook of its own",
        at_least=1,
        at_most=1000,
    )

    @property
    def uniform_prior(self) -> bool:
        return True

    @property
    def tables(self) -> bool:
        return False

    def alphabet(self, layer: int) -> tuple[int, int]:
        """A code of every stage."""
        return self.stages, self.size(layer)


@dataclass(frozen=True, kw_only=True)
class NearestSettings(CodebookSettings):
    """The VQ-VAE's codes, Eq. (1)."""

    kind: Literal["nearest"] = "nearest"
    codebook_update: Literal["ema", "loss"] = setting(
        "ema", "nearest codes learn by moving averages (ema) or by a loss"
    )
    commitment: float = setting(0.25, "beta, weight of the commitment loss", at_least=0)
    codebook_decay: float = setting(0.99, "decay of the moving averages", above=0, below=1)
    dead_code_threshold: float = setting(
        0.1, "restart codes used less often than this per batch; 0: never", at_least=0
    )

    @property
    def by_batch(self) -> bool:
        return True

    @property
    def fixed_rate(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class ScalarSettings(LatentSettings):
    """FSQ's numbers, each rounded to one of a few values."""

    kind: Literal["scalar"] = "scalar"
    levels: Sides = setting(
        (8, 6, 5),  # 240 codes: the paper's choice for about 2^8
        "values of each of the numbers of a scalar code, 8,6,5: three numbers, 240 codes",
        at_least=2,
        at_most=MAX_WIDTH,
    )

    def check(self) -> None:
        if not self.levels or math.prod(self.levels) > MAX_WIDTH:
            rule = f"must be one number or more, their product at most {MAX_WIDTH:,}"
            raise SettingError("levels", self.levels, rule)

    def idle(self) -> dict[str, str]:
        return {"embedding_dim": "with latents scalar, whose levels are as many as their numbers"}

    @property
    def fixed_rate(self) -> bool:
        return True

    def alphabet(self, layer: int) -> tuple[int, int]:
        """One code."""
        return 1, math.prod(self.levels)


@dataclass(frozen=True, kw_only=True)
class GaussianSettings(LatentSettings):
    """The Spatial-VAE's Gaussians."""

    kind: Literal["gaussian"] = "gaussian"


@dataclass(frozen=True, kw_only=True)
class GaussianMixtureSettings(RelaxedDrawSettings):
    """GM-VQ's codes, each with a Gaussian from which the decoder's vector is drawn."""

    kind: Literal["gaussian-mixture"] = "gaussian-mixture"

    @property
    def by_batch(self) -> bool:
        return True

    @property
    def uniform_prior(self) -> bool:
        return True

    @property
    def continuous(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class BinarySettings(LatentSettings):
    """Bits."""

    kind: Literal["binary"] = "binary"

    def alphabet(self, layer: int) -> tuple[int, int]:
        """D bits."""
        return self.embedding_dim, 2


# All kinds, the first is the default. What the rest must know of a kind, its settings say.
LATENTS = {
    "relaxed": Kind(RelaxedSettings, "rrvqlib.latents.relaxed:RelaxedLatent"),
    "stochastic": Kind(StochasticSettings, "rrvqlib.latents.stochastic:StochasticLatent"),
    "residual": Kind(ResidualSettings, "rrvqlib.latents.residual:ResidualLatent"),
    "nearest": Kind(NearestSettings, "rrvqlib.latents.nearest:NearestLatent"),
    "scalar": Kind(ScalarSettings, "rrvqlib.latents.scalar:ScalarLatent"),
    "gaussian": Kind(GaussianSettings, "rrvqlib.latents.gaussian:GaussianLatent"),
    "gaussian-mixture": Kind(
        GaussianMixtureSettings, "rrvqlib.latents.gaussian_mixture:GaussianMixtureLatent"
    ),
    "binary": Kind(BinarySettings, "rrvqlib.latents.binary:BinaryLatent"),
}
