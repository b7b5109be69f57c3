"""A model -> its layers compiled, for training on a GPU (`--compile true`)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils import parametrize

from rrvqlib.errors import UserError
from rrvqlib.models.hierarchy import HierarchicalVAE
from rrvqlib.nets.convolutions import ResidualBlock


def compile_layers(model: nn.Module, backend: str = "inductor") -> None:
    """Compile each layer of a hierarchy by itself, in place; other models as a whole.

    Layers of one kind, grid and change of grid share one compilation: 32 layers have eight such
    kinds, and are traced in less than a third of the time that the whole takes.

    Args:
        model: its weights and results stay the same.
        backend: see `torch.compile`.
    """
    pieces: list[nn.Module] = [model]
    if isinstance(model, HierarchicalVAE):
        pieces = [m for m in model.encoder.modules() if isinstance(m, ResidualBlock)]
        pieces += [*model.layers, model.decoder.head]
        share_classes(model)
        # So many kinds of one piece of code; torch gives up after eight.
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    for piece in pieces:
        piece.compile(backend=backend, dynamic=False)


def share_classes(model: nn.Module) -> None:
    """Give weight-normed layers of one kind one class, in place.

    `parametrize` makes a class for each of them, and what is compiled is used again only where
    the classes agree.
    """
    shared: dict[type, type] = {}
    for layer in model.modules():
        if parametrize.is_parametrized(layer):
            layer.__class__ = shared.setdefault(type(layer).__bases__[0], type(layer))


@contextmanager
def compile_errors() -> Iterator[None]:
    """Turn what torch's compilers raise, at the first step, into a UserError."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--compile true: this machine cannot compile the model ({reason}); install what is"
            " missing, a C++ compiler most likely, or use --compile false"
        ) from error
