"""A model, its data and its training; every field is a flag of `python -m rrvqlib.train`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rrvqlib.data.registry import DATASETS
from rrvqlib.settings.fields import SettingError, Settings, part, setting
from rrvqlib.settings.model import ModelSettings
from rrvqlib.settings.optimisation import OptimisationSettings, ScheduleSettings


@dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    """The images."""

    dataset: str = setting("photos", ", ".join(DATASETS))
    data_dir: str = setting("data", "where data sets are kept that are downloaded, or decoded once")
    select_on: Literal["validation", "test"] = setting(
        "validation",
        "what the schedule watches: validation images, or the test images, as the paper does; then"
        " all others are trained on, and the test score has had a say in itself",
    )


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(Settings):
    """What is scored and saved, and when."""

    eval_every: int = setting(250, "steps between evaluations on validation images", at_least=1)
    eval_images: int = setting(500, "validation images in each of these; 0: all", at_least=0)
    save_every: int = setting(1000, "steps between checkpoints", at_least=1)
    iw_k: int = setting(
        100, "samples per image of the importance-weighted bound; 0: off", at_least=0
    )
    iw_images: int = setting(500, "first test images it is computed on", at_least=0)


@dataclass(frozen=True, kw_only=True)
class MachineSettings(Settings):
    """Where and how it is computed, and what is written."""

    device: Literal["auto", "cpu", "cuda", "mps"] = setting(
        "auto", "auto (a GPU where there is one), cpu, cuda or mps"
    )
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "fp32",
        "of the networks in training: fp32, bf16 (autocast), or auto: bf16 where a GPU has it",
    )
    compile: bool = setting(False, "torch.compile the layers, those of one kind once")
    cuda_graphs: Literal["auto", "true", "false"] = setting(
        "auto",
        "record the whole step once and replay it; auto: on a GPU, with one process and without"
        " grad_accumulation",
    )
    channels_last: bool = setting(True, "memory layout of images and convolutions")
    grad_accumulation: int = setting(1, "micro-batches per step, when memory is short", at_least=1)
    weights_dtype: Literal["float32", "float16"] = setting(
        "float32", "of the weights that a finished run writes"
    )
    shard_mb: int = setting(5000, "megabytes that a file of these weights may hold", at_least=1)

    def check(self) -> None:
        if self.grad_accumulation > 1 and self.cuda_graphs == "true":
            rule = "must be auto or false with grad_accumulation"
            raise SettingError("cuda_graphs", self.cuda_graphs, rule)


@dataclass(frozen=True, kw_only=True)
class RunSettings(Settings):
    """A run *has* a model, data, an optimisation with its schedule; nested as what they are."""

    model: ModelSettings = part(ModelSettings, "model")
    data: DataSettings = part(DataSettings, "data")
    optimisation: OptimisationSettings = part(OptimisationSettings, "optimisation")
    schedule: ScheduleSettings = part(ScheduleSettings, "schedule")
    evaluation: EvaluationSettings = part(EvaluationSettings, "evaluation")
    machine: MachineSettings = part(MachineSettings, "machine")

    def check(self) -> None:
        second_stage = self.model.second_stage.kind
        if second_stage != "none" and not self.optimisation.start_from:
            rule = (
                "must be the folder of a finished run of the first stage, since second_stage is"
                f" {second_stage}"
            )
            raise SettingError("start_from", "", rule)
        batch, parts = self.optimisation.batch_size, self.machine.grad_accumulation
        if batch % parts:
            rule = f"must be a multiple of grad_accumulation ({parts})"
            raise SettingError("batch_size", batch, rule)
        latent, stage = self.model.latent, self.model.second_stage
        for what, by_batch in (
            ("free_nats", self.optimisation.free_nats > 0),
            (f"latents {latent.kind}", latent.by_batch),
            (f"second_stage {stage.kind}", stage.by_batch),
        ):
            if parts > 1 and by_batch:
                rule = f"must be 1 with {what}, where a step needs its whole batch at once"
                raise SettingError("grad_accumulation", parts, rule)

    def idle(self) -> dict[str, str]:
        found: dict[str, str] = {}
        model = self.model
        codes = model.latent.relaxes and model.objective.kind == "elbo"
        second_stage = model.second_stage.kind
        if not (codes and second_stage == "none") and second_stage != "greedy":
            why = f"with latents {model.latent.kind}"
            if model.objective.kind != "elbo":
                why = f"with objective {model.objective.kind}"
            if second_stage != "none":
                why = f"with second_stage {second_stage}"
            names = (
                "temperature",
                "temperature_end",
                "temperature_schedule",
                "temperature_fraction",
            )
            found |= dict.fromkeys(names, why)
        return found
