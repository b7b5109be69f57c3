"""What the records of a run say about its health, in plain words."""

from __future__ import annotations

import math
from statistics import mean
from typing import Any

from rrvqlib.settings.latents import NearestSettings, RelaxedDrawSettings
from rrvqlib.settings.model import ModelSettings
from rrvqlib.settings.run import RunSettings

# A layer below this many nats per latent variable carries nothing.
COLLAPSED_NATS = 0.01
# A layer whose perplexity is below this share of K has dead codes.
DEAD_SHARE = 0.2


def findings(settings: RunSettings, metrics: list[dict[str, Any]]) -> list[str]:
    """Sentences about a run, each with what to try; empty when nothing stands out.

    Args:
        settings: of the run.
        metrics: its `metrics.jsonl`, oldest first, at least one line.
    """
    last = metrics[-1]
    checks = (dead_codes, layers, hot_temperature, growing_kl, skipped, direction)
    return [text for check in checks for text in check(settings, metrics, last)]


def dead_codes(settings: RunSettings, metrics: list, last: dict) -> list[str]:
    """Layers whose perplexity is a small part of K."""
    if not last["perplexity"]:
        return []
    pairs = enumerate(zip(last["perplexity"], settings.model.alphabets, strict=True), start=1)
    dead = [
        f"layer {layer} uses the equivalent of {used:.0f} of its {alphabet[1]} codes"
        for layer, (used, alphabet) in pairs
        if alphabet and used < DEAD_SHARE * alphabet[1]
    ]
    if not dead:
        return []
    remedy = f"fewer codes (--codebook_size) would do, or {livelier_codes(settings.model)}"
    return [f"{'; '.join(dead)} (perplexity): {remedy}"]


def livelier_codes(model: ModelSettings) -> str:
    """What makes more codes of this model's kind come into use."""
    latent = model.latent
    if not isinstance(latent, NearestSettings):
        return "the codebooks learn too slowly (raise --codebook_lr_factor)"
    # Nearest codes by moving averages have no gradient: no learning rate reaches them.
    ways = ["start them at the features (--codebook_init kmeans)"]
    if latent.codebook_init == "kmeans":
        ways = []
    if latent.codebook_update == "ema":
        ways.append("let them move faster (lower --codebook_decay)")
    else:
        ways.append("let them learn faster (raise --codebook_lr_factor)")
    ways.append("restart the unused sooner (raise --dead_code_threshold)")
    return ", ".join(ways[:-1]) + " or " + ways[-1]


def layers(settings: RunSettings, metrics: list, last: dict) -> list[str]:
    """Layers that carry nothing, or all they can."""
    texts = []
    model = settings.model
    rows = zip(last["kl_bits_per_dim"], model.pyramid, model.alphabets, strict=True)
    for layer, (bits, side, alphabet) in enumerate(rows, start=1):
        nats = bits * model.dims * math.log(2) / side**2
        most = alphabet[0] * math.log(alphabet[1]) if alphabet else math.inf
        if nats < COLLAPSED_NATS:
            remedy = "Layers above or below do its work; try"
            fewer = " or fewer layers"
            if model.layers == 1:
                remedy, fewer = "The decoder does without it; try", ""
            texts.append(
                f"layer {layer} has collapsed: {nats:.4f} nats per latent variable. {remedy}"
                f" --free_nats, a longer --kl_warmup{fewer}"
            )
        elif learns_rate(model) and nats > 0.95 * most:
            more = "More layers at this scale, or more codes (--codebook_size),"
            if model.kind != "hierarchy":
                more = "A finer --pyramid, more codes (--codebook_size), or --model hierarchy"
            texts.append(
                f"layer {layer} is full: {nats:.2f} of at most {most:.2f} nats per latent"
                f" variable. {more} would lower the score"
            )
    return texts


def learns_rate(model: ModelSettings) -> bool:
    """Whether the KL of its symbols is learnt: a VQ-VAE pays log K come what may."""
    return model.latent.alphabet(0) is not None and model.latent.kind != "nearest"


def hot_temperature(settings: RunSettings, metrics: list, last: dict) -> list[str]:
    """Relaxed samples that tell the decoder more than categorical ones will."""
    gap = last["valid_bits_per_dim"] - last["train_loss_bits_per_dim"]
    latent = settings.model.latent
    soft = isinstance(latent, RelaxedDrawSettings) and latent.relaxation == "soft"
    if soft and gap > 0.2:
        return [
            f"with hard samples the score is {gap:.2f} bits/dim worse than with the soft ones of"
            f" training: temperature {last['temperature']:.2f} is hot. Lower --temperature_end, or"
            " use --relaxation straight-through"
        ]
    return []


def growing_kl(settings: RunSettings, metrics: list, last: dict) -> list[str]:
    """The largest KL of a layer late in training against the middle."""
    values = [line["largest_layer_kl"] for line in metrics]
    middle = values[len(values) // 2]
    if len(values) >= 4 and values[-1] > 3 * middle > 0:
        return [
            f"the largest KL of a layer has grown from {middle:.0f} to {values[-1]:.0f} nats since"
            " the middle of the run: lower --lr, or a tighter --max_grad_norm"
        ]
    return []


def skipped(settings: RunSettings, metrics: list, last: dict) -> list[str]:
    """Steps left out for their gradients."""
    share = last["skipped_steps"] / max(1, last["step"])
    if share > 0.01:
        return [
            f"{last['skipped_steps']} of {last['step']} steps were skipped for their gradients:"
            " lower --lr or lengthen --lr_warmup"
        ]
    return []


def direction(settings: RunSettings, metrics: list, last: dict) -> list[str]:
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
