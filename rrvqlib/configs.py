"""Settings of models and runs, and the named runs.

Frozen dataclasses of plain values; importing this module does not import torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from rrvqlib.errors import UserError

Sides = tuple[int, ...]

# Beyond these a network would not be built in an hour, or fit into any memory; a foreign
# config.json may ask for them.
MAX_LAYERS, MAX_BLOCKS, MAX_WIDTH, MAX_SIDE = 1000, 1000, 65_536, 8192
MAX_LR = 1.0


def setting(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    """A dataclass field with the text and the choices that `--help` shows."""
    return field(default=default, metadata={"help": help, "choices": choices})


def parse_sides(text: str) -> Sides:
    """`16*4,8*2,4` -> (16, 16, 16, 16, 8, 8, 4)."""
    sides: list[int] = []
    for part in text.replace(" ", "").split(","):
        side, star, times = part.partition("*")
        count = int(times) if star else 1
        if not 1 <= count <= MAX_LAYERS:
            raise ValueError(part)
        sides += [int(side)] * count
    return tuple(sides)


@dataclass(frozen=True)
class ModelConfig:
    """What a model is; stored in its `config.json`."""

    model: str = setting(
        "hierarchy",
        "hierarchy (Eq 3-5), or one layer: vqvae (Eq 1), relaxed-vqvae (Eq 2), spatial-vae (App B),"
        " and the rivals leave-one-out and vimco",
        ("hierarchy", "vqvae", "relaxed-vqvae", "spatial-vae", "leave-one-out", "vimco"),
    )
    latent: str = setting(
        "codebook",
        "latents of a hierarchy: codebook (RRVQ), gaussian (hierarchical Spatial-VAE), nearest"
        " (VQ-VAE-2) or binary (bits, trained by the trapezoid rule)",
        ("codebook", "gaussian", "nearest", "binary"),
    )
    image_size: int = setting(32, "side of the images in pixels")
    pyramid: Sides = setting(
        (16, 16, 8, 4),
        "side of each layer's grid of latents, l=1 (nearest the pixels) first; 16*8,8*8 repeats",
    )
    codes: Sides = setting((256,), "K, codes per codebook; one number, or one per layer")
    code_size: int = setting(32, "D, size of a code; of each Gaussian latent's z")
    network: str = setting(
        "conv", "of one-layer models: conv (App B) or mlp (App H)", ("conv", "mlp")
    )
    channels: int = setting(64, "width of the networks")
    blocks: int = setting(1, "residual blocks between two layers of latents (hidden layers of mlp)")
    ladder_blocks: int = setting(0, "residual blocks in ladders and straps; 0: one convolution")
    decoder_input: str = setting(
        "add",
        "how a code joins the decoder: add to its state, or concat inside the residual block",
        ("add", "concat"),
    )
    init_scale: float = setting(0.1, "standard deviation of ladders, straps, branches at init")
    covariance: str = setting(
        "isotropic",
        "of codes: isotropic (correct normaliser), diagonal, as_printed (Eq 6), fixed (Eq 2),"
        " shared (SQ-VAE: one for all codes, and its Gaussian term in training)",
        ("isotropic", "diagonal", "as_printed", "fixed", "shared"),
    )
    prior: str = setting(
        "embedding",
        "p(z_l | above): embedding (Eq 7) or direct (softmax of logits)",
        ("embedding", "direct"),
    )
    top_prior: str = setting(
        "learnt",
        "of the top layer: learnt (a tiled vector through pstrap) or uniform",
        ("learnt", "uniform"),
    )
    sample: str = setting(
        "straight-through",
        "training samples: straight-through or soft",
        ("straight-through", "soft"),
    )
    codebook_init: str = setting(
        "normal",
        "normal (std D^-1/2), unit (std 1) or kmeans (of the first batch's features)",
        ("normal", "unit", "kmeans"),
    )
    codebook_update: str = setting(
        "ema", "VQ-VAE codes learn by moving averages (ema) or by a loss", ("ema", "loss")
    )
    commitment: float = setting(0.25, "VQ-VAE: beta, weight of the commitment loss")
    codebook_decay: float = setting(0.99, "VQ-VAE: decay of the moving averages")
    restart_below: float = setting(
        0.1, "VQ-VAE: restart codes used less often than this per batch; 0: never"
    )
    second_stage: str = setting(
        "none",
        "a prior learnt over the codes of a finished, frozen run (--start_from): pixelcnn"
        " (VQ-VAE), or greedy, a layer of codes above them (HQA), the pyramid's last",
        ("none", "pixelcnn", "greedy"),
    )
    prior_channels: int = setting(64, "width of the second stage's networks")
    prior_blocks: int = setting(5, "gated layers of a PixelCNN; residual blocks of a greedy layer")
    samples: int = setting(8, "M, samples an image in training; models leave-one-out and vimco")
    likelihood: str = setting(
        "logistic",
        "of the pixels: logistic (Kingma's form, the paper's), logistic-edge (outermost bins reach"
        " to infinity), logistic-pixel (a scale for every sub-pixel), mixture (of logistics, in"
        " which green knows red, and blue both: PixelCNN++)",
        ("logistic", "logistic-edge", "logistic-pixel", "mixture"),
    )
    components: int = setting(5, "M, logistics of a mixture likelihood")
    scale_per_channel: bool = setting(
        True, "likelihoods logistic and logistic-edge: one scale per colour channel, else one"
    )

    def __post_init__(self) -> None:
        for name in ("pyramid", "codes"):  # JSON has no tuples
            value = getattr(self, name)
            if isinstance(value, int):
                value = (value,)
            object.__setattr__(self, name, tuple(value))
        check_choices(self)
        for f in fields(self):
            value = getattr(self, f.name)
            for number in value if isinstance(value, tuple) else (value,):
                # What torch can hold: float32 and int64.
                if isinstance(number, float):
                    require(self, f.name, abs(number) < 3e38, "a finite number, below 3e38")
                if isinstance(number, int):
                    require(self, f.name, abs(number) < 2**63, "below 2^63")
        self._check_pyramid()
        for name in (
            "code_size",
            "channels",
            "blocks",
            "prior_channels",
            "prior_blocks",
            "components",
        ):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        require(self, "ladder_blocks", self.ladder_blocks >= 0, "0 or more")
        for name in ("blocks", "ladder_blocks", "prior_blocks"):
            require(self, name, getattr(self, name) <= MAX_BLOCKS, f"at most {MAX_BLOCKS}")
        for name in ("channels", "code_size", "prior_channels", "samples"):
            require(self, name, getattr(self, name) <= MAX_WIDTH, f"at most {MAX_WIDTH}")
        stacked = self.layers * (self.blocks + 3 * self.ladder_blocks)
        most = 10 * MAX_BLOCKS
        require(self, "blocks", stacked <= most, f"fewer: more than {most} blocks in all layers")
        require(self, "init_scale", 0 < self.init_scale <= 100, "above 0, at most 100")
        require(
            self,
            "codes",
            len(self.codes) in (1, len(self.pyramid)),
            f"one number or one for each of the {len(self.pyramid)} layers of the pyramid",
        )
        good = 1 <= min(self.codes) and max(self.codes) <= MAX_WIDTH
        require(self, "codes", good, f"at least 1, at most {MAX_WIDTH}")
        require(self, "samples", self.samples >= 2, "at least 2")
        require(
            self,
            "second_stage",
            self.second_stage == "none" or self._has_uniform_codes,
            "none, unless the first stage has codes under uniform priors (one layer of codes, or"
            " pixelcnn with --latent nearest)",
        )
        require(self, "commitment", self.commitment >= 0, "0 or more")
        require(self, "codebook_decay", 0 < self.codebook_decay < 1, "between 0 and 1")
        require(self, "restart_below", self.restart_below >= 0, "0 or more")

    def _check_pyramid(self) -> None:
        sides = (self.image_size, *self.pyramid)
        most = f"at most {MAX_SIDE}"
        require(self, "image_size", self.image_size <= MAX_SIDE, most)
        require(self, "pyramid", len(self.pyramid) <= MAX_LAYERS, f"at most {MAX_LAYERS} layers")
        good = min(sides) >= 1 and len(self.pyramid) >= 1 and self.image_size >= 2
        require(self, "pyramid", good, "at least one layer, sides of 1 or more")
        for below, above in zip(sides, sides[1:], strict=False):
            ratio = below // above
            halves = below == above * ratio and ratio & (ratio - 1) == 0
            require(
                self,
                "pyramid",
                halves,
                f"sides that stay or halve from the image ({self.image_size}) upwards",
            )
        require(
            self,
            "pyramid",
            self.pyramid[0] < self.image_size,
            f"a first side below the image's {self.image_size}",
        )
        if self.model == "hierarchy":
            require(self, "network", self.network == "conv", "conv, since model is hierarchy")
        else:
            greedy = self.second_stage == "greedy"
            require(
                self,
                "pyramid",
                len(self.pyramid) == 1 + greedy,
                f"one side only, since {self.model} has one layer"
                if not greedy
                else "two sides, the one layer's and the greedy layer's",
            )
            require(
                self,
                "latent",
                self.latent == "codebook",
                f"left out, since model {self.model} settles it",
            )

    @property
    def _has_uniform_codes(self) -> bool:
        if self.model == "hierarchy":
            return self.latent == "nearest" and self.second_stage == "pixelcnn"
        return self.model != "spatial-vae"

    @property
    def first_stage(self) -> ModelConfig:
        """The model whose codes the second stage is about."""
        layers = self.layers - (self.second_stage == "greedy")
        values = {f.name: getattr(self, f.name) for f in fields(ModelConfig)}
        for name in ("second_stage", "prior_channels", "prior_blocks"):
            del values[name]
        codes = self.codes if len(self.codes) == 1 else self.codes[:layers]
        return ModelConfig(**(values | {"pyramid": self.pyramid[:layers], "codes": codes}))

    @property
    def layers(self) -> int:
        """L."""
        return len(self.pyramid)

    @property
    def codes_per_layer(self) -> Sides:
        """K of each layer, l = 1 first."""
        return self.codes * self.layers if len(self.codes) == 1 else self.codes

    @property
    def dims(self) -> int:
        """Sub-pixels per image, the dims of bits per dim."""
        return 3 * self.image_size**2

    @property
    def latent_variables(self) -> int:
        """M, summed over the layers."""
        return sum(side**2 for side in self.pyramid)

    @property
    def rate_ceiling(self) -> float:
        """Bits per dim that the codes can carry at most, the sum of M_l log2 K_l over the dims."""
        pairs = zip(self.pyramid, self.codes_per_layer, strict=True)
        return sum(side**2 * math.log2(K) for side, K in pairs) / self.dims


@dataclass(frozen=True)
class RunConfig(ModelConfig):
    """A model, its data and its training; every field is a flag of `python -m rrvqlib.train`."""

    dataset: str = setting(
        "photos", "photos, swatches, cifar10, svhn, celeba, folder:PATH or npz:PATH"
    )
    data_dir: str = setting("data", "where downloaded data sets are kept")
    select_on: str = setting(
        "validation",
        "what the schedule watches: validation images, or the test images, as the paper does; then"
        " all others are trained on, and the test score has had a say in itself",
        ("validation", "test"),
    )
    seed: int = setting(0, "of initialisation, order and noise")
    start_from: str = setting(
        "",
        "folder of a finished run whose weights this one starts with (its optimiser starts afresh);"
        " with --second_stage, the run of the first",
    )

    steps: int = setting(1000, "optimiser steps; with --seconds, the length of the schedules alone")
    seconds: float = setting(
        0.0,
        "train by the clock: all schedules follow the time, and the run is scored when it is up;"
        " 0: by steps",
    )
    batch_size: int = setting(64, "images per step, global: shared by all processes")
    optimizer: str = setting("adamax", "adamax or adam", ("adamax", "adam"))
    lr: float = setting(8e-3, "learning rate of the networks at the start (after warm-up)")
    codebook_lr_factor: float = setting(
        5.0, "learning rate of codebooks and likelihood scale, as a multiple of lr"
    )
    lr_warmup: int = setting(
        50, "steps over which the learning rate rises from 0 (not with schedule plateau)"
    )
    schedule: str = setting(
        "cosine",
        "of the learning rate: cosine (to lr_min), plateau (x 0.8) or constant",
        ("cosine", "plateau", "constant"),
    )
    lr_min: float = setting(5e-5, "learning rate at the end")
    plateau_patience: int = setting(
        20,
        "evaluations in a row without a better validation ELBO after which lr falls (schedule"
        " plateau)",
    )
    max_grad_norm: float = setting(
        1.0, "gradients of the loss in bits per dim are clipped to this norm; 0: off"
    )
    skip_above: float = setting(
        20.0, "skip a step whose gradient norm exceeds this many running medians; 0: never"
    )
    max_skipped: int = setting(
        100, "skipped steps in a row after which training stops with a message"
    )
    ema: float = setting(0.999, "decay of the weights' average, used to evaluate; 0: off")

    temperature: float = setting(1.0, "of the Gumbel-softmax at the start")
    temperature_end: float = setting(0.5, "of the Gumbel-softmax at the end")
    temperature_schedule: str = setting(
        "exponential", "how it falls between the two", ("exponential", "linear", "constant")
    )
    temperature_fraction: float = setting(1.0, "fraction of the steps over which it falls")
    kl_warmup: float = setting(0.02, "fraction of the steps over which the KL's weight rises to 1")
    free_nats: float = setting(0.0, "free bits: nats of KL that cost nothing; 0: off")
    free_nats_group: str = setting(
        "layer", "free nats per layer and image, or per position", ("layer", "position")
    )

    eval_every: int = setting(250, "steps between evaluations on validation images")
    eval_images: int = setting(500, "validation images in each of these; 0: all")
    save_every: int = setting(1000, "steps between checkpoints")
    iw_k: int = setting(100, "samples per image of the importance-weighted bound; 0: off")
    iw_images: int = setting(500, "first test images it is computed on")

    device: str = setting(
        "auto",
        "auto (a GPU where there is one), cpu, cuda or mps",
        ("auto", "cpu", "cuda", "mps"),
    )
    precision: str = setting(
        "fp32",
        "of the networks in training: fp32, bf16 (autocast), or auto: bf16 where a GPU has it",
        ("auto", "fp32", "bf16"),
    )
    compile: bool = setting(False, "torch.compile the layers, those of one kind once")
    cuda_graphs: str = setting(
        "auto",
        "record the whole step once and replay it; auto: on a GPU, with one process and without"
        " grad_accumulation",
        ("auto", "true", "false"),
    )
    channels_last: bool = setting(True, "memory layout of images and convolutions")
    grad_accumulation: int = setting(1, "micro-batches per step, when memory is short")
    weights_dtype: str = setting(
        "float32", "of the weights that a finished run writes", ("float32", "float16")
    )
    shard_mb: int = setting(5000, "megabytes that a file of these weights may hold")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "steps",
            "batch_size",
            "eval_every",
            "save_every",
            "grad_accumulation",
            "plateau_patience",
            "max_skipped",
            "shard_mb",
        ):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("lr", "codebook_lr_factor", "temperature", "temperature_end"):
            require(self, name, getattr(self, name) > 0, "above 0")
        # AdaMax and Adam move every weight by about lr a step, and weights are below 1.
        require(self, "lr", self.lr <= MAX_LR, f"at most {MAX_LR:g}, the size of a weight")
        require(self, "codebook_lr_factor", self.codebook_lr_factor <= 1e4, "at most 10000")
        for name in (
            "seconds",
            "lr_warmup",
            "lr_min",
            "max_grad_norm",
            "skip_above",
            "free_nats",
            "eval_images",
            "iw_k",
            "iw_images",
            "seed",
        ):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        for name in ("kl_warmup", "temperature_fraction"):
            require(self, name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        require(
            self,
            "start_from",
            self.start_from or self.second_stage == "none",
            "the folder of a finished run of the first stage, since --second_stage is"
            f" {self.second_stage}",
        )
        require(self, "seed", self.seed < 2**24, "below 16777216")  # 40 bits count the steps
        require(self, "ema", 0 <= self.ema < 1, "0 or more and below 1")
        require(self, "lr_min", self.lr_min <= self.lr, f"at most lr ({self.lr})")
        require(
            self,
            "temperature_end",
            self.temperature_end <= self.temperature,
            f"at most temperature ({self.temperature})",
        )
        require(
            self,
            "batch_size",
            self.batch_size % self.grad_accumulation == 0,
            f"a multiple of grad_accumulation ({self.grad_accumulation})",
        )
        require(
            self,
            "cuda_graphs",
            self.grad_accumulation == 1 or self.cuda_graphs != "true",
            "auto or false with --grad_accumulation",
        )
        by_batch = self.free_nats > 0 or self.model == "vqvae" or self.latent == "nearest"
        require(
            self,
            "grad_accumulation",
            self.grad_accumulation == 1 or not by_batch,
            "1 with --free_nats or nearest codes, which go by the whole batch",
        )

    @property
    def model_config(self) -> ModelConfig:
        """The part that describes the model."""
        return ModelConfig(**{f.name: getattr(self, f.name) for f in fields(ModelConfig)})


def require(config: Any, name: str, holds: bool, rule: str) -> None:
    """Raise the error that names the setting, its value and the rule it breaks."""
    if not holds:
        raise UserError(f"--{name} {show_setting(getattr(config, name))}: must be {rule}")


def show_setting(value: Any) -> str:
    """As one writes it on the command line."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def check_choices(config: Any) -> None:
    for f in fields(config):
        choices = f.metadata["choices"]
        if choices:
            require(
                config, f.name, getattr(config, f.name) in choices, "one of " + ", ".join(choices)
            )


@dataclass(frozen=True)
class NamedRun:
    """A run that `--run NAME` starts, with what it costs and what score to expect."""

    config: RunConfig
    cost: str
    expect: str
