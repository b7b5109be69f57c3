"""Hierarchical discrete VAEs with relaxed-responsibility vector quantisation.

Importing this package is quick: torch is imported with the modules that use it.
"""

__version__ = "0.2.0"
