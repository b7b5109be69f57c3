"""Images <-> one stack of bits, at the price that a hierarchy's probabilities put on them.

Lossy: the codes of Appendix F, coded under the learnt prior. Lossless: bits-back coding (Frey and
Hinton 1997; Townsend et al. 2019), whose net length is the negative ELBO.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rrvqlib.coding.stack import (
    FOREIGN,
    FREQUENCY_BITS,
    NIBBLE,
    Stack,
    high_masses,
    low_masses,
)
from rrvqlib.data.pixels import check_pixels
from rrvqlib.errors import UserError
from rrvqlib.latents.base import DiscreteLatent
from rrvqlib.latents.codebook import Codebook
from rrvqlib.likelihoods.base import pixels_to_reals, reals_to_pixels
from rrvqlib.models.base import VAE, only
from rrvqlib.models.hierarchy import HierarchicalVAE
from rrvqlib.nets.convolutions import Normed
from rrvqlib.numerics import check_finite

WORD = np.dtype("<u4")
MARGIN = 4  # words of initial bits kept below the lowest that was touched: the coder's head


@dataclass(frozen=True)
class Coded:
    """A coded chain of images.

    Attributes:
        words: uint32.
        net_bits: what the images added to the stack.
        initial_bits: what lay on it before, and will again after decoding.
    """

    words: np.ndarray
    net_bits: int
    initial_bits: int


@contextmanager
def _reproducible() -> Iterator[None]:
    """One thread, so that sums are always taken in the same order; no gradients."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(threads)


def rows(log_probabilities: Tensor) -> Tensor:
    """Of one image, (1, H, W, G, K) nats -> probabilities (N, K) of its N symbols."""
    return log_probabilities.flatten(0, -2).exp()


def likeliest(log_probabilities: Tensor) -> Tensor:
    """Codes (..., G) of a table (..., G, K), which must be of numbers."""
    check_finite("probabilities", log_probabilities.exp())
    return log_probabilities.argmax(-1)


