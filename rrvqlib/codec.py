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
from torch.nn.utils import parametrize

from rrvqlib.decoder import TopDownLayer
from rrvqlib.errors import UserError
from rrvqlib.likelihoods import pixels_to_reals, reals_to_pixels
from rrvqlib.likelihoods.base import Channel
from rrvqlib.models import VAE
from rrvqlib.models.hierarchy import HierarchicalVAE
from rrvqlib.pixels import check_pixels

FREQUENCY_BITS = 16
NIBBLE = 16
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
    p = p.double().contiguous().numpy()  # the coder reads memory, whatever the strides
    whole = 1 + (p * (total - p.shape[1])).astype(np.int64)
    rows = np.arange(len(p))
    whole[rows, whole.argmax(1)] += total - whole.sum(1)
    return whole


def high_masses(channel: Channel) -> Tensor:
    """Of the 16 values that a channel's high four bits can take: (N, 16) for its N pixels."""
    edges = torch.arange(0, 257, NIBBLE)
    return channel.below(edges).diff(dim=0).flatten(1).T


def low_masses(channel: Channel, high: Tensor) -> Tensor:
    """Of the 16 values of the low four bits, (N, 16), given the high ones (N,)."""
    shape = channel.means[:, 0].shape
    edges = NIBBLE * high.view(1, *shape) + torch.arange(NIBBLE + 1).view(-1, 1, 1, 1)
    masses = channel.below(edges).diff(dim=0).flatten(1).T
    total = masses.sum(1, keepdim=True)
    # Far from all means nothing is left in float64 to divide: there any table will do.
    return torch.where(total > 0, masses / total, 1 / NIBBLE)


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
        """Words below the coder's head, and the head; the same if nothing was popped in between."""
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
    """One thread, so that sums are always taken in the same order; no gradients."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), parametrize.cached():  # weights are normalised once, not per image
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

    @staticmethod
    def _posterior(layer: TopDownLayer, features: Tensor, state: Tensor) -> Tensor:
        return layer.latent.log_posterior(layer.posterior(features, state))[0].flatten(0, 1).exp()

    @staticmethod
    def _prior(layer: TopDownLayer, state: Tensor) -> Tensor:
        return layer.latent.log_prior(layer.prior(state))[0].flatten(0, 1).exp()

    def _checked(self, image: Tensor) -> Tensor:
        """uint8 (3, S, S) -> (1, 3, S, S) on the CPU."""
        batch = image.unsqueeze(0).cpu()
        check_pixels(batch, self.model.config.image_size)
        return batch

    def _features(self, image: Tensor) -> list[Tensor]:
        return self.model.bottom_up(pixels_to_reals(image).double())

    def _descend(self, choose: Callable[[int, Tensor], Tensor]) -> Tensor:
        """The top-down chain.

        Args:
            choose: called for every layer with its index (0 is l = 1) and the state of the layer
                above, returns the layer's codes, flat.

        Returns:
            The likelihood's parameters, (1, C, S, S).
        """

        def vectors(index: int, layer: TopDownLayer, state: Tensor) -> Tensor:
            side = self.model.config.pyramid[index]
            return layer.latent.lookup(choose(index, state).view(1, side, side))

        return self.model.top_down(1, vectors)

    # Pixels: of every channel the high four bits, then the low four. Two tables of 16 masses take
    # 34 values of a distribution function, one of 256 takes 257.

    def _push_pixels(self, stack: Stack, image: Tensor, parameters: Tensor) -> None:
        for c in reversed(range(3)):  # blue is popped last, when red and green are known
            channel = self.model.likelihood.next_channel(parameters, image[:, :c])
            high, low = (image[:, c] // NIBBLE).flatten().long(), (image[:, c] % NIBBLE).flatten()
            stack.push(low.long(), low_masses(channel, high))
            stack.push(high, high_masses(channel))

    def _pop_pixels(self, stack: Stack, parameters: Tensor) -> Tensor:
        B, _, *sides = parameters.shape
        image = torch.empty(B, 0, *sides, dtype=torch.uint8)
        for _ in range(3):
            channel = self.model.likelihood.next_channel(parameters, image)
            high = stack.pop(high_masses(channel))
            low = stack.pop(low_masses(channel, high))
            values = (NIBBLE * high + low).to(torch.uint8).view(B, 1, *sides)
            image = torch.cat([image, values], dim=1)
        return image

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
        codes: dict[int, Tensor] = {}
        priors: dict[int, Tensor] = {}

        def from_posterior(index: int, state: Tensor) -> Tensor:
            layer = self.model.top_down.layers[index]
            priors[index] = self._prior(layer, state)
            codes[index] = stack.pop(self._posterior(layer, features[index], state))
            return codes[index]

        parameters = self._descend(from_posterior)
        fewest = len(stack)
        self._push_pixels(stack, image, parameters)
        for index in range(self.layers):  # the top is popped first
            stack.push(codes[index], priors[index])
        return fewest

    def _pop_image(self, stack: Stack) -> Tensor:
        codes: dict[int, Tensor] = {}
        above: dict[int, Tensor] = {}

        def from_prior(index: int, state: Tensor) -> Tensor:
            above[index] = state
            codes[index] = stack.pop(self._prior(self.model.top_down.layers[index], state))
            return codes[index]

        image = self._pop_pixels(stack, self._descend(from_prior))
        if len(stack) < MARGIN:  # `encode` has kept as many below the lowest point
            raise UserError(FOREIGN)
        features = self._features(image)
        for index, layer in enumerate(self.model.top_down.layers):  # l = 1 was popped last
            stack.push(codes[index], self._posterior(layer, features[index], above[index]))
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
                seen.append(self._push_codes(stack, self._checked(image), layers)[0])
        return Coded(stack.words(), stack.bits, 0), seen

    def _push_codes(self, stack: Stack, image: Tensor, layers: int) -> Tensor:
        """Returns what the decoder will see, (1, 3, S, S)."""
        features, lowest = self._features(image), self.layers - layers
        sent: list[tuple[Tensor, Tensor]] = []

        def most_probable(index: int, state: Tensor) -> Tensor:
            layer = self.model.top_down.layers[index]
            prior = self._prior(layer, state)
            if index < lowest:
                return prior.argmax(1)
            codes = self._posterior(layer, features[index], state).argmax(1)
            sent.append((codes, prior))
            return codes

        seen = self._seen(self._descend(most_probable))
        for codes, prior in reversed(sent):  # the top is popped first
            stack.push(codes, prior)
        return seen

    def _seen(self, parameters: Tensor) -> Tensor:
        return reals_to_pixels(self.model.likelihood.mean(parameters))

    def decode_codes(
        self, words: np.ndarray, count: int, layers: int, done: Callable[[Tensor], object] = id
    ) -> list[Tensor]:
        """The images of `encode_codes`, in order; `done` is called with each, the last first.

        Raises:
            UserError: the words are no stack's.
        """
        stack, images, alike = Stack(words), [], False

        def choose(index: int, state: Tensor) -> Tensor:
            p = self._prior(self.model.top_down.layers[index], state)
            return stack.pop(p) if index >= self.layers - layers else p.argmax(1)

        with _reproducible():
            for _ in range(count):
                # What took nothing from the stack comes again and again: an empty one gives code 0.
                before = stack.position
                images.append(images[-1] if alike else self._seen(self._descend(choose))[0])
                alike = stack.position == before
                done(images[-1])
        return images[::-1]
