"""How fast the library is, as ratios: `python -m benchmarks`."""

# N, K and D of the quantisers' inputs; here, so that `--help` need not import torch.
SIZES = {"small": (1024, 64, 16), "layer": (4096, 256, 32), "wide": (4096, 256, 128)}
