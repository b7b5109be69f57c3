"""What the records of a run say about its health, in plain words."""

from __future__ import annotations

import math
from statistics import mean
from typing import Any

from rrvqlib.settings.flat import takes
from rrvqlib.settings.latents import NearestSettings, RelaxedDrawSettings
from rrvqlib.settings.model import ModelSettings
from rrvqlib.settings.run import RunSettings

# A layer below this many nats per latent variable carries nothing.
COLLAPSED_NATS = 0.01
# A layer whose perplexity is below this share of K has dead codes.
DEAD_SHARE = 0.2


def findings(settings: RunSettings, metrics: list[dict[str, Any]]) -> list[str]:
    """Sentences about a run, each with what to try; empty when nothing stands out.

    What they tell to try are flags that these settings take.

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
    remedy = "fewer codes (--levels) would do: these do not learn"
    if takes(settings, "codebook_size"):
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
    return either(ways)


def either(ways: list[str]) -> str:
    """One way or several, in words; ["a", "b", "c"] -> "a, b or c"."""
    return " or ".join([", ".join(ways[:-1]), ways[-1]] if len(ways) > 1 else ways)


def layers(settings: RunSettings, metrics: list, last: dict) -> list[str]:
    """Layers that carry nothing, or all they can."""
    texts = []
    model = settings.model
    rows = zip(last["kl_bits_per_dim"], model.pyramid, model.alphabets, strict=True)
    for layer, (bits, side, alphabet) in enumerate(rows, start=1):
        nats = bits * model.dims * math.log(2) / side**2
        most = alphabet[0] * math.log(alphabet[1]) if alphabet else math.inf
        if nats < COLLAPSED_NATS:
            why = "Layers above or below do its work"
            if model.layers == 1:
                why = "The decoder does without it"
            texts.append(
                f"layer {layer} has collapsed: {nats:.4f} nats per latent variable. {why}; try"
                f" {livelier_layer(settings)}"
            )
        elif learns_rate(model) and nats > 0.95 * most:
            texts.append(
                f"layer {layer} is full: {nats:.2f} of at most {most:.2f} nats per latent"
                f" variable. {more_room(settings).capitalize()} would lower the score"
            )
    return texts


def livelier_layer(settings: RunSettings) -> str:
    """What makes a collapsed layer carry something, or does without it."""
    ways = ["--free_nats"] if takes(settings, "free_nats", 1.0) else []
    ways.append("a longer --kl_warmup")
    if settings.model.kind == "hierarchy" and settings.model.layers > 1:
        ways.append("fewer layers")
    return either(ways)


def more_room(settings: RunSettings) -> str:
    """What lets a model carry more than its full layers do."""
    model = settings.model
    ways = ["more layers at this scale"]
    if model.kind != "hierarchy":
        finer = tuple(2 * side for side in model.pyramid)
        ways = ["a finer --pyramid"] if takes(settings, "pyramid", finer) else []
    if takes(settings, "codebook_size"):
        ways.append("more codes (--codebook_size)")
    else:
        ways.append("more bits (--embedding_dim)")
    if model.kind != "hierarchy" and takes(settings, "model", "hierarchy"):
        ways.append("--model hierarchy")
    return either(ways)


def learns_rate(model: ModelSettings) -> bool:
    """Whether its KL is that of symbols, and learnt: a VQ-VAE pays log K come what may."""
    return not model.latent.continuous and not model.latent.fixed_rate


def hot_temperature(settings: RunSettings, metrics: list, last: dict) -> list[str]:
    """Relaxed samples that tell the decoder more than categorical ones will."""
    gap = last["valid_bits_per_dim"] - last["train_loss_bits_per_dim"]
    latent = settings.model.latent
    # A mixture's loss is no ELBO, and differs from the score at any temperature.
    soft = isinstance(latent, RelaxedDrawSettings) and latent.relaxation == "soft"
    if soft and not latent.continuous and takes(settings, "temperature") and gap > 0.2:
        falls = takes(settings, "temperature_end")
        return [
            f"with hard samples the score is {gap:.2f} bits/dim worse than with the soft ones of"
            f" training: temperature {last['temperature']:.2f} is hot. Lower"
            f" {'--temperature_end' if falls else '--temperature'}, or use --relaxation"
            " straight-through"
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
        ways = ["lower --lr"]
        if takes(settings, "lr_warmup"):
            ways.append("lengthen --lr_warmup")
        return [
            f"{last['skipped_steps']} of {last['step']} steps were skipped for their gradients:"
            f" {either(ways)}"
        ]
    return []


def direction(settings: RunSettings, metrics: list, last: dict) -> list[str]:
    """Whether the score still falls, or has begun to rise."""
    scores = [line["valid_bits_per_dim"] for line in metrics]
    best = min(scores)
    error = last["valid_bits_per_dim_se"]
    if error is not None and scores[-1] > best + 3 * error:
        return [
            f"the validation score was better before ({best:.3f} against {scores[-1]:.3f}): the"
            " model overfits or the learning rate is too high"
        ]
    if len(scores) >= 4 and mean(scores[-3:-1]) - scores[-1] > 0.02:
        more = "--seconds" if settings.schedule.seconds else "--steps"  # by the clock, or not
        return [f"the validation score was still falling at the end: more {more} would help"]
    return []
