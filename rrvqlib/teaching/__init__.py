"""What only the book and its tools import."""

from rrvqlib.lazy import offer

__getattr__, __dir__ = offer(
    __name__,
    ans="pop_all push_all to_starts",
    figures="PALETTE mosaic show_images use_style",
    ablation="by_cell contrasts interval kl_and_gradient sweep_runs",
    colours="bits_by_part bits_of_channels",
    codebooks="perplexity watch_usage",
    running_example="EXAMPLES scoreboard train",
    formats="Lossy best_under decibels_at gains jpeg lossless_bits_per_dim rate_distortion webp",
    enumerated="enumerate_codes exact_iw_2",
    hierarchies="draw_pass resampled",
    images="within_image_share",
    rates="discount_kl draw_image draw_prices plane price_map rate_and_reconstruction"
    " score_at train_watched",
    theory="prove_decreasing prove_identity prove_limit prove_series proved worst_case_entropy",
    trained="code_gaps gaps_of_layers",
    yardsticks="draw_rows draw_values left_differences log2_histogram png_bits_per_dim",
)
