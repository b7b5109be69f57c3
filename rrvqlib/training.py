"""The training loop: configs.RunConfig and a folder -> a trained model in a run folder."""

from __future__ import annotations

import json
import math
import platform
import signal
import statistics
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from rrvqlib import __version__, data, pictures
from rrvqlib.checkpoint import (
    CHECKPOINT,
    load_state,
    load_weights,
    read_json,
    save_model,
    save_state,
    write_atomically,
    write_json,
)
from rrvqlib.compiled import compile_errors, compile_layers
from rrvqlib.configs import RunConfig
from rrvqlib.elbo import bits_per_dim, training_loss
from rrvqlib.embeddings import Codebook
from rrvqlib.errors import UserError
from rrvqlib.models import VAE, build
from rrvqlib.run_folder import check_split_sizes, read_metrics
from rrvqlib.runs import command
from rrvqlib.scoring import importance_weighted_score, score

INIT_IMAGES = 256  # of the batch that data-dependent initialisation sees
SCORED_TRAIN_IMAGES = 2000  # the first ones, for train_bits_per_dim


# What changes from step to step, each a function of the step alone.


def temperature_at(step: int, config: RunConfig) -> float:
    """Temperature of the relaxation at a step (0-based)."""
    span = config.temperature_fraction * config.steps
    progress = min(1.0, step / span) if span else 1.0
    start, end = config.temperature, config.temperature_end
    match config.temperature_schedule:
        case "exponential":
            return start * (end / start) ** progress
        case "linear":
            return start + (end - start) * progress
    return start


def kl_weight_at(step: int, config: RunConfig) -> float:
    """Weight of the KL at a step: rises linearly to 1, the training objective's only change."""
    span = config.kl_warmup * config.steps
    return min(1.0, (step + 1) / span) if span else 1.0


def lr_factor_at(step: int, config: RunConfig) -> float:
    """Learning rate at a step as a multiple of `config.lr` (schedules cosine and constant)."""
    warm = min(1.0, (step + 1) / config.lr_warmup) if config.lr_warmup else 1.0
    if config.schedule != "cosine":
        return warm
    floor = config.lr_min / config.lr
    progress = min(1.0, step / config.steps)
    return warm * (floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2)


