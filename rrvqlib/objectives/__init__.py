"""What training raises: the ELBO, and the estimators that need no relaxation."""

from rrvqlib.lazy import offer

__getattr__, __dir__ = offer(
    __name__,
    elbo="ElboTerms bits_per_dim importance_weighted_bound training_loss",
    score_function="leave_one_out vimco",
)
