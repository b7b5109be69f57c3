"""Images <-> one stack of bits, at the price that a hierarchy's probabilities put on them.

Lossy: the codes of Appendix F, coded under the learnt prior. Lossless: bits-back coding (Frey and
Hinton 1997; Townsend et al. 2019), whose net length is the negative ELBO. The entropy coder, ANS,
is constriction's.
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

from rrvqlib.decoder import TopDownLayer
from rrvqlib.errors import UserError
from rrvqlib.likelihood import bin_masses, clip, pixels_to_reals, reals_to_pixels
from rrvqlib.models import VAE
from rrvqlib.models.hierarchy import HierarchicalVAE
from rrvqlib.pixels import check_pixels

FREQUENCY_BITS = 16
WORD = np.dtype("<u4")
DECODE_REMEDY = "decode with the model and the versions that wrote the file"
FOREIGN = f"these bits do not decode with this model; {DECODE_REMEDY}"
MARGIN = 4  # words of initial bits kept below the lowest that was touched: the coder's head


def frequencies(p: Tensor) -> np.ndarray:
    """Probabilities (N, K) -> whole numbers (N, K), at least 1, that sum to 2^16.

    Both ends of a transmission code with these, so that they agree bit for bit. The price of
    rounding is at most -log2(1 - K / 2^16) bits a symbol.
    """
    total = 1 << FREQUENCY_BITS
    p = p.double().numpy()
    whole = 1 + (p * (total - p.shape[1])).astype(np.int64)
    rows = np.arange(len(p))
    whole[rows, whole.argmax(1)] += total - whole.sum(1)
    return whole


class Stack:
    """An ANS coder: what was pushed last is popped first.

    Args:
        words: uint32, what an earlier stack's `words` returned; none for an empty stack.
        initial: whether the words are arbitrary bits to start from instead.
    """

    def __init__(self, words: np.ndarray | None = None, initial: bool = False):
        words = None if words is None else words.astype(np.uint32)
        # An optional dependency: training and evaluation go without.
        try:
            from constriction import stream
        except ImportError:
            raise UserError(
                "compression needs constriction; run: pip install constriction"
            ) from None
        AnsCoder = stream.stack.AnsCoder
        try:
            self._coder = AnsCoder() if words is None else AnsCoder(words, seal=initial)
        except ValueError:  # the last word is never 0
            raise UserError(FOREIGN) from None
        self._family = stream.model.Categorical(perfect=False)

    def push(self, symbols: Tensor, p: Tensor) -> None:
        """Push symbols (N,) with probabilities (N, K), the last symbol first."""
        probabilities = frequencies(p) / (1 << FREQUENCY_BITS)
        self._coder.encode_reverse(symbols.numpy().astype(np.int32), self._family, probabilities)

    def pop(self, p: Tensor) -> Tensor:
        """Pop symbols (N,) with probabilities (N, K), the first symbol first."""
        probabilities = frequencies(p) / (1 << FREQUENCY_BITS)
        return torch.from_numpy(self._coder.decode(self._family, probabilities)).long()

    def __len__(self) -> int:
        """Words of 32 bits."""
        return self._coder.num_words()

    @property
    def bits(self) -> int:
        return self._coder.num_valid_bits()

    @property
    def position(self) -> tuple[int, int]:
        """Words below the coder's head, and the head: the same if nothing was popped in between."""
        return self._coder.pos()

    def words(self, initial: bool = False) -> np.ndarray:
        """Everything on the stack, uint32; `initial` undoes a start from arbitrary bits."""
        return self._coder.get_compressed(unseal=initial)


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
    """One thread, so that sums are always taken in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(threads)


class Codec:
    """Codes images with a hierarchy of discrete latents, one image at a time.

    Every image goes through the network alone, in double precision and on one thread: whoever
    decodes computes the same whole numbers, whatever else is coded beside it.

    Args:
        model: the hierarchy; it is copied.

    Raises:
        UserError: the model has no codes, or is not a hierarchy.
    """

    def __init__(self, model: VAE):
        if not isinstance(model, HierarchicalVAE) or model.config.latent != "codebook":
            raise UserError(
                "only hierarchies of codes compress (--model hierarchy --latent codebook)"
            )
        self.model = copy.deepcopy(model).cpu().double().eval()
        self.layers = self.model.config.layers

    # Probabilities, each (N, K) for the N symbols of one image.

    def _posterior(self, features: list[Tensor], index: int, layer: TopDownLayer, state: Tensor):
        log_q = layer.latent.log_posterior(layer.posterior(features[index], state))
        return log_q[0].flatten(0, 1).exp()

    @staticmethod
    def _prior(layer: TopDownLayer, state: Tensor) -> Tensor:
        return layer.latent.log_prior(layer.prior(state))[0].flatten(0, 1).exp()

    def _pixels(self, mean: Tensor) -> Tensor:
        likelihood = self.model.likelihood
        return bin_masses(clip(mean), likelihood.log_scale, likelihood.edge_bins).flatten(0, -2)

    def _checked(self, image: Tensor) -> Tensor:
        """uint8 (3, S, S) -> (1, 3, S, S) on the CPU."""
        batch = image.unsqueeze(0).cpu()
        check_pixels(batch, self.model.config.image_size)
        return batch

    def _features(self, image: Tensor) -> list[Tensor]:
        return self.model.bottom_up(pixels_to_reals(image).double())

    def _run(self, choose: Callable[[int, TopDownLayer, Tensor], Tensor]) -> tuple[list, Tensor]:
        """The top-down chain; `choose` gives each layer's codes, flat.

        Returns:
            The codes of every layer, l = 1 first, and the pixels' means (1, 3, S, S).
        """
        codes: list[Tensor] = [torch.empty(0)] * self.layers

        def vectors(index: int, layer: TopDownLayer, state: Tensor) -> Tensor:
            codes[index] = choose(index, layer, state)
            side = self.model.config.pyramid[index]
            return layer.latent.lookup(codes[index].view(1, side, side))

        mean = self.model.top_down(1, vectors)
        return codes, mean

    def _push_codes(self, stack: Stack, codes: list[Tensor], lowest: int) -> Tensor:
        """Push layers `lowest`.. under the prior; the top is popped first. Returns the mean."""
        tables: list[Tensor] = [torch.empty(0)] * self.layers

        def known(index: int, layer: TopDownLayer, state: Tensor) -> Tensor:
            tables[index] = self._prior(layer, state)
            return codes[index] if index >= lowest else tables[index].argmax(1)

        _, mean = self._run(known)
        for index in range(lowest, self.layers):
            stack.push(codes[index], tables[index])
        return mean

    # Without loss.

    def _initial_words(self) -> np.ndarray:
        """Arbitrary but known bits to begin with: after decoding they must be there again.

        A sample of the first image's posterior pops at most `FREQUENCY_BITS` a variable; what was
        not touched is not kept.
        """
        count = FREQUENCY_BITS * self.model.config.latent_variables // 32 + 64
        return np.frombuffer(hashlib.shake_256(b"rrvqlib").digest(4 * count), WORD)

    def _push_image(self, stack: Stack, image: Tensor) -> int:
        """Returns the fewest words that lay on the stack meanwhile."""
        features = self._features(image)
        codes, mean = self._run(lambda *at: stack.pop(self._posterior(features, *at)))
        fewest = len(stack)
        stack.push(image.flatten(), self._pixels(mean))
        self._push_codes(stack, codes, lowest=0)
        return fewest

    def _pop_image(self, stack: Stack) -> Tensor:
        codes, mean = self._run(lambda _, layer, state: stack.pop(self._prior(layer, state)))
        image = stack.pop(self._pixels(mean)).to(torch.uint8).view(mean.shape)
        if len(stack) < MARGIN:  # `encode` has kept as many below the lowest point
            raise UserError(FOREIGN)
        features = self._features(image)
        tables: list[Tensor] = [torch.empty(0)] * self.layers

        def known(index: int, layer: TopDownLayer, state: Tensor) -> Tensor:
            tables[index] = self._posterior(features, index, layer, state)
            return codes[index]

        self._run(known)
        for index in range(self.layers):  # l = 1 was popped last
            stack.push(codes[index], tables[index])
        return image

    def encode(self, images: Iterable[Tensor]) -> Coded:
        """Code uint8 images (3, S, S) without loss, in one chain.

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
        self, words: np.ndarray, count: int, done: Callable[[Tensor], object] = id
    ) -> list[Tensor]:
        """The images (3, S, S) of `encode`, in order; `done` is called with each, the last first.

        Raises:
            UserError: the words are not what `encode` of this model wrote.
        """
        stack, images = Stack(words), []
        with _reproducible():
            for _ in range(count):
                images.append(self._pop_image(stack)[0])
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
            The chain, and the images (3, S, S) that the decoder will see.

        Raises:
            UserError: an image is not uint8 (3, S, S), or there are not so many layers.
        """
        if not 1 <= layers <= self.layers:
            raise UserError(f"{layers} layers: this model has 1 to {self.layers}")
        stack, seen = Stack(), []
        with _reproducible():
            for image in images:
                features = self._features(self._checked(image))
                codes, _ = self._run(lambda *at, f=features: self._posterior(f, *at).argmax(1))
                mean = self._push_codes(stack, codes, self.layers - layers)
                seen.append(reals_to_pixels(mean)[0])
        return Coded(stack.words(), stack.bits, 0), seen

    def decode_codes(
        self, words: np.ndarray, count: int, layers: int, done: Callable[[Tensor], object] = id
    ) -> list[Tensor]:
        """The images of `encode_codes`, in order; `done` is called with each, the last first.

        Raises:
            UserError: the words are no stack's.
        """
        stack, images, alike = Stack(words), [], False

        def choose(index: int, layer: TopDownLayer, state: Tensor) -> Tensor:
            p = self._prior(layer, state)
            return stack.pop(p) if index >= self.layers - layers else p.argmax(1)

        with _reproducible():
            for _ in range(count):
                # What took nothing from the stack comes again and again: an empty one gives code 0.
                before = stack.position
                images.append(images[-1] if alike else reals_to_pixels(self._run(choose)[1])[0])
                alike = stack.position == before
                done(images[-1])
        return images[::-1]
