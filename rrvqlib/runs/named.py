"""The named runs of `python -m rrvqlib.train --run NAME`: settings, cost, expected score.

One run is another, `changed`, so that what differs is what is written. Costs on a GPU are
computed from FLOPs; a score is what was measured where book/results/ holds the run, what the paper
reports where it says so, and otherwise said to be open.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from rrvqlib import paper
from rrvqlib.settings.flat import NOTHING, changed, flattened, idle_names, written
from rrvqlib.settings.model import parse_sides
from rrvqlib.settings.run import RunSettings


@dataclass(frozen=True)
class NamedRun:
    """A run that `--run NAME` starts, with what it costs and what score to expect."""

    settings: RunSettings
    cost: str
    expect: str


L32 = parse_sides("16*8,8*8,4*8,2*8")  # App. C: four groups of eight layers
L32_64 = parse_sides("32*8,16*8,8*8,4*8")  # the same on 64x64 pixels
L5 = (16, 8, 4, 2, 1)

# Steps of 64 training images, where others validate (the last 5,000 of CIFAR-10).
CIFAR10_EPOCH = 45_000 // paper.BATCH
SVHN_EPOCH = 65_932 // paper.BATCH
CELEBA_EPOCH = 162_770 // paper.BATCH
VALIDATED_EPOCH = {"cifar10": CIFAR10_EPOCH, "svhn": SVHN_EPOCH, "celeba": CELEBA_EPOCH}

# Small enough for two CPU cores.

PHOTOS = changed(
    RunSettings(),
    pyramid=parse_sides("16*2,8,4"),
    codebook_size=(64,),
    channels=32,
    decoder_input="concat",
    batch_size=32,
    steps=500,
    eval_every=100,
    save_every=250,
    eval_images=200,
    iw_k=10,
    iw_images=50,
)

CIFAR10_CPU = changed(
    PHOTOS,
    dataset="cifar10",
    pyramid=parse_sides("16*4,8,4"),
    channels=48,
    likelihood="logistic-edge",
    lr=12e-3,
    lr_warmup=100,
    temperature_end=0.3,
    steps=7000,
    eval_every=500,
    save_every=500,
    eval_images=500,
    iw_k=100,
    iw_images=100,
)

# Beyond the paper: green knows red, and blue both; four small codebooks side by side (chapter 13).
MIXTURE = {"likelihood": "mixture", "groups": 4, "codebook_size": (16,)}
CIFAR10_CPU_MIXTURE = changed(CIFAR10_CPU, **MIXTURE, lr=0.02)

# Grey images of 28x28, whose side halves twice.
FASHION_MNIST = changed(
    CIFAR10_CPU_MIXTURE,
    dataset="fashion-mnist",
    image_size=28,
    image_channels=1,
    pyramid=parse_sides("14*3,7*2"),
    channels=32,
    lr=8e-3,
    steps=1000,
    eval_every=200,
    save_every=200,
)

CIFAR10_CPU_L32 = changed(
    CIFAR10_CPU, pyramid=L32, channels=24, lr=8e-3, steps=2200, eval_every=200, save_every=200
)

# On the six layers' budget: one layer of relaxed codes (Eq 2), and the Gaussian twin below.
CIFAR10_CPU_ONE_LAYER = changed(
    CIFAR10_CPU, model="one-layer", pyramid=(16,), covariance="fixed", blocks=2
)

# The one-layer models of App. B (32 channels, two blocks, K = D = 16) and App. H.

APPB_RVQ = changed(
    PHOTOS,
    model="one-layer",
    pyramid=(16,),
    codebook_size=(16,),
    embedding_dim=16,
    covariance="fixed",
    channels=32,
    blocks=2,
)
APPB_SPATIAL = changed(APPB_RVQ, latent="gaussian")
VQVAE = changed(APPB_RVQ, latent="nearest", pyramid=(8,), codebook_size=(128,), embedding_dim=32)
APPH_MLP = changed(
    APPB_RVQ, network="mlp", pyramid=(4,), channels=256, dataset="swatches", steps=1000
)

# Chapter 8: is a direct prior unstable? The paper's optimisation, without any of our safeguards
# but skipped steps, at its learning rate and at four times it; the raw weights evaluated often.

STABILITY = changed(
    CIFAR10_CPU,
    codebook_size=(256,),
    decoder_input="add",
    likelihood="logistic",
    schedule="constant",
    lr=8e-4,
    codebook_lr_factor=1.0,
    lr_warmup=0,
    kl_warmup=0.0,
    max_grad_norm=0.0,
    ema_decay=0.0,
    steps=600,
    eval_every=25,
    eval_images=100,
    save_every=600,
    iw_k=0,
)
STABILITIES = {
    f"{prior}-x{factor}": changed(STABILITY, prior=prior, lr=factor * 8e-4)
    for prior in ("direct", "embedding")
    for factor in (1, 4)
}

# Chapter 10: rivals and relatives on one budget, 14,400 images; one layer at 16x16, or four.

RIVAL = changed(
    PHOTOS,
    dataset="cifar10",
    model="one-layer",
    pyramid=(16,),
    covariance="fixed",
    channels=48,
    blocks=2,
    likelihood="logistic-edge",
    steps=450,
    eval_every=150,
    save_every=150,
    iw_k=0,
)
FOUR_LAYERS = changed(
    RIVAL,
    model="hierarchy",
    pyramid=parse_sides("16*2,8,4"),
    covariance="isotropic",
    decoder_input="concat",
    blocks=1,
)
RIVALS = {
    "vqvae": changed(RIVAL, latent="nearest"),
    "straight-through": RIVAL,
    "gumbel-softmax": changed(RIVAL, relaxation="soft", temperature=0.5, temperature_end=0.1),
    # Soft samples, and the temperature that its authors' 100 epochs on CIFAR-10 end with.
    "sq-vae": changed(RIVAL, latent="stochastic", relaxation="soft", temperature_end=0.25),
    "rrvq-l1": changed(RIVAL, covariance="isotropic"),
    "leave-one-out": changed(RIVAL, objective="leave-one-out"),
    "vimco": changed(RIVAL, objective="vimco"),
    # FSQ (Mentzer et al. 2023): 64 codes, as the others have.
    "fsq": changed(RIVAL, latent="scalar", levels=(8, 8)),
    # RSQ-VAE (Takida et al. 2024): the others' codebook of 64, in two stages, the fewest that leave
    # something over. The room is twice theirs, 12 bits a position, and all that is used is paid.
    "rsq-vae": changed(RIVAL, latent="residual", stages=2, relaxation="soft", temperature_end=0.25),
    # GM-VQ (Yan et al. 2024): 64 codes, but the decoder sees numbers around them.
    "gm-vq": changed(RIVAL, latent="gaussian-mixture"),
    "bits-l1": changed(FOUR_LAYERS, latent="binary", pyramid=(16,), blocks=2),
    "bits-l4": changed(FOUR_LAYERS, latent="binary"),
    "vq-vae-2": changed(FOUR_LAYERS, latent="nearest", pyramid=(16, 8)),
    # HQ-VAE's (Takida et al. 2024): SQ-VAE's codes in a hierarchy, every prior uniform.
    "sq-vae-2": changed(
        FOUR_LAYERS, latent="stochastic", prior="uniform", relaxation="soft", temperature_end=0.25
    ),
    "rrvq-l4": FOUR_LAYERS,
    "spatial-l4": changed(FOUR_LAYERS, latent="gaussian"),
}

# Second stages: each starts from the finished run of its first, and sees as many images again.
SECOND_STAGES = {
    "vqvae-pixelcnn": changed(
        RIVALS["vqvae"], second_stage="pixelcnn", start_from="runs/rival-vqvae"
    ),
    "fsq-pixelcnn": changed(RIVALS["fsq"], second_stage="pixelcnn", start_from="runs/rival-fsq"),
    "straight-through-pixelcnn": changed(
        RIVAL, second_stage="pixelcnn", start_from="runs/rival-straight-through"
    ),
    "vq-vae-2-pixelcnn": changed(
        RIVALS["vq-vae-2"], second_stage="pixelcnn", start_from="runs/rival-vq-vae-2"
    ),
    "sq-vae-2-pixelcnn": changed(
        RIVALS["sq-vae-2"], second_stage="pixelcnn", start_from="runs/rival-sq-vae-2"
    ),
    "hqa": changed(
        RIVAL, second_stage="greedy", pyramid=(16, 8), start_from="runs/rival-straight-through"
    ),
}

# Full scale: the paper's recipe wherever it states something (`rrvqlib.paper` has the statements).

PAPER_CIFAR10 = changed(
    RunSettings(),
    dataset="cifar10",
    select_on="test",
    pyramid=L32,
    codebook_size=(256,),
    embedding_dim=32,
    channels=256,
    covariance="diagonal",
    scale_per_channel=False,
    free_nats=0.25,
    batch_size=paper.BATCH,
    steps=paper.EPOCHS["cifar10"] * paper.epoch("cifar10"),
    lr=8e-4,
    codebook_lr_factor=1.0,
    schedule="plateau",
    lr_min=5e-5,
    plateau_patience=paper.PATIENCE["cifar10"],
    eval_every=paper.epoch("cifar10"),
    eval_images=0,
    save_every=paper.epoch("cifar10"),
)


def on_dataset(settings: RunSettings, dataset: str) -> RunSettings:
    """A run of the paper's schedule on another of its data sets."""
    epoch = paper.epoch(dataset)
    return changed(
        settings,
        dataset=dataset,
        steps=paper.EPOCHS[dataset] * epoch,
        plateau_patience=paper.PATIENCE[dataset],
        eval_every=epoch,
        save_every=epoch,
    )


