"""Where embeddings lie among the codes, against a loop over positions."""

import pytest
import torch

from rrvqlib.latents import Codebook, RelaxedLatent, log_responsibilities
from rrvqlib.models import build
from rrvqlib.settings import ModelSettings, changed
from rrvqlib.teaching.trained import code_gaps, gaps_of_layers


@pytest.mark.parametrize("covariance", ["isotropic", "fixed", "shared"])
def test_gaps_are_what_a_loop_finds(covariance):
    torch.manual_seed(0)
    codebook = Codebook(7, 4, covariance, init="unit")
    if codebook.raw_log_variances is not None:
        with torch.no_grad():
            codebook.raw_log_variances.normal_(std=0.5)
    maps = 2 * torch.randn(2, 4, 3, 3)
    gaps = code_gaps(RelaxedLatent(codebook, "embedding"), maps)
    for row, e in enumerate(maps.permute(0, 2, 3, 1).reshape(-1, 4)):
        lengths = (e - codebook.means).norm(dim=1).tolist()
        nearest, second = sorted(lengths)[:2]
        which = lengths.index(nearest)
        unit = 1.0 if covariance == "fixed" else codebook.log_variances[which].exp().item() ** 0.5
        assert gaps.distance[row].item() == pytest.approx(nearest / unit, rel=1e-4)
        assert gaps.separation[row].item() == pytest.approx((second - nearest) / unit, abs=1e-4)
        p = log_responsibilities(e, codebook).exp()
        best, second = p.topk(2).values.log().tolist()
        assert gaps.log_ratio[row].item() == pytest.approx(best - second, abs=1e-3)
        assert gaps.entropy[row].item() == pytest.approx(-(p * p.log()).sum().item(), abs=1e-4)
        assert gaps.nearest_wins[row].item() == (p.argmax().item() == which)


def test_every_layer_gives_one_entry_a_position():
    torch.manual_seed(0)
    settings = changed(
        ModelSettings(),
        image_size=8,
        pyramid=(4, 2),
        codebook_size=(8,),
        embedding_dim=4,
        channels=8,
    )
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    layers = gaps_of_layers(build(settings), images)
    assert [len(gaps.distance) for pair in layers for gaps in pair] == [48, 48, 12, 12]
