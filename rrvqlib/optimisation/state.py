"""The state of a training, and the way back to it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from rrvqlib.errors import UserError
from rrvqlib.runs.checkpoint import CHECKPOINT, load_state
from rrvqlib.runs.folder import check_same_images
from rrvqlib.runs.records import check_same_run
from rrvqlib.settings.fields import SettingError

if TYPE_CHECKING:
    from rrvqlib.optimisation.trainer import Trainer


@dataclass
class Progress:
    """Counters that a checkpoint keeps."""

    step: int = 0
    position: float = 0.0  # in the schedules; see `rrvqlib.optimisation.clock`
    seconds: float = 0.0


def state_of(run: Trainer) -> dict[str, Any]:
    """What a checkpoint keeps."""
    average = run.compute.average
    return {
        "settings": asdict(run.settings),
        "progress": asdict(run.progress),
        "model": run.model.state_dict(),
        "average": average.model.state_dict() if average else None,
        "optimizer": list(run.compute.optimizer.tensors()[1:]),
        "statistics": list(run.compute.statistics.tensors()),
        "plateau": run.plateau.state_dict(),
    }


def resume(run: Trainer) -> None:
    """Go back to the checkpoint of the run folder.

    Raises:
        UserError: there is none, it is damaged, or it belongs to other settings, images or to
            another version.
    """
    path = run.out / CHECKPOINT
    state = load_state(path)
    try:
        check_same_run(state["settings"], run.settings)
        restore(run, state)
    except torch.OutOfMemoryError:
        raise
    except (
        SettingError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} is of another version or model ({type(error).__name__}: {reason});"
            " train anew in another --out"
        ) from None
    check_same_images(run.out, run.settings.data.dataset, run.splits)


def restore(run: Trainer, state: dict[str, Any]) -> None:
    """Take over what `state_of` returned."""
    run.model.load_state_dict(state["model"])
    if run.compute.average:
        run.compute.average.model.load_state_dict(state["average"])
    for ours, stored in (
        (run.compute.optimizer.tensors()[1:], state["optimizer"]),
        (run.compute.statistics.tensors(), state["statistics"]),
    ):
        for tensor, value in zip(ours, stored, strict=True):
            tensor.copy_(value)
    run.plateau.load_state_dict(state["plateau"])
    run.progress = Progress(**state["progress"])
    run.clock.earlier = run.progress.seconds