PAPER_SVHN = on_dataset(PAPER_CIFAR10, "svhn")
PAPER_CELEBA = changed(on_dataset(PAPER_CIFAR10, "celeba"), image_size=64, pyramid=L32_64)

# Table G.1: L = 5, four residual blocks between latents and in ladders and straps. The paper gives
# no width, but for CelebA that it is less.
FIVE = {"pyramid": L5, "blocks": 4, "ladder_blocks": 4, "top_prior": "uniform"}
PAPER_L5 = changed(PAPER_CIFAR10, **FIVE, embedding_dim=128, channels=64)
PAPER_L5_CELEBA = changed(PAPER_CELEBA, **FIVE, codebook_size=(128, 64, 32, 16, 8), channels=32)
CELLS = {
    "rrvq": {},
    "embedding-fixed": {"covariance": "fixed"},
    "direct-learnt": {"prior": "direct"},
    "direct-fixed": {"prior": "direct", "covariance": "fixed"},
}


def validated(settings: RunSettings) -> RunSettings:
    """The same, but for what decides: validation images, cut from those for training."""
    epoch = VALIDATED_EPOCH[settings.data.dataset]
    epochs = paper.EPOCHS[settings.data.dataset]
    return changed(
        settings, select_on="validation", steps=epochs * epoch, eval_every=epoch, save_every=epoch
    )


