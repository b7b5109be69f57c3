"""What all models share: the ELBO, samples, reconstructions, saving and loading."""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from torch import Tensor, nn

from rrvqlib.configs import ModelConfig
from rrvqlib.convolutions import data_dependent_init
from rrvqlib.elbo import ElboTerms
from rrvqlib.embeddings import Codebook
from rrvqlib.errors import UserError
from rrvqlib.latents import (
    CodebookLatent,
    GaussianLatent,
    LatentDraw,
    NearestLatent,
    StochasticallyQuantizedLatent,
)
from rrvqlib.likelihoods import build_likelihood
from rrvqlib.pixels import check_pixels
from rrvqlib.weights import INDEX, BadWeights, check_weights, read_weights, write_weights


@dataclass(frozen=True)
class Inference:
    """One pass through the inference network and the decoder.

    Attributes:
        parameters: of the likelihood, (B, P, S, S).
        draws: one for each layer, l = 1 first.
    """

    parameters: Tensor
    draws: list[LatentDraw]


class VAE(nn.Module, PyTorchModelHubMixin, ABC):
    """A latent-variable model of 8-bit images; subclasses wire the networks.

    `save_pretrained(DIR)` and `from_pretrained(DIR)` write and read config.json and
    model.safetensors; nothing else is read, pickles least of all.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.likelihood = build_likelihood(config)

    def _save_pretrained(self, save_directory: Path) -> None:
        """What `save_pretrained` turns to for the weights."""
        write_weights(self.state_dict(), save_directory)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        map_location: str = "cpu",
        strict: bool = True,
        **settings: Any,
    ) -> "VAE":
        """What `from_pretrained` turns to; shards are read, pickles are not."""
        directory = model_id
        if not os.path.isdir(model_id):
            directory = snapshot_download(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=["model*.safetensors", INDEX],
            )
        try:
            weights = read_weights(directory)
            check_weights(weights, lambda: cls(**settings), strict)
        except BadWeights as error:
            raise UserError(f"{model_id}: {error}; ask the model's authors for its files") from None
        model = cls(**settings)
        model.load_state_dict(weights, strict=strict)
        return model.to(map_location).eval()

    @abstractmethod
    def infer(self, images: Tensor, temperature: Tensor | None) -> Inference:
        """Draw every layer from its posterior; relaxed at `temperature`, truly when None."""

    @abstractmethod
    def decode_prior(
        self, batch: int, temperature: float = 1.0, keep: Sequence[Tensor] = ()
    ) -> Tensor:
        """Draw every layer from its prior and decode.

        Args:
            batch: B.
            temperature: of the prior; 0 takes its mode.
            keep: code vectors (B, D, H, W) of the topmost layers, topmost last as everywhere:
                these layers are not drawn.

        Returns:
            Parameters of the likelihood, (B, P, S, S).
        """

    def forward(self, images: Tensor, temperature: Tensor | None = None) -> ElboTerms:
        """The terms of the ELBO, Eq. (5).

        Args:
            images: uint8, (B, 3, S, S).
            temperature: of relaxed samples while training; None for categorical ones.

        Returns:
            See `ElboTerms`; with categorical samples it holds `log_ratio` too.

        Raises:
            UserError: the images are of another kind or size, or the weights not float32.
        """
        self._check_input(images)
        inference = self.infer(images, temperature)
        draws = inference.draws
        ratios = [draw.log_ratio for draw in draws]
        penalties = [draw.penalty for draw in draws if draw.penalty is not None]
        return ElboTerms(
            log_likelihood=self.likelihood.log_prob(images, inference.parameters),
            kl_maps=tuple(draw.kl for draw in draws),
            log_ratio=None if ratios[0] is None else sum(ratios),
            penalty=sum(penalties) if penalties else None,
            codes=tuple(draw.codes for draw in draws),
            prior_entropies=tuple(draw.prior_entropy for draw in draws),
        )

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0) -> Tensor:
        """n images from the prior, as the likelihood's means: (n, 3, S, S) in (-1/2, 1/2).

        Raises:
            UserError: n is no whole number from 1, or the temperature none from 0.
        """
        if not isinstance(n, int) or n < 1:
            raise UserError(f"{n} samples: must be a whole number, at least 1")
        if not 0 <= temperature < math.inf:
            raise UserError(f"temperature {temperature}: must be 0 or more, and finite")
        self._check_precision()
        return self.likelihood.mean(self.decode_prior(n, temperature))

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Likelihood means given codes drawn from the posterior: uint8 (B, 3, S, S) -> reals.

        Raises:
            UserError: as the model itself.
        """
        self._check_input(images)
        return self.likelihood.mean(self.infer(images, None).parameters)

    def _check_input(self, images: Tensor) -> None:
        check_pixels(images, self.config.image_size)
        self._check_precision()

    def _check_precision(self) -> None:
        """Weights are float32; autocast computes in less where less will do."""
        kind = next(self.parameters()).dtype
        if kind != torch.float32:
            name = str(kind).removeprefix("torch.")
            raise UserError(
                f"the model's weights are {name}; call model.float(), and use torch.autocast where"
                " speed is wanted"
            )

    @property
    def trained(self) -> nn.Module:
        """The part that training changes."""
        return self

    @torch.no_grad()
    def initialise(self, images: Tensor) -> None:
        """Set gains and biases from a batch of uint8 images, then codebooks where asked.

        Raises:
            UserError: as the model itself.
        """
        self._check_input(images)
        one = torch.ones((), device=images.device)
        was_training = self.training
        self.eval()  # moving averages wait for the first training step
        data_dependent_init(self.trained, lambda: self.infer(images, one))
        if self.config.codebook_init == "kmeans":
            self._init_codebooks(images)
        self.train(was_training)

    def _init_codebooks(self, images: Tensor) -> None:
        """Codebooks from the features that reach them, one layer after the other, top first."""

        def fit(latent: nn.Module, inputs: tuple) -> None:
            posterior = inputs[0]
            latent.codebook.kmeans_(posterior.permute(0, 2, 3, 1).flatten(0, 2))
            if isinstance(latent, NearestLatent):  # or its averages would pull the codes back
                latent.average.reset(latent.codebook)

        latents = [m for m in self.trained.modules() if hasattr(m, "codebook")]
        hooks = [latent.register_forward_pre_hook(fit) for latent in latents]
        try:
            self.infer(images, torch.ones((), device=images.device))
        finally:
            for hook in hooks:
                hook.remove()


def codebook_latent(config: ModelConfig, layer: int, prior: str) -> CodebookLatent:
    """Relaxed latents of one layer (0 is l = 1)."""
    codebook = Codebook(
        config.codes_per_layer[layer], config.code_size, config.covariance, config.codebook_init
    )
    kind = StochasticallyQuantizedLatent if config.covariance == "shared" else CodebookLatent
    return kind(codebook, prior, config.sample)


def nearest_latent(config: ModelConfig, layer: int = 0) -> NearestLatent:
    """The VQ-VAE's latents of one layer (0 is l = 1)."""
    K = config.codes_per_layer[layer]
    codebook = Codebook(K, config.code_size, "fixed", config.codebook_init)
    return NearestLatent(
        codebook,
        config.codebook_update,
        config.commitment,
        config.codebook_decay,
        config.restart_below,
    )


def gaussian_latent(config: ModelConfig, learnt_prior: bool) -> GaussianLatent:
    """The Spatial-VAE's latents."""
    return GaussianLatent(config.code_size, learnt_prior)


__all__ = [
    "VAE",
    "Inference",
    "codebook_latent",
    "gaussian_latent",
    "nearest_latent",
]
