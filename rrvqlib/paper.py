"""What the paper states of its models and their training, and what it leaves open.

Two tables. `STATED`: each statement with its place, the runs it is about, and the settings that are
it. `OPEN`: what the paper does not say, with the settings that the `-paper` runs have there, and
why. The tests hold every `-paper` run to both; book/recipe.md prints them (tools/recipe_page.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

EPOCHS = {"cifar10": 500, "svhn": 500, "celeba": 160}
# Every image that is not a test image, as the paper watches no others.
EPOCH_IMAGES = {"cifar10": 50_000, "svhn": 73_257, "celeba": 182_637}
PATIENCE = {"cifar10": 20, "svhn": 20, "celeba": 5}
BATCH = 64


@dataclass(frozen=True)
class Statement:
    """One statement of the paper.

    Attributes:
        where: section, appendix, equation or table.
        says: the statement, in our words.
        runs: patterns of names of runs that it is about, as of a shell.
        settings: of these runs, name -> value.
        code: where there is no setting for it, since all models here have it: what has.
    """

    where: str
    says: str
    runs: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    code: str = ""

    def is_about(self, run: str) -> bool:
        """Whether the statement is about the run of this name."""
        return any(fnmatch(run, pattern) for pattern in self.runs)


@dataclass(frozen=True)
class Gap:
    """Something that the paper leaves open.

    Attributes:
        what: is not said.
        settings: of every `-paper` run that `runs` matches, name -> value.
        why: the choice.
        runs: as for `Statement`.
    """

    what: str
    why: str
    settings: dict[str, Any] = field(default_factory=dict)
    runs: tuple[str, ...] = ("*-paper",)

    def is_about(self, run: str) -> bool:
        """Whether the choice is one of the run of this name."""
        return any(fnmatch(run, pattern) for pattern in self.runs)


def epoch(dataset: str) -> int:
    """Steps of an epoch: whole batches."""
    return EPOCH_IMAGES[dataset] // BATCH


ALL = ("*-paper",)
HIERARCHIES = ("*-l32-paper", "*-l5-*-paper", "celeba-l5-paper")
L32 = ("*-l32-paper",)
L5 = ("*-l5-*-paper", "celeba-l5-paper")
SMALL_L32 = ("cifar10-l32-paper", "svhn-l32-paper")
SMALL_L5 = ("cifar10-l5-*-paper", "svhn-l5-*-paper")
RRVQ = ("*-l32-paper", "*-l5-rrvq-paper", "celeba-l5-paper")
APP_B = ("appb-*",)

STATED: tuple[Statement, ...] = (
    Statement(
        "Section 3.1, Eqs. (3) to (5)",
        "L layers of categorical variables, each with a prior and a posterior given those above;"
        " one KL a layer",
        HIERARCHIES,
        {"model": "hierarchy", "latent": "relaxed", "objective": "elbo"},
    ),
    Statement(
        "Section 3.2.1",
        "a second codebook holds the diagonal covariance matrix of each component",
        RRVQ,
        {"covariance": "diagonal"},
    ),
    Statement(
        "Sections 3.2.2, 4",
        "each layer has its own pair of codebooks, which prior and posterior share",
        HIERARCHIES,
        code="rrvqlib.latents.RelaxedLatent",
    ),
    Statement(
        "Section 3.2.2, Eq. (7)",
        "the prior's probabilities are responsibilities of an embedding, in the posterior's"
        " codebooks",
        RRVQ,
        {"prior": "embedding"},
    ),
    Statement(
        "Section 4",
        "L = 32; four blocks of eight layers, a quarter of the variables from block to block",
        L32,
        code="rrvqlib.runs.named.L32",
    ),
    Statement(
        "Section 4, Appendix B",
        "some small changes at 64 × 64: ≈ 10,000 latent variables, where 32 × 32 has ≈ 2000",
        ("celeba-l32-paper",),
        {"image_size": 64},
    ),
    Statement(
        "Section 4.1",
        "bits per dim are those of categorical samples, not of relaxed ones",
        ALL,
        code="rrvqlib.runs.scoring.score",
    ),
    Statement(
        "Appendix C",
        "the basic structure of a ResNet VAE (Kingma et al. 2016), hyperparameters of the networks"
        " included, but for the narrowing grids, RRVQ, and a slightly slower initial rate",
        HIERARCHIES,
        code="rrvqlib.models.hierarchy.HierarchicalVAE",
    ),
    Statement(
        "Appendix C",
        "the first and the last network are (transposed) convolutions of stride 2",
        HIERARCHIES,
        code="rrvqlib.nets.encoder.stem, rrvqlib.nets.decoder.head",
    ),
    Statement(
        "Appendix C",
        "the other networks of the backbones are one residual block each",
        L32,
        {"blocks": 1},
    ),
    Statement(
        "Appendix C",
        "those of the decoder have a transposed convolution inside",
        HIERARCHIES,
        code="rrvqlib.nets.convolutions.ResidualBlock",
    ),
    Statement(
        "Appendix C",
        "where grids change, the identity path is rescaled, differentiably",
        HIERARCHIES,
        code="rrvqlib.nets.convolutions.rescale",
    ),
    Statement(
        "Appendix C", "ladders and straps are one convolution each", L32, {"ladder_blocks": 0}
    ),
    Statement(
        "Appendix C",
        "straps upscale with a stride of 2",
        HIERARCHIES,
        code="rrvqlib.nets.convolutions.Projection",
    ),
    Statement(
        "Appendix C",
        "posterior embeddings are the sum of qladder and qstrap, prior embeddings are those of"
        " pstrap",
        HIERARCHIES,
        code="rrvqlib.models.top_down.TopDownLayer",
    ),
    Statement(
        "Appendix C",
        "256 channels, embeddings of 32 numbers, 256 codes a layer",
        L32,
        {"channels": 256, "embedding_dim": 32, "codebook_size": (256,), "groups": 1},
    ),
    Statement(
        "Appendix C",
        "the discretised logistic likelihood of Kingma et al. (2016), whose bins have one width",
        ALL,
        {"likelihood": "logistic"},
    ),
    Statement(
        "Appendix C",
        "weight normalisation and ELU",
        ALL,
        code="rrvqlib.nets.convolutions.weight_normed",
    ),
    Statement(
        "Appendix C",
        "free bits, as in Kingma et al. (2016)",
        HIERARCHIES,
        code="rrvqlib.objectives.elbo.training_loss",
    ),
    Statement(
        "Appendix C",
        "L = 5: four residual blocks between latents, and in every ladder and strap",
        L5,
        {"blocks": 4, "ladder_blocks": 4},
    ),
    Statement(
        "Appendix C",
        "AdaMax, batches of 64, an initial learning rate of 8e-4",
        ALL,
        {"optimizer": "adamax", "batch_size": BATCH, "lr": 8e-4},
    ),
    *(
        Statement(
            "Appendix C",
            f"{title}: the rate is multiplied by 0.8 after {PATIENCE[name]} epochs without a better"
            f" ELBO of the test set, down to 5e-5; up to {EPOCHS[name]} epochs or until"
            " convergence",
            (f"{name}-*-paper",),
            {
                "dataset": name,
                "schedule": "plateau",
                "plateau_patience": PATIENCE[name],
                "lr_min": 5e-5,
                "select_on": "test",
                "eval_every": epoch(name),
                "eval_images": 0,
                "steps": EPOCHS[name] * epoch(name),
            },
        )
        for name, title in (("cifar10", "CIFAR-10"), ("svhn", "SVHN"), ("celeba", "CelebA"))
    ),
    Statement(
        "Appendix F",
        "L = 5: grids of 16, 8, 4, 2 and 1 a side",
        L5,
        {"pyramid": (16, 8, 4, 2, 1)},
    ),
    Statement(
        "Appendix F",
        "L = 5, CIFAR-10 and SVHN: 256 codes of 128 numbers a layer",
        SMALL_L5,
        {"codebook_size": (256,), "embedding_dim": 128, "groups": 1},
    ),
    Statement(
        "Appendix F",
        "L = 5, CelebA: 128, 64, 32, 16 and 8 codes of 32 numbers, and fewer channels",
        ("celeba-l5-paper",),
        {
            "codebook_size": (128, 64, 32, 16, 8),
            "groups": 1,
            "embedding_dim": 32,
            "image_size": 64,
        },
    ),
    Statement(
        "Section 3.3",
        "a uniform prior is reasonable where the top is a single variable",
        L5,
        {"top_prior": "uniform"},
    ),
    Statement(
        "Appendix G",
        "variances fixed at 1",
        ("*-l5-embedding-fixed-paper", "*-l5-direct-fixed-paper"),
        {"covariance": "fixed"},
    ),
    Statement(
        "Appendix G",
        "the prior's probabilities put out by a network",
        ("*-l5-direct-learnt-paper", "*-l5-direct-fixed-paper"),
        {"prior": "direct"},
    ),
    Statement(
        "Appendix G",
        "one change alone: learnt covariances under a direct prior",
        ("*-l5-direct-learnt-paper",),
        {"covariance": "diagonal"},
    ),
    Statement(
        "Appendix G",
        "one change alone: an embedding prior with variances of 1",
        ("*-l5-embedding-fixed-paper",),
        {"prior": "embedding"},
    ),
    Statement(
        "Table 1",
        "Spatial-VAE: the same models with conditionally Gaussian variables",
        ("*-paper-spatial",),
        {"model": "hierarchy", "latent": "gaussian"},
    ),
    Statement(
        "Appendix B",
        "two residual blocks of 32 channels, a quarter as many latent variables as pixels",
        APP_B,
        {"blocks": 2, "channels": 32, "pyramid": (16,)},
    ),
    Statement(
        "Appendix B",
        "rVQ-VAE: K = 16 codes of 16 numbers, Eq. (2)",
        ("appb-rvq",),
        {
            "model": "one-layer",
            "latent": "relaxed",
            "codebook_size": (16,),
            "embedding_dim": 16,
            "covariance": "fixed",
        },
    ),
    Statement(
        "Appendix B",
        "Spatial-VAE: Gaussians in 16 dimensions, a standard normal prior",
        ("appb-spatial",),
        {"model": "one-layer", "latent": "gaussian", "embedding_dim": 16},
    ),
    Statement(
        "Appendix H",
        "an MLP rVQ-VAE on swatches",
        ("apph-mlp",),
        {
            "network": "mlp",
            "model": "one-layer",
            "latent": "relaxed",
            "dataset": "swatches",
            "covariance": "fixed",
        },
    ),
)

OPEN: tuple[Gap, ...] = (
    Gap(
        "soft or straight-through samples, their temperature and its schedule",
        "straight-through samples are codes at every temperature, so that what is trained is what"
        " is scored; the temperature shapes the gradient alone",
        {
            "relaxation": "straight-through",
            "temperature": 1.0,
            "temperature_end": 0.5,
            "temperature_schedule": "exponential",
            "temperature_fraction": 1.0,
        },
    ),
    Gap(
        "how variances are parameterised and bounded",
        "logarithms that start at 0 and stay within ±5: a variance stays positive and finite",
    ),
    Gap(
        "how codebooks start, and whether they learn at a rate of their own",
        "codes of length about 1, or the first posteriors are one-hot; one rate, since one is"
        " stated",
        {"codebook_init": "normal", "codebook_lr_factor": 1.0},
    ),
    Gap(
        "the side of the first grid of 32 layers",
        "half the image's side, as the first network's stride of 2 suggests",
        {"pyramid": (16,) * 8 + (8,) * 8 + (4,) * 8 + (2,) * 8},
        SMALL_L32,
    ),
    Gap(
        "the same at 64 × 64",
        "half the image's side again: 10,880 variables, which fits ≈ 10,000",
        {"pyramid": (32,) * 8 + (16,) * 8 + (8,) * 8 + (4,) * 8},
        ("celeba-l32-paper",),
    ),
    Gap(
        "how many free bits",
        "the default of Kingma et al.'s program, 0.25 nats a channel, of which a layer of"
        " categorical variables has one",
        {"free_nats": 0.25, "free_nats_group": "layer"},
        HIERARCHIES,
    ),
    Gap(
        "how many scales the likelihood has",
        "one, as Kingma et al.'s program; their text has one for each colour",
        {"scale_per_channel": False},
    ),
    Gap(
        "how a code joins the decoder's state, in so many words; a ResNet VAE, the basic structure,"
        " concatenates it inside the residual block",
        "added, as the arrows of Fig. C.3 meet; `decoder_input` concat is the ResNet VAE's way",
        {"decoder_input": "add"},
        HIERARCHIES,
    ),
    Gap(
        "the top prior of 32 layers: the paper allows a uniform one and a learnt vector",
        "learnt: it costs nothing and can become uniform",
        {"top_prior": "learnt"},
        L32,
    ),
    Gap(
        "the width of the networks of five layers; for CelebA it is said to be less",
        "what we could afford to repeat",
        {"channels": 64},
        SMALL_L5,
    ),
    Gap(
        "how much less it is for CelebA's five layers",
        "half of the others'",
        {"channels": 32},
        ("celeba-l5-paper",),
    ),
    Gap("kernel sizes", "3 × 3; 5 × 5 in the first and the last convolution, as in the ResNet VAE"),
    Gap(
        "how the identity path is rescaled",
        "mean of four neighbours downwards, nearest neighbour upwards: no parameters",
    ),
    Gap(
        "how 64 × 64 pixels reach 16 × 16 latents with one convolution of stride 2",
        "residual blocks that halve the grid go the rest of the way",
    ),
    Gap(
        "how networks start",
        "weight normalisation set by the first batch; branches, ladders and straps small",
        {"init_scale": 0.1},
    ),
    Gap(
        "warm-up of rate or KL, clipping, skipped steps",
        "no warm-up of the rate, since the initial one is stated (schedule plateau has none); the"
        " rest is our insurance against a lost run",
        {"kl_warmup": 0.02, "max_grad_norm": 1.0, "grad_skip_factor": 20.0},
    ),
    Gap(
        "which weights are scored",
        "their running average, as in the program of Kingma et al.",
        {"ema_decay": 0.999},
    ),
    Gap(
        "how images are split, whether CelebA's official validation images are trained on, and how"
        " faces are cropped",
        "whatever is not a test image is trained on; SVHN without its extra set; a square of 148"
        " pixels about the face",
    ),
    Gap(
        "how many samples a score has, and on how many images the training score rests",
        "one sample an image, all test images, the first 2,000 training images",
    ),
    Gap("numbers in half precision or not", "float32 throughout", {"precision": "fp32"}),
    Gap(
        "the one-layer baseline of Table 1: its grid, codes and width", "no `-paper` run claims it"
    ),
    Gap(
        "how long the models of Appendices B and H were trained, and how",
        "their runs have this book's recipe, not the schedule of Appendix C",
    ),
)
