"""Hierarchies from outside: pairs, enumerated codes, layers drawn anew; the page of chapter 7."""

import json
import math
import re
from pathlib import Path

import nbformat
import pytest
import torch

from rrvqlib.models import build
from rrvqlib.settings import ModelSettings, changed
from rrvqlib.teaching import hierarchies

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "book" / "results"


@pytest.fixture
def model():
    torch.manual_seed(0)
    settings = changed(
        ModelSettings(),
        image_size=16,
        pyramid=(8, 4, 2),
        codebook_size=(16,),
        embedding_dim=4,
        channels=8,
        decoder_input="concat",
    )
    made = build(settings)
    made.initialise(torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8))
    return made.eval()


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)


def test_scattered_codes_keep_their_places_and_change_their_company():
    torch.manual_seed(0)
    codes = torch.arange(50).view(50, 1, 1, 1).expand(50, 4, 4, 1)  # each image has one code
    found = hierarchies.scattered(codes)
    assert found.shape == codes.shape
    for place in range(16):
        assert sorted(found.flatten(1)[:, place].tolist()) == list(range(50))
    assert (found.flatten(1) != found[:, 0, 0]).any(1).all()


def test_shared_bits_of_equal_independent_and_noisy_codes():
    codes = torch.arange(8).repeat(100)
    assert hierarchies.shared_bits(codes, codes, 8) == pytest.approx(3)
    assert hierarchies.shared_bits(codes, codes // 2, 8) == pytest.approx(2)
    pairs = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    assert hierarchies.shared_bits(pairs[:, 0], pairs[:, 1], 8) == pytest.approx(0, abs=1e-12)
    one, other = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 1, 1, 0])
    h = lambda p: -p * math.log2(p) - (1 - p) * math.log2(1 - p)  # noqa: E731
    assert hierarchies.shared_bits(one, other, 2) == pytest.approx(1 - h(1 / 3))


def test_enumerated_layers_sum_to_one_and_bound_what_draws_estimate():
    torch.manual_seed(3)
    settings = changed(
        ModelSettings(),
        image_size=8,
        pyramid=(2, 1),
        codebook_size=(3,),
        embedding_dim=3,
        channels=6,
    )
    tiny = build(settings)
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    tiny.initialise(images)
    log_q, log_p, log_likelihood = hierarchies.enumerate_layers(tiny, images)
    assert log_q.shape == log_p.shape == log_likelihood.shape == (2, 243)
    torch.testing.assert_close(log_q.exp().sum(1), torch.ones(2))
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(2))
    elbo = (log_q.exp() * (log_likelihood + log_p - log_q)).sum(1)
    assert (elbo < (log_likelihood + log_p).logsumexp(1)).all()
    with torch.no_grad():
        terms = tiny(images[:1].expand(4000, -1, -1, -1))
    error = terms.elbo.std() / 4000**0.5
    assert (terms.elbo.mean() - elbo[0]).abs() < 4 * error


def test_layers_that_are_kept_hold_what_they_hold(model, images):
    fans = hierarchies.resampled(model, images, draws=5)
    assert [fan.shape for fan in fans] == [(5, 3, 3, 16, 16)] * 4
    assert (fans[3] == fans[3][0]).all()  # all layers kept: nothing is drawn
    assert (fans[0] != fans[0][0]).any()


def test_a_layer_drawn_anew_moves_the_picture(model, images):
    assert all(hierarchies.moved_by(model, images, anew=number) > 0 for number in (1, 2, 3))


def test_embeddings_and_their_codes_belong_together(model, images):
    found = hierarchies.embeddings_and_codes(model, images)
    assert [len(codes) for _, codes in found] == [3 * 64, 3 * 16, 3 * 4]
    assert [embeddings.shape for embeddings, _ in found] == [(192, 4), (48, 4), (12, 4)]


def test_mean_distances_against_a_loop():
    torch.manual_seed(0)
    embeddings, means, codes = torch.randn(40, 3), torch.randn(6, 3), torch.randint(0, 5, (40,))
    distances, counts = hierarchies.mean_distances(embeddings, codes, means)
    assert counts.tolist() == [(codes == k).sum().item() for k in range(6)]
    assert distances[5] == 0  # nobody's
    for k in range(5):
        own = (embeddings[codes == k] - means[k]).square().sum(1).sqrt().mean()
        assert distances[k].item() == pytest.approx(own.item(), rel=1e-5)


def test_a_pass_is_drawn(model, images):
    figure = hierarchies.draw_pass(model, images[0], place=[(3, 2), (1, 1), (0, 0)])
    assert len(figure.axes) == 16
    words = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert len([word for word in words if word.isdigit()]) == 64 + 16 + 4  # every code


def test_the_page_holds_the_numbers_of_its_runs():
    """The figure of layers has them as JSON, so that it works without a server."""
    cells = nbformat.read(ROOT / "book" / "07-hierarchy.ipynb", as_version=4).cells
    page = "".join(cell.source for cell in cells if cell.cell_type == "markdown")
    embedded = json.loads(re.search(r'id="layer-bits-data">(.*?)</script>', page, re.S).group(1))
    assert [run["name"] for run in embedded] == ["cifar10-cpu", "cifar10-cpu-l32", "tiny-hierarchy"]
    for run in embedded:
        truth = json.loads((RESULTS / run["name"] / "results.json").read_text())
        model = json.loads((RESULTS / run["name"] / "run.json").read_text())["settings"]["model"]
        assert run["kl"] == pytest.approx(truth["kl_bits_per_dim"], abs=1e-5)
        assert run["perplexity"] == pytest.approx(truth["perplexity"], abs=0.051)
        assert run["score"] == pytest.approx(truth["test_bits_per_dim"], abs=1e-3)
        assert run["grids"] == model["pyramid"]
        assert [run["codes"]] == model["latent"]["codebook_size"]
