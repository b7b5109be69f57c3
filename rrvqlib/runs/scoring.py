"""A model and images -> its score, with categorical samples: what is reported, never a loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from rrvqlib.data.pixels import check_pixels
from rrvqlib.likelihoods.base import reals_to_pixels
from rrvqlib.models.base import VAE
from rrvqlib.models.checks import check_labels, check_range
from rrvqlib.numerics import total, true_float32, widest_float
from rrvqlib.objectives.elbo import bits_per_dim, importance_weighted_bound


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers from `seed` inside, and as if nothing had happened afterwards."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def evaluating(model: VAE, seed: int) -> Iterator[None]:
    """`seeded`, with the model in evaluation; afterwards it is in the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        with seeded(seed):
            yield
    finally:
        model.train(was_training)


def device_of(model: VAE) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device


def batches(
    images: Tensor, size: int, device: torch.device, title: str, labels: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Successive batches of images and labels, on the device.

    Args:
        images: uint8 (N, c, S, S).
        size: images at a time.
        device: where they go.
        title: of a progress bar; empty for none.
        labels: int64 (N,), of a model with classes.
    """
    starts = range(0, len(images), size)
    # disable=None: no bar where standard error is not a terminal
    for start in tqdm(starts, desc=title, disable=None if title else True, leave=False):
        here = slice(start, start + size)
        batch = images[here].to(device).contiguous(memory_format=torch.channels_last)
        yield batch, None if labels is None else labels[here].to(device)


def check(model: VAE, images: Tensor, labels: Tensor | None) -> None:
    """That a model can score images (N, c, S, S) with labels (N,).

    Raises:
        UserError: they are of another kind or size, or a label is no class of the model.
    """
    check_pixels(images, model.settings.image_size, model.settings.image_channels)
    check_labels(model.settings.classes, labels, len(images))
    check_range(model.settings.classes, labels)


@true_float32()
@torch.no_grad()
def score(
    model: VAE,
    images: Tensor,
    batch_size: int = 100,
    seed: int = 0,
    title: str = "",
    labels: Tensor | None = None,
) -> dict[str, Any]:
    """The one-sample ELBO of every image, with unrelaxed samples from the posterior.

    Args:
        model: in any mode; evaluated as in `eval()`.
        images: uint8 (N, c, S, S).
        batch_size: images at a time.
        seed: of the samples.
        title: of a progress bar; empty for none.
        labels: int64 (N,), of a model with classes; the score is then of log p(x | class).

    Returns:
        bits_per_dim and its standard error over images (bits_per_dim_se; None, unknown, from one
        image); kl_bits_per_dim,
        perplexity (of the codes' use over all images and positions) and codes_in_use, each a list
        with l = 1 first, the last two None for continuous latents; prior_entropy_bits, the mean
        entropy of p(z_l | above) for each layer in bits per latent variable, or None; n, the number
        of images.
    """
    check(model, images, labels)
    device, dims = device_of(model), model.settings.dims
    wide = widest_float(device)
    elbos, kls, entropies, usage = [], [], [], None
    with evaluating(model, seed):
        for batch, classes in batches(images, batch_size, device, title, labels):
            # All of it stays on the device until the end: a copy would wait for the batch.
            terms = model(batch, None, classes)
            elbos.append(terms.elbo)
            kls.append(terms.kl.to(wide).sum(0))
            if all(entropy is not None for entropy in terms.prior_entropies):
                parts = [e.to(wide).mean((1, 2)).sum() for e in terms.prior_entropies]
                entropies.append(torch.stack(parts))
            counts = [count_codes(codes, K) for codes, K in zip_codes(model, terms.codes)]
            usage = counts if usage is None else [a + b for a, b in zip(usage, counts, strict=True)]
    scores = bits_per_dim(torch.cat(elbos).cpu().double(), dims)
    n = len(scores)
    kl = -bits_per_dim(total(kls) / n, dims)
    usage = [counts.cpu() for counts in usage or ()]
    return {
        "bits_per_dim": scores.mean().item(),
        "bits_per_dim_se": standard_error(scores),
        "kl_bits_per_dim": kl.tolist(),
        "perplexity": [perplexity(c) for c in usage] if usage else None,
        "prior_entropy_bits": (total(entropies) / n / math.log(2)).tolist() if entropies else None,
        "codes_in_use": [int((c > 0).sum()) for c in usage] if usage else None,
        "n": n,
    }


@true_float32()
@torch.no_grad()
def importance_weighted_score(
    model: VAE,
    images: Tensor,
    k: int,
    batch_size: int = 100,
    seed: int = 0,
    title: str = "",
    labels: Tensor | None = None,
) -> dict[str, Any]:
    """The bound of k importance samples (Burda et al. 2016), beside the ELBO of the same samples.

    Both are bounds on log p(x), the first a tighter one. An image's k samples of log p(x, z) -
    log q(z | x) give the bound as the log of their mean weight, and the ELBO as their mean.

    Returns:
        bits_per_dim and its standard error over images (bits_per_dim_se; None, unknown, from one
        image); elbo, the ELBO of these images in bits per dim; n, the number of images.
    """
    check(model, images, labels)
    at_once, drawn = max(1, batch_size // k), []
    with evaluating(model, seed):
        for batch, classes in batches(images, at_once, device_of(model), title, labels):
            repeated = batch.repeat(k, 1, 1, 1)  # sample-major: (k * B, c, S, S)
            told = None if classes is None else classes.repeat(k)
            for part, some in batches(repeated, batch_size, repeated.device, "", told):
                drawn.append(model(part, None, some).log_weight)
    log_weights = torch.cat(drawn).cpu().double()  # copied once: a copy waits for the device
    by_batch = [part.view(k, -1) for part in log_weights.split(k * at_once)]  # each (k, B)
    bounds = [importance_weighted_bound(part) for part in by_batch]
    elbos = [part.mean(0) for part in by_batch]
    scores = bits_per_dim(torch.cat(bounds), model.settings.dims)
    n = len(scores)
    return {
        "bits_per_dim": scores.mean().item(),
        "bits_per_dim_se": standard_error(scores),
        "elbo": bits_per_dim(torch.cat(elbos).mean(), model.settings.dims).item(),
        "n": n,
    }


@true_float32()
@torch.no_grad()
def score_over_classes(
    model: VAE,
    images: Tensor,
    labels: Tensor,
    batch_size: int = 100,
    seed: int = 0,
    title: str = "",
) -> dict[str, Any]:
    """What a model with classes says of images whose class it is not told.

    p(x) is the mean of p(x | y) over the classes y. With one draw of the codes for each class, the
    log of the mean weight p(x, z | y) / q(z | x, y) is in expectation a bound on log p(x), as the
    importance-weighted bound is. The class of the largest weight is a guess at the image's.

    Args:
        model: with classes, in any mode; evaluated as in `eval()`.
        images: uint8 (N, c, S, S).
        labels: int64 (N,), their true classes.
        batch_size: images at a time.
        seed: of the draws.
        title: of a progress bar; empty for none.

    Returns:
        class_averaged_bits_per_dim and class_averaged_bits_per_dim_se; class_told_bits_per_dim, of
        the same images and draws with their true classes, one draw each; class_guessed, the share
        of images whose class is guessed; class_n, the number of images.
    """
    check(model, images, labels)
    drawn = []
    with evaluating(model, seed):
        for batch, _ in batches(images, batch_size, device_of(model), title):
            of_class = [
                model(batch, None, torch.full((len(batch),), y, device=batch.device)).log_weight
                for y in range(model.settings.classes)
            ]
            drawn.append(torch.stack(of_class))
    log_weights = torch.cat(drawn, dim=1).cpu().double()  # (classes, N)
    scores = bits_per_dim(importance_weighted_bound(log_weights), model.settings.dims)
    labels = labels.cpu()
    told = bits_per_dim(log_weights.gather(0, labels.unsqueeze(0)).mean(), model.settings.dims)
    return {
        "class_averaged_bits_per_dim": scores.mean().item(),
        "class_averaged_bits_per_dim_se": standard_error(scores),
        "class_told_bits_per_dim": told.item(),
        "class_guessed": (log_weights.argmax(0) == labels).double().mean().item(),
        "class_n": len(scores),
    }


@true_float32()
@torch.no_grad()
def likeness(
    model: VAE,
    images: Tensor,
    batch_size: int = 100,
    seed: int = 0,
    title: str = "",
    labels: Tensor | None = None,
) -> dict[str, float | int | None]:
    """How alike images and their reconstructions are, with codes drawn from the posterior.

    Args:
        model: in any mode; evaluated as in `eval()`.
        images: uint8 (N, c, S, S).
        batch_size: images at a time.
        seed: of the draws.
        title: of a progress bar; empty for none.
        labels: int64 (N,), of a model with classes.

    Returns:
        psnr_db of all pixels together, None where nothing differs; ssim, the mean over images, None
        where they are smaller than its window; both None without scikit-image. likeness_n, the
        number of images.
    """
    try:
        from rrvqlib.runs.similarity import WINDOW, psnr, ssim
    except ImportError:  # of the extra `data`; a training does without
        return {"psnr_db": None, "ssim": None, "likeness_n": 0}
    check(model, images, labels)
    with evaluating(model, seed):
        parts = [
            model.reconstruct(batch, classes).cpu()
            for batch, classes in batches(images, batch_size, device_of(model), title, labels)
        ]
    rebuilt, images = reals_to_pixels(torch.cat(parts)), images.cpu()
    decibels = psnr(images, rebuilt)
    return {
        "psnr_db": decibels if math.isfinite(decibels) else None,
        "ssim": ssim(images, rebuilt) if model.settings.image_size >= WINDOW else None,
        "likeness_n": len(images),
    }


def standard_error(scores: Tensor) -> float | None:
    """Of the mean of scores (n,); None, unknown, where there is but one."""
    n = len(scores)
    return (scores.std() / math.sqrt(n)).item() if n > 1 else None


def zip_codes(model: VAE, codes: tuple[Tensor | None, ...]) -> list[tuple[Tensor, int]]:
    """Each layer's codes with how many values they can take; nothing for continuous latents."""
    pairs = zip(codes, model.settings.alphabets, strict=True)
    return [(z, alphabet[1]) for z, alphabet in pairs if z is not None and alphabet]


def count_codes(codes: Tensor, K: int) -> Tensor:
    """How often each of K codes was used: int64 (K,), on the device of the codes."""
    # Not bincount, which looks for the largest code and so waits for a GPU.
    return codes.new_zeros(K).index_add_(0, codes.flatten(), torch.ones_like(codes).flatten())


def perplexity(counts: Tensor) -> float:
    """exp of the entropy of the empirical distribution: 1 (collapsed) to K (all codes alike)."""
    p = counts.double() / counts.sum()
    return torch.special.entr(p).sum().exp().item()
