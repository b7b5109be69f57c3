"""Tiny runs whose noise belongs to the global batch; torchrun starts this for test_distributed."""

import os
import signal
import sys
import time
from pathlib import Path

import torch
from helpers import TINY, VQVAE
from safetensors.torch import save_file

from rrvqlib import data
from rrvqlib.errors import UserError
from rrvqlib.latents import draws
from rrvqlib.optimisation import reports
from rrvqlib.optimisation import step as step_module
from rrvqlib.optimisation.signals import Stopped, StopRequest
from rrvqlib.optimisation.trainer import Trainer
from rrvqlib.optimisation.whole_run import train
from rrvqlib.runs import folder as folder_module
from rrvqlib.settings import changed

STEPS = 3
CASES = {
    "hierarchy": {},
    # Between the values of the two processes, so that a threshold of their own would show.
    "free nats": {"free_nats": 0.075},
    "free nats per position": {"free_nats": 0.005, "free_nats_group": "position"},
    "accumulated": {"grad_accumulation": 2},
    "uniform top, concat": {"top_prior": "uniform", "decoder_input": "concat", "prior": "direct"},
    "vqvae by averages": {**VQVAE, "dead_code_threshold": 0.0, "codebook_decay": 0.5},
    "vqvae by loss": {**VQVAE, "dead_code_threshold": 0.0, "codebook_update": "loss"},
    "nan": {},
}


def run_of(case, images, out):
    # Unclipped: clipping would hide a factor.
    settings = changed(TINY, dataset=images, max_grad_norm=0.0, **CASES[case])
    return Trainer(settings, data.load(images, image_size=8), Path(out), case)


def share_noise(run):
    """Each process takes its rows of the noise that one process would draw for the batch."""
    settings, processes = run.settings, run.processes
    parts, calls = settings.machine.grad_accumulation, [0, -1]

    def noise(like):
        step = run.progress.step
        calls[:] = [calls[0] + 1 if calls[1] == step else 0, step]
        part, layer = divmod(calls[0], settings.model.layers)
        rows, pieces = len(like), processes.count * parts
        generator = torch.Generator().manual_seed(1000 * step + layer)
        whole = torch.empty(rows * pieces, *like.shape[1:]).exponential_(generator=generator)
        first = (processes.rank * parts + part) * rows
        return -whole.log()[first : first + rows]

    draws.gumbel_noise = noise


def weights_after(case, images, out, spoil_rank):
    """Weights after a few steps; in case `nan` the process `spoil_rank` has one bad step."""
    run = run_of(case, images, out)
    noise, loss = draws.gumbel_noise, step_module.training_loss
    share_noise(run)
    for step in range(STEPS):
        if case == "nan" and step == 1 and run.processes.rank == spoil_rank:
            step_module.training_loss = lambda *args: loss(*args) + float("nan")
        run.step()
        step_module.training_loss = loss
    draws.gumbel_noise = noise  # the next run's initialisation draws its own
    tensors = run.model.state_dict() | {"skipped": torch.tensor(run.skipped)}
    for name, parameter in run.model.named_parameters():
        if parameter.grad is not None:
            tensors["gradient of " + name] = parameter.grad
    return {name: value.clone().contiguous() for name, value in tensors.items()}


def stop_of_one(images, out):
    """A signal that reaches one process alone stops both at one step."""
    run = run_of("hierarchy", images, out)
    step = run.step

    def step_with_signal():
        step()
        if run.progress.step == 2 and run.processes.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    run.step = step_with_signal
    try:
        with StopRequest() as stop:
            run.run(stop, show_progress=False)
    except Stopped as stopped:
        return {"step": torch.tensor(run.progress.step), "code": torch.tensor(stopped.code)}
    return {}


def stop_of_train(images, out, fails):
    """A whole training that a signal to one process stops: its code, in both of them."""
    rank, step, score = int(os.environ["RANK"]), Trainer.step, reports.leave_score

    def step_with_signal(self):
        step(self)
        if self.progress.step == 2 and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def failing(*_args, **_named):
        raise UserError("no score")

    Trainer.step = step_with_signal
    reports.leave_score = failing if fails else score
    Path(out).mkdir(exist_ok=True)
    try:
        train(changed(TINY, dataset=images, steps=9), Path(out), "stopped", show_progress=False)
    except Stopped as stopped:
        return str(stopped.code)
    finally:
        Trainer.step, reports.leave_score = step, score
    return "none"


def by_the_clock(images, out):
    """Steps and position of a run by the clock, where this process's own clock is off."""
    settings = changed(TINY, dataset=images, seconds=8.0, steps=100)
    run = Trainer(settings, data.load(images, image_size=8), Path(out), "clock")
    run.clock.started -= 2.0 * run.processes.rank
    run.run(show_progress=False)
    return {name: torch.tensor(float(getattr(run.progress, name))) for name in ("step", "position")}


def odd_batch(images, out):
    """The message for a batch that two processes cannot share."""
    settings = changed(TINY, dataset=images, batch_size=7)
    try:
        Trainer(settings, data.load(images, image_size=8), Path(out), "odd")
    except UserError as error:
        return str(error)
    return ""


def load_in_turn(images, out):
    """Whether the other process's images were there when this one began to load its own."""
    rank, load, found = int(os.environ["RANK"]), folder_module.load, []

    def slow_load(*args):
        found.append(Path(out, f"loaded.{1 - rank}").exists())
        time.sleep(1 - rank)  # time enough for the other to overtake, if it does not wait
        Path(out, f"loaded.{rank}").touch()
        return load(*args)

    folder_module.load = slow_load
    settings = changed(TINY, dataset=images, steps=1)
    train(settings, Path(out), "in turn", show_progress=False)
    return str(found)


if __name__ == "__main__":
    images, folder = sys.argv[1:]
    rank = os.environ["RANK"]
    for case in CASES:
        tensors = weights_after(case, images, folder, spoil_rank=1)
        save_file(tensors, f"{folder}/{case}.{rank}.safetensors")
    save_file(stop_of_one(images, folder), f"{folder}/stop.{rank}.safetensors")
    for name in ("scored", "unscored"):
        code = stop_of_train(images, f"{folder}/{name}", fails=name == "unscored")
        Path(folder, f"{name}.{rank}.txt").write_text(code)
    Path(folder, "clock").mkdir(exist_ok=True)
    clock = by_the_clock(images, Path(folder, "clock"))
    save_file(clock, f"{folder}/clock.{rank}.safetensors")
    Path(folder, f"odd.{rank}.txt").write_text(odd_batch(images, folder))
    Path(folder, "in turn").mkdir(exist_ok=True)
    Path(folder, f"turn.{rank}.txt").write_text(load_in_turn(images, Path(folder, "in turn")))
