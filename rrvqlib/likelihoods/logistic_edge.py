"""The paper's likelihood with outermost bins that reach to infinity, so that no mass is lost."""

from rrvqlib.likelihoods.logistic import Logistic


class EdgeLogistic(Logistic):
    """As `Logistic`, but the 256 masses sum to 1 (Salimans et al. 2017)."""

    edge_bins = True
