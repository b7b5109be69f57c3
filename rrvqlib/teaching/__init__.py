"""What only the book and its tools import."""

from rrvqlib.lazy import offer

__getattr__, __dir__ = offer(
    __name__,
    figures="PALETTE show_images use_style",
    colours="bits_of_channels",
    running_example="EXAMPLES scoreboard train",
    images="within_image_share",
    rates="discount_kl draw_image draw_prices plane price_map rate_and_reconstruction"
    " score_at train_watched",
    theory="prove_decreasing prove_identity prove_limit prove_series proved worst_case_entropy",
    trained="code_gaps gaps_of_layers",
)