def as_printed(settings: RunSettings) -> RunSettings:
    """The same, but for Eqs. (6) and (7): as they stand in our copy of the paper."""
    return changed(settings, covariance="as_printed")


GPU = {"precision": "auto", "compile": True}
OURS = {
    "schedule": "cosine",
    "batch_size": 128,
    "lr": 2e-3,
    "codebook_lr_factor": 5.0,
    "lr_warmup": 500,
    "decoder_input": "concat",
    "likelihood": "logistic-edge",
    "eval_images": 1000,
    **GPU,
}
CLEAN = {"covariance": "isotropic", "scale_per_channel": True, "free_nats": 0.0}
CIFAR10_L32 = changed(validated(PAPER_CIFAR10), **CLEAN, **OURS, steps=100 * CIFAR10_EPOCH)
SVHN_L32 = changed(validated(PAPER_SVHN), **CLEAN, **OURS, steps=100 * SVHN_EPOCH)
CELEBA_L32 = changed(validated(PAPER_CELEBA), **CLEAN, **OURS, steps=30 * CELEBA_EPOCH)
NARROW = {"steps": 30_000, "lr": 4e-3, "eval_every": 1000, "save_every": 1000}
CIFAR10_C32 = changed(CIFAR10_L32, channels=32, **NARROW)
CIFAR10_C64 = changed(CIFAR10_L32, channels=64, **NARROW)
CIFAR10_C64_MIXTURE = changed(CIFAR10_C64, **MIXTURE)
CIFAR10_C128 = changed(CIFAR10_L32, channels=128, **NARROW)

