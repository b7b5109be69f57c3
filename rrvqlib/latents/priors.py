"""What the layers above say of a layer -> log-probabilities over its K codes."""

from torch import Tensor

from rrvqlib.latents.base import log_uniform
from rrvqlib.latents.codebook import Codebook
from rrvqlib.latents.responsibilities import log_responsibilities
from rrvqlib.numerics import at_least_float32, full_precision


def parameters_per_variable(kind: str, codebook: Codebook) -> int:
    """How many numbers a network must output at each position: D, G K or none."""
    direct = codebook.groups * codebook.codebook_size
    return {"embedding": codebook.embedding_dim, "direct": direct, "uniform": 0}[kind]


def log_prior(kind: str, parameters: Tensor, codebook: Codebook) -> Tensor:
    """Log-probabilities of the codes given the layers above, Eq. (3).

    Args:
        kind: `embedding`, responsibilities in the codebook of the posterior, Eq. (7);
            `direct`, a softmax of raw logits ("Direct-Cat" of Table G.1); `uniform`.
        parameters: (..., D) embeddings, (..., G K) logits, or (..., 0) for `uniform`.
        codebook: of the layer.

    Returns:
        (..., K), or (..., G, K) when there are G groups, in nats; float32, or float64 like the
        parameters (`uniform`: always float32).
    """
    if kind == "embedding":
        return log_responsibilities(parameters, codebook)
    if kind == "direct":
        with full_precision(parameters.device):
            logits = at_least_float32(parameters)
            if codebook.groups > 1:
                logits = logits.unflatten(-1, (codebook.groups, -1))
            return logits.log_softmax(-1)
    several = (codebook.groups,) if codebook.groups > 1 else ()
    return log_uniform(parameters, *parameters.shape[:-1], *several, codebook.codebook_size)