@lru_cache(maxsize=1)
def epoch_order(seed: int, epoch: int, n: int) -> Tensor:
    """The order in which an epoch visits the n training images."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def batch_indices(step: int, n: int, config: RunConfig) -> Tensor:
    """Indices (batch_size,) of the images of a step; a set smaller than that is repeated."""
    per_epoch = max(1, n // config.batch_size)
    epoch, position = divmod(step, per_epoch)
    order = epoch_order(config.seed, epoch, n)
    start = position * config.batch_size
    if n < config.batch_size:
        order = order.repeat(math.ceil(config.batch_size / n))
    return order[start : start + config.batch_size]


def seed_step(config: RunConfig, step: int, rank: int) -> None:
    """Noise depends on seed, step and process alone, so that a resumed run draws it again."""
    torch.manual_seed((config.seed << 40) + (step << 8) + rank)


# What the run carries along.


@dataclass
class Window:
    """Sums over the steps since the last evaluation."""

    steps: int = 0
    loss: float = 0.0
    grad_norm: float = 0.0
    grad_norm_max: float = 0.0
    largest_layer_kl: float = 0.0


@dataclass
class Progress:
    """Counters that a checkpoint keeps."""

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    grad_norms: list[float] = field(default_factory=list)
    window: Window = field(default_factory=Window)


class Stopped(Exception):
    """A signal asked the run to stop; it has been saved."""

    def __init__(self, signum: int, step: int):
        super().__init__(
            f"stopped at step {step} and saved; the same command with --resume goes on"
        )
        self.exit_code = 128 + signum


class StopRequest:
    """Ctrl-C, SIGTERM and a closed terminal, remembered until the step that runs is done."""

    def __init__(self) -> None:
        self.signum = 0

    def __enter__(self) -> StopRequest:
        signals = [signal.SIGINT, signal.SIGTERM]
        hangup = getattr(signal, "SIGHUP", None)  # Windows has none
        if hangup and signal.getsignal(hangup) != signal.SIG_IGN:  # as nohup asks
            signals.append(hangup)
        self.old = {s: signal.signal(s, self._note) for s in signals}
        return self

    def _note(self, signum: int, _frame: object) -> None:
        if self.signum:  # the second time the user means it
            raise KeyboardInterrupt
        self.signum = signum

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.old.items():
            signal.signal(signum, handler)


class Trainer:
    """One run: model, optimiser, average of the weights, data, folder.

    Args:
        config: the run's settings.
        splits: its images.
        out: the run folder, which exists.
        name: of the run, for `run.json`.
        resumed: `resume` is going to be called, so the first weights do not matter.
    """

    def __init__(
        self, config: RunConfig, splits: data.Splits, out: Path, name: str, resumed: bool = False
    ):
        self.config, self.splits, self.out, self.name = config, splits, out, name
        join_processes(config)
        self.accelerator = Accelerator(
            cpu=on_cpu(config),
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
        self._check_devices()
        self.device = self.accelerator.device
        self.progress = Progress()
        self.layout = torch.channels_last if config.channels_last else torch.contiguous_format
        torch.manual_seed(config.seed)
        # The same weights and the same first batch in every process.
        self.model = build(config.model_config).to(self.device)
        self.codebooks = [m for m in self.model.modules() if isinstance(m, Codebook)]
        self.train_images = splits.train.to(self.device)
        if config.start_from and not resumed:
            load_weights(self.model, config.start_from)
        if not resumed and (config.second_stage != "none" or not config.start_from):
            first = epoch_order(config.seed, 0, len(splits.train))[:INIT_IMAGES]
            self.model.initialise(self.images_at(first))
        self.average = None
        if config.ema:
            self.average = AveragedModel(self.model)  # moved by `update_average`
        self.optimizer = make_optimizer(self.model, config)
        self.scheduler = make_scheduler(self.optimizer, config)
        if self.accelerator.num_processes > 1:
            # Where a side is 1 two strides mean the same memory; torch warns of their difference.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view")
        if config.compile and not config.cuda_graphs:
            compile_layers(self.model)
        self.run_model, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
        if config.cuda_graphs:  # one graph for all layers, though that takes minutes to compile
            self.run_model = torch.compile(self.run_model, mode="reduce-overhead")

    def _check_devices(self) -> None:
        config, processes = self.config, self.accelerator.num_processes
        if config.device == "cuda" and self.accelerator.device.type != "cuda":
            raise UserError("--device cuda: torch finds no GPU here; use --device cpu")
        if config.batch_size % (processes * config.grad_accumulation):
            raise UserError(
                f"--batch_size {config.batch_size}: must be a multiple of {processes} processes"
                f" times grad_accumulation ({config.grad_accumulation})"
            )

    @property
    def evaluated(self) -> VAE:
        """The model that is evaluated and kept, the average of the weights if there is one."""
        return self.average.module if self.average is not None else self.model

    def _uncompiled(self) -> AbstractContextManager[Any]:
        """Where the model runs as it is: every size of batch would be compiled anew."""
        # Not for every run: this imports the compiler.
        return torch.compiler.set_stance("force_eager") if self.config.compile else nullcontext()

    def images_at(self, indices: Tensor) -> Tensor:
        """uint8 training images on the device."""
        return self.train_images[indices.to(self.device)].contiguous(memory_format=self.layout)

    def micro_batches(self, step: int) -> list[Tensor]:
        """This process's share of a step's images, in `grad_accumulation` parts."""
        indices = batch_indices(step, len(self.train_images), self.config)
        share = indices.chunk(self.accelerator.num_processes)[self.accelerator.process_index]
        return [self.images_at(part) for part in share.chunk(self.config.grad_accumulation)]

    def step(self) -> None:
        """One optimiser step, or a skipped one."""
        config, progress = self.config, self.progress
        seed_step(config, progress.step, self.accelerator.process_index)
        # `full` is written on the device; `tensor` would be copied there, and waited for.
        temperature = torch.full((), temperature_at(progress.step, config), device=self.device)
        kl_weight = kl_weight_at(progress.step, config)
        parts = self.micro_batches(progress.step)
        self.optimizer.zero_grad()
        loss, kl = 0.0, 0.0
        for number, images in enumerate(parts, start=1):
            last = number == len(parts)
            with nullcontext() if last else self.accelerator.no_sync(self.run_model):
                if config.cuda_graphs:
                    torch.compiler.cudagraph_mark_step_begin()
                with torch.autocast(
                    self.device.type, torch.bfloat16, enabled=config.precision == "bf16"
                ):
                    terms = self.run_model(images, temperature)
                nats = training_loss(
                    terms, kl_weight, config.free_nats, config.free_nats_group, self.all_mean
                )
                part_loss = bits_per_dim(-nats, config.dims) / len(parts)
                self.accelerator.backward(part_loss)
            loss = loss + part_loss.detach()
            kl = kl + terms.kl.detach().mean(0).max() / len(parts)
        norm = clip_grad_norm_(self.model.trained.parameters(), config.max_grad_norm or math.inf)
        self.finish_step(*self.all_mean(torch.stack([loss, norm, kl])).tolist())

    def all_mean(self, values: Tensor) -> Tensor:
        """Average over the processes."""
        return self.accelerator.reduce(values, "mean")

    def finish_step(self, loss: float, norm: float, largest_kl: float) -> None:
        """Apply the gradient unless it is not to be trusted, and count."""
        config, progress = self.config, self.progress
        median = statistics.median(progress.grad_norms) if progress.grad_norms else math.inf
        wild = not math.isfinite(loss + norm) or (
            config.skip_above > 0 and norm > config.skip_above * median
        )
        if math.isfinite(norm):  # skipped norms count too: a fixed bound can lock up for good
            progress.grad_norms = [*progress.grad_norms[-99:], norm]
        if wild:
            progress.skipped += 1
            progress.skipped_in_a_row += 1
        else:
            progress.skipped_in_a_row = 0
            self.optimizer.step()
            for codebook in self.codebooks:
                codebook.project_()
            if self.average is not None:
                update_average(self.average, self.model, config.ema)
            window = progress.window
            window.steps += 1
            window.loss += loss
            window.grad_norm += norm
            window.grad_norm_max = max(window.grad_norm_max, norm)
            window.largest_layer_kl = max(window.largest_layer_kl, largest_kl)
        progress.step += 1
        if config.schedule != "plateau":
            self.scheduler.step()
        if progress.skipped_in_a_row >= config.max_skipped:
            self.save()
            raise UserError(
                f"{config.max_skipped} steps in a row were skipped for their gradients (step"
                f" {progress.step}); the last good weights are kept. Train anew in another"
                " --out, with a lower --lr or a longer --kl_warmup"
            )

    # Saving, resuming, reporting.

    def save(self) -> None:
        """Write the resumable checkpoint."""
        if not self.accelerator.is_main_process:
            return
        progress = asdict(self.progress)
        state = {
            "config": asdict(self.config),
            "progress": progress,
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        save_state(self.out / CHECKPOINT, state)

    def resume(self) -> None:
        """Go back to the checkpoint of the run folder.

        Raises:
            UserError: there is none, it is damaged, or it belongs to other settings, images or to
                another version.
        """
        path = self.out / CHECKPOINT
        state = load_state(path)
        try:
            check_same_run(state["config"], self.config)
            self.restore(state)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path} is of another version or model ({type(error).__name__}: {reason});"
                " train anew in another --out"
            ) from None
        check_split_sizes(self.out, self.config.dataset, self.splits)

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the state that `save` wrote."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        progress = state["progress"]
        self.progress = Progress(**{**progress, "window": Window(**progress["window"])})

    def evaluate(self) -> dict[str, Any]:
        """A line of `metrics.jsonl`: validation score and what the steps since the last one saw."""
        config, progress, window = self.config, self.progress, self.progress.window
        images = self.splits.valid[: config.eval_images or None]
        with self._uncompiled():
            valid = score(self.evaluated, images, eval_batch(config), config.seed)
        count = max(1, window.steps)
        line = {
            "step": progress.step,
            "images_seen": progress.step * config.batch_size,
            "seconds": round(progress.seconds, 1),
            "lr": self.optimizer.param_groups[0]["lr"],
            "temperature": temperature_at(progress.step, config),
            "train_loss_bits_per_dim": window.loss / count,
            "valid_bits_per_dim": valid["bits_per_dim"],
            "valid_bits_per_dim_se": valid["bits_per_dim_se"],
            "kl_bits_per_dim": valid["kl_bits_per_dim"],
            "perplexity": valid["perplexity"],
            "prior_entropy_bits": valid["prior_entropy_bits"],
            "grad_norm": window.grad_norm / count,
            "grad_norm_max": window.grad_norm_max,
            "largest_layer_kl": window.largest_layer_kl,
            "skipped_steps": progress.skipped,
        }
        progress.window = Window()
        return line

    def run(self, show_progress: bool = True) -> None:
        """Train to the last step; evaluate and save on the way.

        Raises:
            Stopped: a signal came; the run is saved.
            UserError: the gradients stayed wild, or the model cannot be compiled here.
        """
        config, progress = self.config, self.progress
        log = None
        if self.accelerator.is_main_process:
            log = MetricsLog(self.out, progress.step)
            self.describe()
        bar = tqdm(
            total=config.steps,
            initial=progress.step,
            unit="step",
            disable=None if show_progress and log else True,
            dynamic_ncols=True,
        )
        if config.compile:
            bar.set_postfix_str("compiling")
        started = time.perf_counter() - progress.seconds
        with StopRequest() as stop, bar:
            while progress.step < config.steps:
                with compile_errors():
                    self.step()
                progress.seconds = time.perf_counter() - started
                bar.update()
                done = progress.step == config.steps
                if done or progress.step % config.eval_every == 0:
                    valid = self.report(log)
                    bar.set_postfix_str(f"valid {valid:.3f} bits/dim" if log else "")
                signum = self.agreed_signal(stop.signum)
                if done or progress.step % config.save_every == 0 or signum:
                    self.save()
                if signum:
                    raise Stopped(signum, progress.step)

    def agreed_signal(self, signum: int) -> int:
        """The signal that any process got, 0 for none: all of them must stop at one step."""
        if self.accelerator.num_processes == 1:  # no need to wait for the device
            return signum
        mine = torch.tensor([signum], device=self.device)
        return int(self.accelerator.gather(mine).max())

    def report(self, log: MetricsLog | None) -> float | None:
        """Evaluate, in the main process alone, and let the plateau schedule know.

        Returns:
            Bits per dim on validation images; None in helper processes.
        """
        value = torch.zeros((), device=self.device)
        if log:
            line = self.evaluate()
            log.add(line)
            value += line["valid_bits_per_dim"]
        if self.config.schedule == "plateau":
            total = self.accelerator.reduce(value, "sum")
            self.scheduler.step(total.item())
        self.accelerator.wait_for_everyone()
        return value.item() if log else None

    def finish(self, label: str = "") -> dict[str, Any]:
        """Write model, results and pictures; return the results."""
        config, model = self.config, self.evaluated
        save_model(model, self.out)
        with self._uncompiled():
            results = final_results(model, self.splits, config, label)
            pictures.write_run_pictures(model, self.splits.test, self.out, config.seed)
        self.describe()
        write_json(self.out / "results.json", results)  # last: it says that the run is complete
        return results

    def describe(self) -> None:
        """Write `run.json`: everything needed to repeat the run and to judge its cost."""
        description = {
            "command": command(self.name, self.config, self.out),
            "run": self.name,
            "settings": asdict(self.config),
            "seed": self.config.seed,
            "dataset": self.splits.name,
            "dataset_description": self.splits.description,
            "split_sizes": {s: len(self.splits[s]) for s in ("train", "valid", "test")},
            "versions": versions(),
            "hardware": hardware(self.device, self.accelerator.num_processes),
            "wall_seconds": round(self.progress.seconds, 1),
            "images_seen": self.progress.step * self.config.batch_size,
            "skipped_steps": self.progress.skipped,
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }
        write_json(self.out / "run.json", description)


class MetricsLog:
    """`metrics.jsonl` and TensorBoard events, one entry for each evaluation.

    Args:
        out: the run folder.
        step: entries after this step come from steps that are going to be repeated; they go.
    """

    def __init__(self, out: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter  # half a second, only needed here

        self.path = out / "metrics.jsonl"
        lines = read_metrics(out) if step and self.path.exists() else []
        self.lines = [json.dumps(line) for line in lines if line["step"] <= step]
        self.write()
        self.events = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def write(self) -> None:
        text = "".join(line + "\n" for line in self.lines)
        write_atomically(self.path, lambda temporary: temporary.write_text(text))

    def add(self, line: dict[str, Any]) -> None:
        self.lines.append(json.dumps(line))
        self.write()
        for name, value in line.items():
            if isinstance(value, list):
                for layer, entry in enumerate(value, start=1):
                    self.events.add_scalar(f"{name}/layer_{layer:02d}", entry, line["step"])
            elif value is not None and name != "step":
                self.events.add_scalar(name, value, line["step"])
        self.events.flush()


# Pieces.


@torch.no_grad()
def update_average(average: AveragedModel, model: VAE, decay: float) -> None:
    """Move the averages towards the current weights; young averages move faster.

    `AveragedModel.update_parameters` does the same tensor by tensor and waits for the device.
    """
    count = int(average.n_averaged)  # lives on the CPU
    weight = 1 - min(decay, (1 + count) / (10 + count)) if count else 1.0
    torch._foreach_lerp_(list(average.module.parameters()), list(model.parameters()), weight)
    for mine, theirs in zip(average.module.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)
    average.n_averaged += 1


def make_optimizer(model: VAE, config: RunConfig) -> torch.optim.Optimizer:
    """AdaMax or Adam; codebooks and the likelihood's scale have a learning rate of their own."""
    fast, slow = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_fast = ".codebook." in name or name.startswith("likelihood.")
            (fast if is_fast else slow).append(parameter)
    groups = [
        {"params": slow, "lr": config.lr},
        {"params": fast, "lr": config.lr * config.codebook_lr_factor},
    ]
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, fused=True)
    return torch.optim.Adamax(groups, foreach=True)