# The grid of Table G.1, and the pyramid of App. F, with what we think cleaner.
L5_RRVQ = changed(validated(PAPER_L5), **CLEAN)
L5_CELEBA = changed(validated(PAPER_L5_CELEBA), **CLEAN)


def spatial(settings: RunSettings) -> RunSettings:
    """The Gaussian twin of a hierarchy."""
    return changed(settings, latent="gaussian")


OPEN = "score open: not run yet"
TABLE_G1 = {
    ("cifar10", "rrvq"): "4.65",
    ("cifar10", "embedding-fixed"): "5.11",
    ("cifar10", "direct-learnt"): "5.10",
    ("cifar10", "direct-fixed"): "5.05",
    ("svhn", "rrvq"): "2.96",
    ("svhn", "embedding-fixed"): "3.41",
    ("svhn", "direct-learnt"): "calls it unstable",
    ("svhn", "direct-fixed"): "3.32",
}  # test images

RUNS: dict[str, NamedRun] = {
    "photos": NamedRun(PHOTOS, "2 minutes on 2 CPU cores", "measured 6.00 bits/dim"),
    "photos-mixture": NamedRun(
        changed(PHOTOS, likelihood="mixture"), "2 minutes on 2 CPU cores", "measured 6.31"
    ),
    "cifar10-cpu": NamedRun(CIFAR10_CPU, "85 minutes on a CPU core", "measured 4.85"),
    "cifar10-cpu-mixture": NamedRun(
        CIFAR10_CPU_MIXTURE, "90 minutes on a CPU core", "measured 4.28"
    ),
    "cifar10-cpu-mixture-spatial": NamedRun(
        spatial(CIFAR10_CPU_MIXTURE), "95 minutes on a CPU core", "measured 4.17"
    ),
    "cifar10-cpu-l32": NamedRun(CIFAR10_CPU_L32, "an hour on a CPU core", "measured 5.14"),
    "cifar10-cpu-spatial": NamedRun(
        spatial(CIFAR10_CPU), "85 minutes on a CPU core", "measured 4.47"
    ),
    "cifar10-cpu-one-layer": NamedRun(
        CIFAR10_CPU_ONE_LAYER, "25 minutes on a CPU core", "measured 5.64"
    ),
    "fashion-mnist-cpu": NamedRun(FASHION_MNIST, "10 minutes on a CPU core", OPEN),
    "mnist-cpu": NamedRun(
        changed(FASHION_MNIST, dataset="mnist"), "10 minutes on a CPU core", OPEN
    ),
    "appb-rvq": NamedRun(APPB_RVQ, "1 minute on 2 CPU cores", "Fig B.2: patchy samples"),
    "appb-spatial": NamedRun(APPB_SPATIAL, "1 minute on 2 CPU cores", "Fig B.2: patchy samples"),
    "apph-mlp": NamedRun(APPH_MLP, "1 minute on 2 CPU cores", "Fig H.10: uniform samples"),
    "vqvae": NamedRun(VQVAE, "1 minute on 2 CPU cores", OPEN),
    **{
        f"stability-{name}": NamedRun(settings, "7 minutes on a CPU core", "chapter 8")
        for name, settings in STABILITIES.items()
    },
    **{
        f"rival-{name}": NamedRun(settings, "3 minutes on a CPU core", "chapter 10")
        for name, settings in (RIVALS | SECOND_STAGES).items()
    },
    **{
        f"cifar10-l5-{cell}": NamedRun(
            changed(L5_RRVQ, **changes), "GPU hours", f"paper {TABLE_G1['cifar10', cell]}"
        )
        for cell, changes in CELLS.items()
    },
    "celeba-l5": NamedRun(L5_CELEBA, "GPU hours", "2275 bits per image, Fig F.9"),
    "cifar10-l32": NamedRun(CIFAR10_L32, "GPU: 0.46 EFLOP", "aims below the paper's 3.94"),
    "svhn-l32": NamedRun(SVHN_L32, "GPU: 0.67 EFLOP", "aims below the paper's 2.30"),
    "celeba-l32": NamedRun(CELEBA_L32, "GPU: 2.0 EFLOP", "aims below the paper's 2.97"),
    "cifar10-l32-c32": NamedRun(CIFAR10_C32, "GPU: 6.4 PFLOP", OPEN),
    "cifar10-l32-c64": NamedRun(
        CIFAR10_C64, "GPU: 17 PFLOP", "measured 4.43 at batch 256 in 7 minutes"
    ),
    "cifar10-l32-c128": NamedRun(CIFAR10_C128, "GPU: 54 PFLOP", OPEN),
    "cifar10-l32-16gb": NamedRun(
        changed(CIFAR10_C128, precision="fp32", batch_size=64, grad_accumulation=2),
        "GPU of 16 GB without bf16: 27 PFLOP",
        OPEN,
    ),
    "cifar10-l32-spatial": NamedRun(spatial(CIFAR10_L32), "GPU: 0.48 EFLOP", "paper 3.55"),
    "cifar10-l32-c64-spatial": NamedRun(spatial(CIFAR10_C64), "GPU: 19 PFLOP", OPEN),
    "cifar10-l32-c64-mixture": NamedRun(CIFAR10_C64_MIXTURE, "GPU: 16 PFLOP", OPEN),
    "cifar10-l32-c64-mixture-spatial": NamedRun(
        spatial(CIFAR10_C64_MIXTURE), "GPU: 19 PFLOP", OPEN
    ),
    "svhn-l32-spatial": NamedRun(spatial(SVHN_L32), "GPU: 0.71 EFLOP", "paper 1.94"),
    "celeba-l32-spatial": NamedRun(spatial(CELEBA_L32), "GPU: 2.1 EFLOP", "paper 2.54"),
}


