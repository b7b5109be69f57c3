"""What a model asks of what it is given."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rrvqlib.data.pixels import check_pixels
from rrvqlib.errors import UserError

if TYPE_CHECKING:
    from rrvqlib.models.base import VAE


def check_input(model: VAE, images: Tensor, labels: Tensor | None) -> None:
    """Of images (B, c, S, S) and their labels (B,).

    Raises:
        UserError: they are of another kind or size, or the weights are not float32.
    """
    check_pixels(images, model.settings.image_size, model.settings.image_channels)
    check_labels(model.settings.classes, labels, len(images))
    check_precision(model)


def check_labels(classes: int, labels: Tensor | None, count: int) -> None:
    """That there are labels if there are classes, and only then.

    Raises:
        UserError: there are not, or they are not int64 (count,).
    """
    if not classes:
        if labels is not None:
            raise UserError("the model knows no classes; leave the labels out")
        return
    if labels is None:
        raise UserError(f"a model of {classes} classes wants labels, one for each image")
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise UserError(
            f"labels are {labels.dtype} {tuple(labels.shape)}; they must be int64, ({count},)"
        )


def check_range(classes: int, labels: Tensor | None) -> None:
    """That labels are classes; not in a training step, since looking waits for the device.

    Raises:
        UserError: one of them is none.
    """
    if labels is not None and not bool(((labels >= 0) & (labels < classes)).all()):
        raise UserError(f"labels must be from 0 to {classes - 1}")


def check_draws(n: int, temperature: float) -> float:
    """That so many can be drawn at a temperature; returns the latter as a plain number.

    Raises:
        UserError: n is no whole number from 1, or the temperature none from 0.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise UserError(f"{n!r} samples: must be a whole number, at least 1")
    if isinstance(temperature, Tensor) and temperature.ndim == 0:
        temperature = temperature.item()
    is_number = isinstance(temperature, Real) and not isinstance(temperature, bool)
    if not is_number or not 0 <= temperature < math.inf:
        raise UserError(f"temperature {temperature!r}: must be a number, 0 or more, and finite")
    return temperature


def check_precision(model: VAE) -> None:
    """Weights are float32; autocast computes in less where less will do.

    Raises:
        UserError: they are not.
    """
    kind = next(model.parameters()).dtype
    if kind != torch.float32:
        name = str(kind).removeprefix("torch.")
        raise UserError(
            f"the model's weights are {name}; call model.float(), and use torch.autocast where"
            " speed is wanted"
        )
