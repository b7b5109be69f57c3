"""What a model is; stored in its `config.json`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from rrvqlib.data.registry import MAX_CLASSES
from rrvqlib.settings.fields import SettingError, Settings, Sides, part, setting
from rrvqlib.settings.latents import LATENTS, MAX_WIDTH, CodebookSettings, LatentSettings
from rrvqlib.settings.likelihoods import LIKELIHOODS, LikelihoodSettings
from rrvqlib.settings.objectives import OBJECTIVES, ObjectiveSettings
from rrvqlib.settings.second_stages import SECOND_STAGES, NoSecondStage, SecondStageSettings

# Beyond these a network would not be built in an hour, or fit into any memory; a foreign
# config.json may ask for them.
MAX_LAYERS, MAX_BLOCKS, MAX_SIDE = 1000, 1000, 8192


def parse_sides(text: str) -> Sides:
    """`16*4,8*2,4` -> (16, 16, 16, 16, 8, 8, 4).

    Raises:
        ValueError: it is written otherwise.
    """
    sides: list[int] = []
    for piece in text.replace(" ", "").split(","):
        side, star, times = piece.partition("*")
        count = int(times) if star else 1
        if not 1 <= count <= MAX_LAYERS:
            raise ValueError(piece)
        sides += [int(side)] * count
    return tuple(sides)


MODELS = {
    "hierarchy": "rrvqlib.models.hierarchy:HierarchicalVAE",
    "one-layer": "rrvqlib.models.one_layer:OneLayerVAE",
}
TWO_STAGES = "rrvqlib.models.two_stage:TwoStageVAE"


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Settings):
    """Networks, latents, likelihood, and what training raises."""

    kind: Literal["hierarchy", "one-layer"] = setting(
        "hierarchy",
        "hierarchy (Eq 3-5), or one-layer: with the latents nearest a VQ-VAE, relaxed a relaxed"
        " VQ-VAE, gaussian a Spatial-VAE (App B)",
        flag="model",
    )
    image_size: int = setting(32, "side of the images in pixels", at_least=2, at_most=MAX_SIDE)
    image_channels: int = setting(3, "of the images: 3 (colour) or 1 (grey)", at_least=1, at_most=3)
    classes: int = setting(
        0,
        "of a hierarchy that is told the class of each image: its top vector is one for each of"
        " them; 0: one for all",
        at_least=0,
        at_most=MAX_CLASSES,
    )
    pyramid: Sides = setting(
        (16, 16, 8, 4),
        "side of each layer's grid of latents, l=1 (nearest the pixels) first; 16*8,8*8 repeats",
        at_least=1,
    )
    network: Literal["conv", "mlp"] = setting(
        "conv", "of one-layer models: conv (App B) or mlp (App H)"
    )
    channels: int = setting(64, "width of the networks", at_least=1, at_most=MAX_WIDTH)
    blocks: int = setting(
        1,
        "residual blocks between two layers of latents (hidden layers of mlp)",
        at_least=1,
        at_most=MAX_BLOCKS,
    )
    ladder_blocks: int = setting(
        0,
        "residual blocks in ladders and straps; 0: one convolution",
        at_least=0,
        at_most=MAX_BLOCKS,
    )
    decoder_input: Literal["add", "concat"] = setting(
        "add",
        "how a code joins the decoder: add to its state, or concat inside the residual block",
    )
    init_scale: float = setting(
        0.1, "standard deviation of ladders, straps, branches at init", above=0, at_most=100
    )
    top_prior: Literal["learnt", "uniform"] = setting(
        "learnt",
        "of a hierarchy's top layer: learnt (a tiled vector through pstrap) or uniform (for"
        " Gaussians the standard normal)",
    )
    latent: LatentSettings = part(
        LATENTS,
        "latents",
        "a layer's variables: relaxed (codes, Eq 2 and 6), stochastic (SQ-VAE's), residual"
        " (RSQ-VAE's), nearest (codes, Eq 1), scalar (FSQ: a few rounded numbers), gaussian"
        " (Spatial-VAE), gaussian-mixture (GM-VQ) or binary (bits, by the trapezoid rule)",
    )
    likelihood: LikelihoodSettings = part(
        LIKELIHOODS,
        "likelihood",
        "of the pixels: logistic (Kingma's form, the paper's), logistic-edge (outermost bins reach"
        " to infinity), logistic-pixel (a scale for every sub-pixel), mixture (of logistics, in"
        " which green knows red, and blue both: PixelCNN++)",
    )
    objective: ObjectiveSettings = part(
        OBJECTIVES,
        "model",
        "what training raises: elbo (Eq 5); by the score function, with one layer of relaxed"
        " codes, leave-one-out or vimco",
    )
    second_stage: SecondStageSettings = part(
        SECOND_STAGES,
        "model",
        "a prior learnt over the codes of a finished, frozen run (--start_from): pixelcnn"
        " (VQ-VAE), or greedy, a layer of codes above them (HQA), the pyramid's last",
    )

    def check(self) -> None:
        if self.image_channels == 2:
            raise SettingError("image_channels", 2, "must be 3 (colour) or 1 (grey)")
        self._check_pyramid()
        stacked = self.layers * (self.blocks + 3 * self.ladder_blocks)
        if stacked > 10 * MAX_BLOCKS:
            rule = f"must be fewer: more than {10 * MAX_BLOCKS} blocks in all layers"
            raise SettingError("blocks", self.blocks, rule)
        latent = self.latent
        if isinstance(latent, CodebookSettings) and len(latent.codebook_size) not in (
            1,
            self.layers,
        ):
            rule = f"must be one number, or one for each of the {self.layers} layers of the pyramid"
            raise SettingError("codebook_size", latent.codebook_size, rule)
        one_layer = self.kind == "one-layer"
        if self.classes == 1:
            raise SettingError("classes", 1, "must be 0 (none), or 2 and more")
        if self.classes and (one_layer or self.second_stage.kind != "none"):
            rule = "must be 0, unless the model is a hierarchy of one stage"
            raise SettingError("classes", self.classes, rule)
        if self.objective.kind != "elbo" and not (
            one_layer and latent.score_function and self.second_stage.kind == "none"
        ):
            rule = "must be elbo, unless the model is one layer of relaxed codes"
            raise SettingError("objective", self.objective.kind, rule)
        if self.second_stage.kind != "none":
            self._check_second_stage()

    def _check_second_stage(self) -> None:
        def fail(rule: str) -> None:
            raise SettingError("second_stage", self.second_stage.kind, f"must be none, {rule}")

        latent, one_layer = self.latent, self.kind == "one-layer"
        if not latent.tables or not (one_layer or latent.uniform_prior):
            fail(
                "unless the first stage has codes under uniform priors (one layer of latents"
                " relaxed, stochastic, nearest or scalar; or pixelcnn with a hierarchy of nearest,"
                " scalar or --prior uniform)"
            )
        if any(a and a[0] > 1 for a in self.alphabets):
            fail("unless every position has one code (groups 1)")
        if self.second_stage.kind == "greedy" and not (
            one_layer and isinstance(latent, CodebookSettings)
        ):
            fail(
                "or pixelcnn: greedy wants one layer of codebooks under uniform priors (latents"
                " relaxed, stochastic or nearest)"
            )

    def _check_pyramid(self) -> None:
        def fail(rule: str) -> None:
            raise SettingError("pyramid", self.pyramid, rule)

        if not 1 <= self.layers <= MAX_LAYERS:
            fail(f"must have 1 to {MAX_LAYERS} layers")
        for below, above in pairwise((self.image_size, *self.pyramid)):
            ratio = below // above
            if below != above * ratio or ratio & (ratio - 1):
                fail(f"must stay or halve from the image's side ({self.image_size}) upwards")
        layers = 2 if self.second_stage.kind == "greedy" else 1
        if self.kind == "one-layer" and self.layers != layers:
            sides = "one side, since the model has one layer"
            if layers == 2:
                sides = "two sides, the one layer's and the greedy layer's"
            fail(f"must have {sides}")

    def idle(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self.kind == "hierarchy":
            found["network"] = "in a hierarchy"
        else:
            names = ("ladder_blocks", "decoder_input", "top_prior", "prior")
            found |= dict.fromkeys(names, "in a model of one layer")
        if self.latent.uniform_prior:
            found["top_prior"] = f"with latents {self.latent.kind} whose priors are all uniform"
        if self.objective.kind != "elbo":
            found["relaxation"] = f"with objective {self.objective.kind}"
        return found

    @property
    def first_stage(self) -> ModelSettings:
        """The model whose codes the second stage is about."""
        layers = self.layers - (self.second_stage.kind == "greedy")
        latent = self.latent
        if isinstance(latent, CodebookSettings) and len(latent.codebook_size) > 1:
            latent = replace(latent, codebook_size=latent.codebook_size[:layers])
        return replace(
            self, second_stage=NoSecondStage(), pyramid=self.pyramid[:layers], latent=latent
        )

    @property
    def layers(self) -> int:
        """L."""
        return len(self.pyramid)

    @property
    def dims(self) -> int:
        """Sub-pixels per image, the dims of bits per dim."""
        return self.image_channels * self.image_size**2

    @property
    def positions(self) -> int:
        """Positions of latents per image, summed over the layers."""
        return sum(side**2 for side in self.pyramid)

    @property
    def alphabets(self) -> list[tuple[int, int] | None]:
        """Of each layer, l = 1 first; see `LatentSettings.alphabet`."""
        return [self.latent.alphabet(layer) for layer in range(self.layers)]

    @property
    def rate_ceiling(self) -> float | None:
        """Bits per dim that the codes can carry at most; None where latents are continuous.

        The sum over the layers of positions x symbols x log2 of the values that each can take.
        """
        bits = 0.0
        for side, alphabet in zip(self.pyramid, self.alphabets, strict=True):
            if alphabet is None or self.latent.continuous:
                return None
            symbols, values = alphabet
            bits += side**2 * symbols * math.log2(values)
        return bits / self.dims
