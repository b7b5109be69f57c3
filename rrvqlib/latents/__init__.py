"""What a layer's variables are: a posterior and a prior -> a draw and its KL, one kind a file."""

from rrvqlib.lazy import offer

__getattr__, __dir__ = offer(
    __name__,
    base="DiscreteLatent Latent LatentDraw channels_first channels_last of_codes",
    codebook="Codebook nearest_codes",
    codebook_average="CodebookAverage",
    responsibilities="log_nearest log_relaxed log_responsibilities",
    priors="log_prior",
    divergences="categorical_kl gaussian_kl",
    draws="categorical gumbel_noise gumbel_softmax reinmax_vectors soft_vectors"
    " straight_through_vectors",
    relaxed="RelaxedLatent",
    stochastic="StochasticLatent",
    nearest="NearestLatent",
    gaussian="GaussianLatent",
    scalar="ScalarLatent",
    gaussian_mixture="GaussianMixtureLatent aggregate_kl",
    residual="ResidualLatent",
    binary="BinaryLatent trapezoid_bits",
)
