"""The models of the paper, each a thin wiring of shared parts."""

from rrvqlib.configs import ModelConfig
from rrvqlib.models.base import VAE
from rrvqlib.models.hierarchy import HierarchicalVAE
from rrvqlib.models.one_layer import VQVAE, RelaxedVQVAE, SpatialVAE

MODELS: dict[str, type[VAE]] = {
    "hierarchy": HierarchicalVAE,
    "vqvae": VQVAE,
    "relaxed-vqvae": RelaxedVQVAE,
    "spatial-vae": SpatialVAE,
}


def build(config: ModelConfig) -> VAE:
    """The model that `config.model` names, with fresh weights."""
    from rrvqlib.rivals import RIVALS, TwoStageVAE  # they are made of the models here

    if config.second_stage != "none":
        return TwoStageVAE(config)
    return (MODELS | RIVALS)[config.model](config)
