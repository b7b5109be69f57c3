"""What networks are made of: nothing here knows of latent variables or training."""

from rrvqlib.lazy import offer

__getattr__, __dir__ = offer(
    __name__,
    initialisation="data_dependent_init",
    convolutions="ResidualBlock ResidualStack Projection conv up_conv linear",
    encoder="BottomUp ConvEncoder MLPEncoder",
    decoder="ConvDecoder MLPDecoder",
)
