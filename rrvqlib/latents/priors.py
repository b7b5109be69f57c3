"""What the layers above say of a layer -> log-probabilities over its K codes."""

from torch import Tensor

from rrvqlib.latents.base import log_uniform
from rrvqlib.latents.codebook import Codebook
from rrvqlib.latents.responsibilities import log_responsibilities
from rrvqlib.numerics import at_least_float32, full_precision


def parameters_per_variable(kind: str, codebook: Codebook) -> int:
    """How many numbers a network must output for each latent variable: D, K or none."""
    K, D = codebook.means.shape
    return {"embedding": D, "direct": K, "uniform": 0}[kind]


def log_prior(kind: str, parameters: Tensor, codebook: Codebook) -> Tensor:
    """Log-probabilities of the codes given the layers above, Eq. (3).

    Args:
        kind: `embedding`, responsibilities in the codebook of the posterior, Eq. (7);
            `direct`, a softmax of raw logits ("Direct-Cat" of Table G.1); `uniform`.
        parameters: (..., D) embeddings, (..., K) logits, or (..., 0) for `uniform`.
        codebook: of the layer.

    Returns:
        (..., K), in nats; float32, or float64 like the parameters (`uniform`: always float32).
    """
    if kind == "embedding":
        return log_responsibilities(parameters, codebook)
    if kind == "direct":
        with full_precision(parameters.device):
            return at_least_float32(parameters).log_softmax(-1)
    return log_uniform(parameters, *parameters.shape[:-1], len(codebook.means))
