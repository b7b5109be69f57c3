"""Settings and images -> a model with its first weights."""

from __future__ import annotations

import torch
from torch import Tensor

from rrvqlib.data.loading import check
from rrvqlib.errors import UserError
from rrvqlib.models.base import VAE
from rrvqlib.models.from_settings import build
from rrvqlib.models.saved import load_weights
from rrvqlib.optimisation.order import epoch_order
from rrvqlib.optimisation.step import layout
from rrvqlib.settings.run import RunSettings

INIT_IMAGES = 256  # of the batch that data-dependent initialisation sees


def first_model(
    settings: RunSettings,
    images: Tensor,
    labels: Tensor | None = None,
    device: torch.device | None = None,
    *,
    resumed: bool,
) -> VAE:
    """A model as it is before the first step, the same in every process.

    Args:
        settings: of the run.
        images: all training images, uint8 (N, c, S, S), on the device of the run or on the host.
        labels: int64 (N,), their classes, where the model has classes.
        device: of the run; that of the images where it is left out.
        resumed: its weights are going to be replaced by a checkpoint's.

    Raises:
        UserError: the run to start from is missing, or its model is another.
    """
    seed, start_from = settings.optimisation.seed, settings.optimisation.start_from
    device = device or images.device
    torch.manual_seed(seed)
    model = build(settings.model).to(device)
    if resumed:
        return model
    if start_from:
        load_weights(model, start_from)
    if settings.model.second_stage.kind != "none" or not start_from:
        first = epoch_order(seed, 0, len(images))[:INIT_IMAGES].to(images.device)
        model.initialise(
            images[first].to(device).contiguous(memory_format=layout(settings.machine)),
            None if labels is None else labels[first].to(device),
        )
    return model


def check_start(settings: RunSettings) -> None:
    """Make sure, without images, that a run can begin.

    Raises:
        UserError: its data set or the run to start from is missing, or does not fit the model.
    """
    data, start_from = settings.data, settings.optimisation.start_from
    model = settings.model
    check(data.dataset, data.data_dir, model.image_size, model.image_channels)
    if start_from:
        load_weights(build(model), start_from)


def check_processes(settings: RunSettings, count: int) -> None:
    """Make sure that so many processes can share a run.

    Raises:
        UserError: they cannot; the message names the setting.
    """
    batch, parts = settings.optimisation.batch_size, settings.machine.grad_accumulation
    if batch % (count * parts):
        raise UserError(
            f"--batch_size {batch}: must be a multiple of {count} processes times"
            f" grad_accumulation ({parts})"
        )
    if settings.machine.cuda_graphs == "true" and count > 1:
        raise UserError(
            f"--cuda_graphs true: {count} processes cannot record their steps; leave it out"
        )
