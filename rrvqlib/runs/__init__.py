"""A run: its name, its folder, its scores and pictures."""

from rrvqlib.lazy import offer

__getattr__, __dir__ = offer(
    __name__,
    named="NamedRun RUNS command",
    folder="read_metrics read_run_settings",
    checkpoint="load_state save_state",
    scoring="importance_weighted_score score",
    pictures="reconstruction_pairs sample_images",
    similarity="psnr ssim",
    health="findings",
)