class Codec:
    """Codes images with a hierarchy of symbols, one image at a time.

    Every image goes through the network alone, in double precision and on one thread: whoever
    decodes computes the same whole numbers, whatever else is coded beside it.

    Args:
        model: the hierarchy; it is copied.

    Raises:
        UserError: the model is not a hierarchy of codes with tables of probabilities, or has
            classes.
    """

    def __init__(self, model: VAE):
        if not isinstance(model, HierarchicalVAE) or not model.settings.latent.tables:
            raise UserError(
                "only hierarchies of codes or bits compress: --model hierarchy, --latent relaxed,"
                " stochastic, nearest, scalar or binary"
            )
        if model.settings.classes:
            raise UserError(
                "a model with classes does not compress: a file holds no classes; take one without"
            )
        self.model = copy.deepcopy(model).cpu().double().eval()
        latents = only(DiscreteLatent, self.model.latents)
        self.layers = list(zip(self.model.layers, latents, strict=True))  # l = 1 first
        with _reproducible():  # weights that never change are normed once, not for every image
            for part in self.model.modules():
                if isinstance(part, Normed):
                    part.prepared = part.weight, part.bias
                elif isinstance(part, Codebook):
                    part.prepared = part.terms

    def _checked(self, image: Tensor) -> Tensor:
        """uint8 (c, S, S) -> (1, c, S, S) on the CPU."""
        batch, settings = image.unsqueeze(0).cpu(), self.model.settings
        check_pixels(batch, settings.image_size, settings.image_channels)
        return batch

    def _features(self, image: Tensor) -> list[Tensor]:
        return self.model.encoder(pixels_to_reals(image).double())

    # Pixels: of every channel the high four bits, then the low four. Two tables of 16 masses take
    # 34 values of a distribution function, one of 256 takes 257.

    def _push_pixels(self, stack: Stack, image: Tensor, parameters: Tensor) -> None:
        for c in reversed(
            range(image.shape[1])
        ):  # blue is popped last, when red and green are known
            channel = self.model.likelihood.next_channel(parameters, image[:, :c])
            high, low = (image[:, c] // NIBBLE).flatten().long(), (image[:, c] % NIBBLE).flatten()
            stack.push(low.long(), low_masses(channel, high))
            stack.push(high, high_masses(channel))

    def _pop_pixels(self, stack: Stack, parameters: Tensor) -> Tensor:
        B, _, *sides = parameters.shape
        image = torch.empty(B, 0, *sides, dtype=torch.uint8)
        for _ in range(self.model.settings.image_channels):
            channel = self.model.likelihood.next_channel(parameters, image)
            high = stack.pop(high_masses(channel))
            low = stack.pop(low_masses(channel, high))
            values = (NIBBLE * high + low).to(torch.uint8).view(B, 1, *sides)
            image = torch.cat([image, values], dim=1)
        return image

    # Without loss. The hierarchy's loop again; here a stack says what is drawn.

    def _initial_words(self) -> np.ndarray:
        """Arbitrary but known bits to begin with: after decoding they must be there again.

        A sample of the first image's posterior pops at most `FREQUENCY_BITS` a symbol; what was
        not touched is not kept.
        """
        symbols = sum(
            side**2 * latent.symbols
            for side, (_, latent) in zip(self.model.settings.pyramid, self.layers, strict=True)
        )
        count = FREQUENCY_BITS * symbols // 32 + 64
        return np.frombuffer(hashlib.shake_256(b"rrvqlib").digest(4 * count), WORD)

    def _push_image(self, stack: Stack, image: Tensor) -> int:
        """Returns the fewest words that lay on the stack meanwhile."""
        state, sent = self.model.decoder.top(1), []
        features = self._features(image)
        for (layer, latent), feature in zip(reversed(self.layers), reversed(features), strict=True):
            prior = rows(latent.log_prior(layer.prior(state)))
            posterior = latent.log_posterior(layer.posterior(feature, state))
            codes = stack.pop(rows(posterior))
            state = layer.decode(state, latent.lookup(codes.view(posterior.shape[:-1])))
            sent.append((codes, prior))
        fewest = len(stack)
        self._push_pixels(stack, image, self.model.decoder.head(state))
        for codes, prior in reversed(sent):  # the top is popped first
            stack.push(codes, prior)
        return fewest

    def _pop_image(self, stack: Stack) -> Tensor:
        state, received = self.model.decoder.top(1), []
        for layer, latent in reversed(self.layers):
            prior = latent.log_prior(layer.prior(state))
            codes = stack.pop(rows(prior))
            received.append((codes, state))
            state = layer.decode(state, latent.lookup(codes.view(prior.shape[:-1])))
        image = self._pop_pixels(stack, self.model.decoder.head(state))
        if len(stack) < MARGIN:  # `encode` has kept as many below the lowest point
            raise UserError(FOREIGN)
        features = self._features(image)
        for (layer, latent), feature in zip(self.layers, features, strict=True):
            codes, state = received.pop()  # l = 1 was popped last
            stack.push(codes, rows(latent.log_posterior(layer.posterior(feature, state))))
        return image

    def encode(self, images: Iterable[Tensor]) -> Coded:
        """Code uint8 images (c, S, S) without loss, in one chain.

        Raises:
            UserError: an image is not of this kind or size.
        """
        stack = Stack(self._initial_words(), initial=True)
        before, fewest = stack.bits, len(stack)
        with _reproducible():
            for image in images:
                fewest = min(fewest, self._push_image(stack, self._checked(image)))
        unused = max(0, fewest - MARGIN)
        return Coded(stack.words()[unused:], stack.bits - before, before - 32 * unused)

    def decode(
        self, words: np.ndarray, count: int, done: Callable[[Tensor], object] | None = None
    ) -> list[Tensor]:
        """The images (c, S, S) of `encode`, in order; `done` is told of each, the last first.

        Raises:
            UserError: the words are not what `encode` of this model wrote.
        """
        stack, images = Stack(words), []
        with _reproducible():
            for _ in range(count):
                images.append(self._pop_image(stack)[0])
                if done:
                    done(images[-1])
        try:
            left = stack.words(initial=True)
        except (ValueError, AssertionError):  # how the coder says that it does not fit
            left = np.zeros(0, np.uint32)
        if not len(left) or not np.array_equal(left, self._initial_words()[-len(left) :]):
            raise UserError(FOREIGN)
        return images[::-1]

    # With loss: the most probable codes of the topmost layers, the prior's mode below.

    def encode_codes(self, images: Iterable[Tensor], layers: int) -> tuple[Coded, list[Tensor]]:
        """Code the codes of the topmost `layers` layers under the prior.

        Returns:
            The chain, and the images (c, S, S) that the decoder will see.

        Raises:
            UserError: an image is not uint8 (c, S, S), or there are not so many layers.
        """
        if not 1 <= layers <= len(self.layers):
            raise UserError(f"{layers} layers: this model has 1 to {len(self.layers)}")
        stack, seen = Stack(), []
        with _reproducible():
            for image in images:
                seen.append(self._push_codes(stack, self._checked(image), layers)[0])
        return Coded(stack.words(), stack.bits, 0), seen

    def _push_codes(self, stack: Stack, image: Tensor, layers: int) -> Tensor:
        """Returns what the decoder will see, (1, c, S, S)."""
        state, sent = self.model.decoder.top(1), []
        features = self._features(image)
        for (layer, latent), feature in zip(reversed(self.layers), reversed(features), strict=True):
            prior = latent.log_prior(layer.prior(state))
            codes = likeliest(prior)
            if len(sent) < layers:
                codes = likeliest(latent.log_posterior(layer.posterior(feature, state)))
                sent.append((codes.flatten(), rows(prior)))
            state = layer.decode(state, latent.lookup(codes))
        for codes, prior in reversed(sent):  # the top is popped first
            stack.push(codes, prior)
        return self._seen(self.model.decoder.head(state))

    def _pop_codes(self, stack: Stack, layers: int) -> Tensor:
        """Returns what `_push_codes` did."""
        state = self.model.decoder.top(1)
        for number, (layer, latent) in enumerate(reversed(self.layers)):
            prior = latent.log_prior(layer.prior(state))
            codes = likeliest(prior)
            if number < layers:
                codes = stack.pop(rows(prior)).view(codes.shape)
            state = layer.decode(state, latent.lookup(codes))
        return self._seen(self.model.decoder.head(state))

    def _seen(self, parameters: Tensor) -> Tensor:
        check_finite("reconstructions", parameters)
        return reals_to_pixels(self.model.likelihood.mean(parameters))

    def decode_codes(
        self,
        words: np.ndarray,
        count: int,
        layers: int,
        done: Callable[[Tensor], object] | None = None,
    ) -> list[Tensor]:
        """The images of `encode_codes`, in order; `done` is told of each, the last first.

        Raises:
            UserError: the words are no stack's.
        """
        stack, images, alike = Stack(words), [], False
        with _reproducible():
            for _ in range(count):
                # What took nothing from the stack comes again and again: an empty one gives code 0.
                before = stack.position
                images.append(images[-1] if alike else self._pop_codes(stack, layers)[0])
                alike = stack.position == before
                if done:
                    done(images[-1])
        return images[::-1]