# The paper's recipe, with the paper's score to be compared with.
PAPER = {
    "cifar10-l32": NamedRun(PAPER_CIFAR10, "GPU: 1.02 EFLOP", "paper 3.94"),
    "svhn-l32": NamedRun(PAPER_SVHN, "GPU: 1.50 EFLOP", "paper 2.30"),
    "celeba-l32": NamedRun(PAPER_CELEBA, "GPU: 4.8 EFLOP", "paper 2.97"),
    **{
        f"{dataset}-l5-{cell}": NamedRun(
            changed(on_dataset(PAPER_L5, dataset), **CELLS[cell]), "GPU days", f"paper {score}"
        )
        for (dataset, cell), score in TABLE_G1.items()
    },
    "celeba-l5": NamedRun(PAPER_L5_CELEBA, "GPU days", "2275 bits per image, Fig F.9"),
}
RUNS |= {
    f"{name}-paper": replace(run, expect=f"{run.expect}; selects on test")
    for name, run in PAPER.items()
}
# As printed, and the Gaussian twins: each changes one thing.
RUNS |= {
    f"{name}-paper-as-printed": replace(
        run, settings=as_printed(run.settings), expect=f"{run.expect}; selects on test"
    )
    for name, run in PAPER.items()
    if name.endswith(("-l32", "-rrvq", "celeba-l5"))
}
# Fewer training images with validation; Gaussians cost a tenth more.
for _name, _validated, _spatial, _score in (
    ("cifar10-l32", "0.93", "1.10", 3.55),
    ("svhn-l32", "1.36", "1.62", 1.94),
    ("celeba-l32", "4.3", "5.2", 2.54),
):
    _run = PAPER[_name]
    RUNS[f"{_name}-paper-validated"] = NamedRun(
        validated(_run.settings), f"GPU: {_validated} EFLOP", _run.expect
    )
    RUNS[f"{_name}-paper-spatial"] = NamedRun(
        spatial(_run.settings), f"GPU: {_spatial} EFLOP", f"paper {_score}; selects on test"
    )


def command(name: str, settings: RunSettings, out: Path) -> str:
    """The one command that repeats a run: its named run, and what differs from that.

    Args:
        name: of the run; one that is not in `RUNS` starts from `photos`, the default.
        settings: all of the run.
        out: its folder.
    """
    name = name if name in RUNS else "photos"
    words = ["python", "-m", "rrvqlib.train", "--run", name]
    named, idle = flattened(RUNS[name].settings), idle_names(settings)
    for flag, value in flattened(settings).items():
        if flag not in idle and value != named.get(flag):
            words += [f"--{flag}", written(value) or NOTHING]
    return shlex.join([*words, "--out", str(out)])
