"""What all models share: the ELBO, samples, reconstructions, saving and loading."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from rrvqlib.errors import UserError
from rrvqlib.files import writing
from rrvqlib.latents.base import Latent, LatentDraw
from rrvqlib.likelihoods.base import Likelihood
from rrvqlib.models.checks import (
    check_draws,
    check_input,
    check_labels,
    check_precision,
    check_range,
)
from rrvqlib.models.ready import folder_or_repository
from rrvqlib.models.saved import as_folder, load_model, save_model
from rrvqlib.nets.initialisation import data_dependent_init
from rrvqlib.numerics import total, true_float32
from rrvqlib.objectives.elbo import ElboTerms
from rrvqlib.settings.latents import LATENTS
from rrvqlib.settings.likelihoods import LIKELIHOODS
from rrvqlib.settings.model import ModelSettings
from rrvqlib.settings.objectives import OBJECTIVES


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

    likelihood: Likelihood

    def __init__(self, settings: ModelSettings):
        super().__init__()
        self.settings = settings
        objective = OBJECTIVES[settings.objective.kind]
        self.training_terms: Callable[[VAE, Tensor], ElboTerms] | None = None
        if objective.made_by:
            self.training_terms = objective.load()

    # What a kind of model is.

    @property
    @abstractmethod
    def latents(self) -> list[Latent]:
        """Of all layers, l = 1 first."""

    @abstractmethod
    def infer(
        self, images: Tensor, temperature: Tensor | None, labels: Tensor | None = None
    ) -> Inference:
        """Draw every layer from its posterior.

        Args:
            images: uint8 (B, c, S, S).
            temperature: of relaxed draws; None for true ones.
            labels: int64 (B,), the class of each image, of a model with classes.
        """

    @abstractmethod
    def decode_prior(
        self,
        batch: int,
        temperature: float = 1.0,
        keep: Sequence[Tensor] = (),
        labels: Tensor | None = None,
    ) -> Tensor:
        """Draw every layer from its prior and decode.

        Args:
            batch: B.
            temperature: of the prior; 0 takes its mode.
            keep: code vectors (B, D, H, W) of the topmost layers, topmost last as everywhere:
                these layers are not drawn.
            labels: int64 (B,), the class of each image, of a model with classes.

        Returns:
            Parameters of the likelihood, (B, P, S, S).
        """

    @abstractmethod
    def fit_codebooks(self, images: Tensor, labels: Tensor | None = None) -> None:
        """Set codebooks from the posteriors of uint8 images, one layer after the other."""

    def stage_for(self, settings: ModelSettings) -> VAE:
        """The part that weights of a model with these settings are for: the whole, or a stage."""
        return self

    @property
    def trainable(self) -> nn.Module:
        """The part that training changes."""
        return self

    # What all kinds do with it.

    def forward(
        self, images: Tensor, temperature: Tensor | None = None, labels: Tensor | None = None
    ) -> ElboTerms:
        """The terms of the ELBO, Eq. (5); in training, those of the model's objective.

        Args:
            images: uint8, (B, c, S, S); c is 3, or 1 of a model of grey images.
            temperature: of relaxed samples while training; None for categorical ones.
            labels: int64 (B,), the class of each image, of a model with classes; log p(x) is then
                log p(x | class).

        Returns:
            See `ElboTerms`; with categorical samples it holds `log_ratio` too.

        Raises:
            UserError: the images are of another kind or size, the weights not float32, or there
                are no labels where the model has classes, or the other way round.
        """
        check_input(self, images, labels)
        if temperature is not None and self.training_terms:
            return self.training_terms(self, images)
        inference = self.infer(images, temperature, labels)
        draws = inference.draws
        ratios = [draw.log_ratio for draw in draws if draw.log_ratio is not None]
        losses = [draw.vq_loss for draw in draws if draw.vq_loss is not None]
        return ElboTerms(
            log_likelihood=self.likelihood.log_prob(images, inference.parameters),
            kl_maps=tuple(draw.kl for draw in draws),
            log_ratio=total(ratios) if len(ratios) == len(draws) else None,
            vq_loss=total(losses) if losses else None,
            codes=tuple(draw.codes for draw in draws),
            prior_entropies=tuple(draw.prior_entropy for draw in draws),
        )

    @true_float32()
    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0, labels: Tensor | None = None) -> Tensor:
        """n images from the prior, as the likelihood's means: (n, c, S, S) in [-1/2, 1/2].

        Args:
            n: how many.
            temperature: of the prior; 0 takes its mode.
            labels: int64 (n,), their classes; left out, a model with classes draws them evenly.

        Raises:
            UserError: n is no whole number from 1, the temperature none from 0, or a label no class
                of the model.
        """
        temperature = check_draws(n, temperature)
        check_precision(self)
        if labels is None and self.settings.classes:
            device = next(self.parameters()).device
            labels = torch.randint(self.settings.classes, (n,), device=device)
        check_labels(self.settings.classes, labels, n)
        check_range(self.settings.classes, labels)
        return self.likelihood.mean(self.decode_prior(n, temperature, labels=labels))

    @true_float32()
    @torch.no_grad()
    def reconstruct(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Likelihood means given codes drawn from the posterior: uint8 (B, c, S, S) -> reals.

        Args:
            images: see the model itself.
            labels: int64 (B,), of a model with classes.

        Raises:
            UserError: as the model itself; or a label is no class of the model.
        """
        check_input(self, images, labels)
        check_range(self.settings.classes, labels)
        return self.likelihood.mean(self.infer(images, None, labels).parameters)

    def fast_parameters(self) -> Iterator[nn.Parameter]:
        """Those that learn at the codebooks' rate."""
        for latent in self.latents:
            yield from latent.fast_parameters()
        yield from self.likelihood.fast_parameters()

    @true_float32()
    @torch.no_grad()
    def initialise(self, images: Tensor, labels: Tensor | None = None) -> None:
        """Set gains and biases from a batch of uint8 images, then codebooks where asked.

        Args:
            images: see the model itself.
            labels: int64 (B,), of a model with classes.

        Raises:
            UserError: as the model itself.
        """
        check_input(self, images, labels)
        one = torch.ones((), device=images.device)
        was_training = self.training
        self.eval()  # moving averages wait for the first training step
        data_dependent_init(self.trainable, lambda: self.infer(images, one, labels))
        if self.settings.latent.starts_from_features:
            self.fit_codebooks(images, labels)
        self.train(was_training)

    # Saving and loading, for huggingface_hub.

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> str | None:
        """Write config.json and model.safetensors into a folder, made where there is none.

        Args:
            save_directory: the folder.
            kwargs: see huggingface_hub.

        Raises:
            UserError: it cannot be made, or written to.
        """
        directory = as_folder(save_directory)
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        return super().save_pretrained(directory, **kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        """What `save_pretrained` turns to."""
        save_model(self, save_directory)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        map_location: str | torch.device = "cpu",
        strict: bool = True,
        **hub: Any,
    ) -> VAE:
        """The model of a folder or of a repository on the Hub; shards are read, pickles are not.

        Args:
            pretrained_model_name_or_path: the folder, or OWNER/NAME.
            map_location: the device.
            strict: whether missing weights, and weights of no use, are refused.
            hub: how a repository is fetched, see `folder_or_repository`.

        Raises:
            UserError: it is missing, damaged, or a model of another kind.
        """
        name = pretrained_model_name_or_path
        directory = folder_or_repository(name, **hub)
        model = load_model(directory, strict=strict)
        if not isinstance(model, cls):
            raise UserError(f"{name} is a {type(model).__name__}; call its from_pretrained")
        return model.to(map_location)


def build_likelihood(settings: ModelSettings) -> Likelihood:
    """The likelihood that a model's settings name."""
    kind = LIKELIHOODS[settings.likelihood.kind].load()
    return kind.from_settings(settings.likelihood, settings.image_channels)


def build_latent(settings: ModelSettings, layer: int, *, learnt_prior: bool) -> Latent:
    """The latents of a layer (0 is l = 1) that a model's settings name."""
    kind = LATENTS[settings.latent.kind].load()
    return kind.from_settings(settings.latent, layer, learnt_prior=learnt_prior)


L = TypeVar("L", bound=Latent)


def only(kind: type[L], latents: Sequence[Latent]) -> list[L]:
    """The same latents, which must be of a kind: what asks for codes gets codes.

    Raises:
        UserError: those of a layer are not.
    """
    found = [latent for latent in latents if isinstance(latent, kind)]
    if len(found) < len(latents):
        have = ", ".join(sorted({type(latent).__name__ for latent in latents}))
        raise UserError(f"a model of {have} has no {kind.__name__} in every layer; choose another")
    return found
