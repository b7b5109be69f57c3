"""How fast the library is, as ratios: `python -m benchmarks`."""
