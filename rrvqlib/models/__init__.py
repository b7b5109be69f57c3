"""Networks, latents and a likelihood wired to a model."""

from rrvqlib.lazy import offer

__getattr__, __dir__ = offer(
    __name__,
    base="VAE Inference",
    from_settings="build",
    hierarchy="HierarchicalVAE",
    one_layer="OneLayerVAE",
    pixelcnn="GatedPixelCNN",
    two_stage="TwoStageVAE",
    saved="load_model save_model",
    ready="READY find_model",
)
