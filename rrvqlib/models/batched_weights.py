"""What a step needs of its weights alone, computed for all layers at once.

32 layers have 256 convolutions and as many codebooks as layers, and norming, casting and preparing
each by itself is more than half of a step's 9,200 operations. On a GPU every one of them takes its
microseconds, however small it is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rrvqlib.latents.codebook import Codebook, GaussianTerms, gaussian_terms
from rrvqlib.nets.convolutions import Normed

Item = TypeVar("Item")


def groups(items: Iterable[tuple[Hashable, Item]]) -> list[list[Item]]:
    """Items of one key together, in their order."""
    found: dict[Hashable, list[Item]] = {}
    for key, item in items:
        found.setdefault(key, []).append(item)
    return list(found.values())


class BatchedWeights:
    """Prepares the weights of a model's layers and its codebooks in a few large operations.

    Args:
        model: its weight-normed layers and codebooks are found once.
        dtype: that networks compute in, as under autocast; what is `precise` keeps its own.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        layers = [layer for layer in model.modules() if isinstance(layer, Normed)]
        books = [book for book in model.modules() if isinstance(book, Codebook)]
        learnt = [book for book in books if book.raw_log_variances is not None]
        # Members that can be prepared as one, and what gives each of them its part.
        self.groups: list[tuple[Sequence[Normed | Codebook], Callable[[Any], list[Any]]]] = [
            *(
                (alike, partial(weights_and_biases, dtype=dtype))
                for alike in groups((kind_of(layer), layer) for layer in layers)
            ),
            *(
                (alike, terms_of)
                for alike in groups(((book.means.shape, book.covariance), book) for book in learnt)
            ),
        ]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, layers and codebooks compute with what was prepared on entering."""
        try:
            for members, prepare in self.groups:
                for member, prepared in zip(members, prepare(members), strict=True):
                    member.prepared = prepared
            yield
        finally:
            for members, _ in self.groups:
                for member in members:
                    member.prepared = None


def kind_of(layer: Normed) -> Hashable:
    """Layers of one kind can be normed as one."""
    direction = layer.parametrizations.weight.original1
    return direction.shape, layer.output_dim, direction.requires_grad, layer.precise


def weights_and_biases(layers: Sequence[Normed], dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each layer; the layers are of one kind.

    A weight is g v / |v|, one length for each output: the rows of all layers, one below the other,
    are the rows of one large layer.

    Args:
        layers: n of one kind, with I inputs and O outputs.
        dtype: of the weights and biases, unless the layers are `precise`.
    """
    originals = [layer.parametrizations.weight for layer in layers]
    outputs_first = [
        [tensor.transpose(0, layer.output_dim) for tensor in (both.original0, both.original1)]
        for layer, both in zip(layers, originals, strict=True)
    ]
    lengths, directions = (torch.cat(tensors) for tensors in zip(*outputs_first, strict=True))
    rows = torch._weight_norm(directions, lengths, 0)  # (n O, I, height, width), or (n O, I)
    if layers[0].precise:
        dtype = rows.dtype
    if layers[0].output_dim == 1:
        # A transposed convolution wants (I, O, height, width). Within each layer inputs and outputs
        # change places: (n O, I, ...) -> (n, O, I, ...) -> (n, I, O, ...) -> (n I, O, ...).
        rows = rows.unflatten(0, (len(layers), -1)).transpose(1, 2).flatten(0, 1)
    if rows.ndim == 4:
        rows = rows.to(dtype, memory_format=torch.channels_last)
    biases = torch.cat([layer.bias for layer in layers]).to(dtype)
    return list(zip(rows.to(dtype).chunk(len(layers)), biases.chunk(len(layers)), strict=True))


def terms_of(books: Sequence[Codebook]) -> list[GaussianTerms]:
    """What responsibilities need of each codebook; their shapes and covariances agree."""
    means = torch.stack([book.means for book in books])
    raw = torch.stack([book.raw_log_variances for book in books])  # type: ignore[arg-type]
    terms = gaussian_terms(means, raw, books[0].covariance)
    parts = (terms.centre, terms.weights, terms.biases)
    return [GaussianTerms(*own) for own in zip(*(part.unbind() for part in parts), strict=True)]
