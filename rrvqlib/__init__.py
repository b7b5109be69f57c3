"""Hierarchical discrete VAEs with relaxed-responsibility vector quantisation.

Importing this package is quick: torch is imported with the modules that use it, and by
`rrvqlib.load`, which gives a trained model.
"""

from rrvqlib.models.ready import load

__all__ = ["load"]
__version__ = "0.2.0"
