"""Images to bits and back with a trained hierarchy."""

from rrvqlib.lazy import offer

__getattr__, __dir__ = offer(__name__, codec="Codec", container="Container", tiles="Entry cut join")