def make_scheduler(optimizer: torch.optim.Optimizer, config: RunConfig) -> Any:
    """Of the learning rate; `plateau` is told validation scores, the others count steps."""
    if config.schedule == "plateau":
        floors = [config.lr_min, config.lr_min * config.codebook_lr_factor]
        return torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer,
            factor=0.8,
            patience=config.plateau_patience,
            threshold=0.0,
            min_lr=floors,
        )
    return torch.optim.lr_scheduler.LambdaLR(optimizer, partial(lr_factor_at, config=config))


def eval_batch(config: RunConfig) -> int:
    """Images at a time in evaluations: the forward pass needs far less memory than a step."""
    return 2 * config.batch_size // config.grad_accumulation


def final_results(
    model: VAE, splits: data.Splits, config: RunConfig, label: str = ""
) -> dict[str, Any]:
    """The contents of `results.json`."""
    size = eval_batch(config)

    def name(what: str) -> str:
        return f"{label}{what}" if label else ""

    test = score(model, splits.test, size, config.seed, name("test images"))
    train = score(
        model, splits.train[:SCORED_TRAIN_IMAGES], size, config.seed, name("training images")
    )
    if not math.isfinite(test["bits_per_dim"] + train["bits_per_dim"]):
        raise UserError(
            "the trained model's score is not a finite number; train anew in another --out, with a"
            " lower --lr"
        )
    bound, iw_n = None, min(config.iw_images, test["n"]) if config.iw_k else 0
    if iw_n:
        images = splits.test[: config.iw_images]
        bound = importance_weighted_score(
            model, images, config.iw_k, size, config.seed, name("importance-weighted bound")
        )
    return {
        "test_bits_per_dim": test["bits_per_dim"],
        "test_bits_per_dim_se": test["bits_per_dim_se"],
        "train_bits_per_dim": train["bits_per_dim"],
        "iw_bits_per_dim": bound,
        "iw_k": config.iw_k,
        "iw_n": iw_n,
        "n_test": test["n"],
        "n_train": train["n"],
        "kl_bits_per_dim": test["kl_bits_per_dim"],
        "perplexity": test["perplexity"],
        "codes_in_use": test["codes_in_use"],
    }


