"""What the records of a run say about its health, in plain words."""

from __future__ import annotations

import math
from statistics import mean
from typing import TYPE_CHECKING, Any

from rrvqlib.configs import RunConfig

if TYPE_CHECKING:
    from torch import Tensor

# A layer below this many nats per latent variable carries nothing.
COLLAPSED_NATS = 0.01
# A layer whose perplexity is below this share of K has dead codes.
DEAD_SHARE = 0.2


def findings(config: RunConfig, metrics: list[dict[str, Any]]) -> list[str]:
    """Sentences about a run, each with what to try; empty when nothing stands out.

    Args:
        config: of the run.
        metrics: its `metrics.jsonl`, oldest first, at least one line.
    """
    last = metrics[-1]
    checks = (dead_codes, layers, hot_temperature, growing_kl, skipped, direction)
    return [text for check in checks for text in check(config, metrics, last)]


def dead_codes(config: RunConfig, metrics: list, last: dict) -> list[str]:
    """Layers whose perplexity is a small part of K."""
    if not last["perplexity"]:
        return []
    pairs = enumerate(zip(last["perplexity"], config.codes_per_layer, strict=True), start=1)
    dead = [
        f"layer {layer} uses the equivalent of {used:.0f} of its {K} codes"
        for layer, (used, K) in pairs
        if used < DEAD_SHARE * K
    ]
    if not dead:
        return []
    return [f"{'; '.join(dead)} (perplexity): fewer --codes would do, or {livelier_codes(config)}"]


def livelier_codes(config: RunConfig) -> str:
    """What makes more codes of this model's kind come into use."""
    if config.model != "vqvae" and config.latent != "nearest":
        return "the codebooks learn too slowly (raise --codebook_lr_factor)"
    # Nearest codes by moving averages have no gradient: no learning rate reaches them.
    ways = ["start them at the features (--codebook_init kmeans)"]
    if config.codebook_init == "kmeans":
        ways = []
    if config.codebook_update == "ema":
        ways.append("let them move faster (lower --codebook_decay)")
    else:
        ways.append("let them learn faster (raise --codebook_lr_factor)")
    ways.append("restart the unused sooner (raise --restart_below)")
    return ", ".join(ways[:-1]) + " or " + ways[-1]


def layers(config: RunConfig, metrics: list, last: dict) -> list[str]:
    """Layers that carry nothing, or all they can."""
    texts = []
    rows = zip(last["kl_bits_per_dim"], config.pyramid, config.codes_per_layer, strict=True)
    for layer, (bits, side, K) in enumerate(rows, start=1):
        nats = bits * config.dims * math.log(2) / side**2
        if nats < COLLAPSED_NATS:
            remedy = "Layers above or below do its work; try"
            fewer = " or fewer layers"
            if config.layers == 1:
                remedy, fewer = "The decoder does without it; try", ""
            texts.append(
                f"layer {layer} has collapsed: {nats:.4f} nats per latent variable. {remedy}"
                f" --free_nats, a longer --kl_warmup{fewer}"
            )
        elif learns_rate(config) and nats > 0.95 * math.log(K):
            more = "More layers at this scale, or more --codes,"
            if config.model != "hierarchy":
                more = "A finer --pyramid, more --codes, or --model hierarchy"
            texts.append(
                f"layer {layer} is full: {nats:.2f} of at most {math.log(K):.2f} nats per latent"
                f" variable. {more} would lower the score"
            )
    return texts


def learns_rate(config: RunConfig) -> bool:
    """Whether the KL of its categorical latents is learnt: a VQ-VAE pays log K come what may."""
    return config.latent == "codebook" and config.model not in ("vqvae", "spatial-vae")


def hot_temperature(config: RunConfig, metrics: list, last: dict) -> list[str]:
    """Relaxed samples that tell the decoder more than categorical ones will."""
    gap = last["valid_bits_per_dim"] - last["train_loss_bits_per_dim"]
    if config.sample == "soft" and gap > 0.2:
        return [
            f"with hard samples the score is {gap:.2f} bits/dim worse than with the soft ones of"
            f" training: temperature {last['temperature']:.2f} is hot. Lower --temperature_end, or"
            " use --sample straight-through"
        ]
    return []


def growing_kl(config: RunConfig, metrics: list, last: dict) -> list[str]:
    """The largest KL of a layer late in training against the middle."""
    values = [line["largest_layer_kl"] for line in metrics]
    middle = values[len(values) // 2]
    if len(values) >= 4 and values[-1] > 3 * middle > 0:
        return [
            f"the largest KL of a layer has grown from {middle:.0f} to {values[-1]:.0f} nats since"
            " the middle of the run: lower --lr, or a tighter --max_grad_norm"
        ]
    return []


def skipped(config: RunConfig, metrics: list, last: dict) -> list[str]:
    """Steps left out for their gradients."""
    share = last["skipped_steps"] / max(1, last["step"])
    if share > 0.01:
        return [
            f"{last['skipped_steps']} of {last['step']} steps were skipped for their gradients:"
            " lower --lr or lengthen --lr_warmup"
        ]
    return []


def direction(config: RunConfig, metrics: list, last: dict) -> list[str]:
    """Whether the score still falls, or has begun to rise."""
    scores = [line["valid_bits_per_dim"] for line in metrics]
    best = min(scores)
    if scores[-1] > best + 3 * last["valid_bits_per_dim_se"]:
        return [
            f"the validation score was better before ({best:.3f} against {scores[-1]:.3f}): the"
            " model overfits or the learning rate is too high"
        ]
    if len(scores) >= 4 and mean(scores[-3:-1]) - scores[-1] > 0.02:
        return ["the validation score was still falling at the end: more --steps would help"]
    return []


def within_image_share(images: Tensor) -> float:
    """Share of the colour variance of a set of images that lies within images.

    The variance about the mean colour of the set, over all pixels and summed over the channels,
    splits into that of pixels about the mean of their image and that of these means. Constant
    images score 0; images of M independent patches of equal size score 1 - 1/M on average.

    Args:
        images: (N, C, H, W), two images or more; any scale, as the share does not depend on it.

    Raises:
        ValueError: there are fewer than two images, or all pixels have one colour.
    """
    if images.ndim != 4 or len(images) < 2:
        raise ValueError(f"images of shape {tuple(images.shape)}: must be (N, C, H, W), N >= 2")
    pixels = images.double()
    centres = pixels.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
    within = (pixels - centres).square().mean((0, 2, 3)).sum().item()
    between = centres.var(0, correction=0).sum().item()
    if within + between == 0:
        raise ValueError("all pixels have one colour: there is no variance to divide")
    return within / (within + between)