def versions() -> dict[str, str]:
    """Of what computed the numbers."""
    import accelerate

    return {
        "rrvqlib": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "accelerate": accelerate.__version__,
    }


def hardware(device: torch.device, processes: int) -> dict[str, Any]:
    """What computed the numbers; no names of machines."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"CPU, {platform.machine()}, {torch.get_num_threads()} threads"
    return {"device": name, "processes": processes}


def check_same_run(stored: dict[str, Any], config: RunConfig) -> None:
    """Raise UserError where a checkpoint was made with settings that change the run."""
    free = {"data_dir", "start_from", "device", "save_every", "iw_k", "iw_images"}

    def comparable(settings: dict[str, Any]) -> dict[str, Any]:
        kind, _, path = settings["dataset"].partition(":")  # the data may lie elsewhere now
        return json.loads(
            json.dumps({**settings, "dataset": f"{kind}:{Path(path).name}".rstrip(":")})
        )

    defaults = {f.name: f.default for f in fields(config)}  # of settings younger than the file
    stored, now = comparable(defaults | stored), comparable(asdict(config))
    for f in fields(config):
        if f.name not in free and stored[f.name] != now[f.name]:
            raise UserError(
                f"--{f.name} {now[f.name]}: the checkpoint was made with {stored[f.name]};"
                " resume with the same settings, or train anew in another --out"
            )


def on_cpu(config: RunConfig) -> bool:
    return config.device == "cpu" or not torch.cuda.is_available()


def join_processes(config: RunConfig) -> PartialState:
    """Meet the other processes of this run, if it was launched with several."""
    # One process scores while the others wait, longer than the usual half hour.
    return PartialState(cpu=on_cpu(config), timeout=timedelta(hours=12))


def train(
    config: RunConfig, out: Path, name: str, resume: bool = False, show_progress: bool = True
) -> dict[str, Any] | None:
    """Train a run and write its folder; returns the results (None in helper processes).

    Raises:
        UserError: something that the user can mend.
        Stopped: a signal came; the run is saved.
    """
    with join_processes(config).main_process_first():  # one alone downloads
        splits = data.load(config.dataset, config.data_dir, config.image_size)
    trainer = Trainer(config, splits, out, name, resume)
    if resume:
        trainer.resume()
        if trainer.progress.step == config.steps and (out / "results.json").exists():
            return read_json(out / "results.json")  # finished before
    trainer.run(show_progress)
    if trainer.accelerator.is_main_process:
        results = trainer.finish("scoring " if show_progress else "")
    else:
        results = None
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    return results
