"""The stored ablation as its reader sees it, its intervals, and what chapter 8 draws."""

import json
import math
from pathlib import Path

import pytest
import torch

from rrvqlib.latents import RelaxedLatent, categorical_kl
from rrvqlib.models import build
from rrvqlib.settings import ModelSettings, changed
from rrvqlib.teaching import ablation, train
from rrvqlib.teaching.ablation import CELLS, by_cell, contrasts, interval, sweep_runs
from rrvqlib.teaching.paper_tables import TABLE_G1

RESULTS = Path(__file__).parent.parent / "book" / "results"
TINY = changed(
    ModelSettings(),
    image_size=8,
    pyramid=(4, 2),
    codebook_size=(6,),
    embedding_dim=4,
    channels=4,
    decoder_input="concat",
)


def test_cells_are_told_apart_by_their_settings_and_recipes_by_what_is_left():
    runs = sweep_runs(RESULTS / "ablation-l5-cifar10.jsonl")
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    words = {"direct, σ = 1": "direct-fixed", "embedding, σ = 1": "fixed"}
    words |= {"direct, σ learnt": "direct", "RRVQ": "base"}
    words |= {"RRVQ, s as printed": "as-printed", "RRVQ, s diagonal": "diagonal"}
    for run in runs:
        parts = {"base", *run.record["variant"].split("+")}
        assert parts == {"base", words[run.cell], *run.recipe.split("+")}


def test_numbers_by_cell_are_those_of_the_file():
    file = RESULTS / "ablation-cifar10.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    found = by_cell(sweep_runs(file), key="largest_layer_kl")
    assert list(found) == list(CELLS)
    expected = [n["largest_layer_kl"] for n in lines if n["variant"] == "base" and n["seed"] == 2]
    assert found["RRVQ"][2].item() == pytest.approx(expected[0])
    assert by_cell(sweep_runs(file), recipe="no-such") == {}


def test_settings_that_only_add_up_have_no_interaction():
    seeds = torch.tensor([5.0, 5.1, 4.9])
    grid = {"direct, σ = 1": seeds, "embedding, σ = 1": seeds + 0.2}
    grid |= {"direct, σ learnt": seeds - 0.3, "RRVQ": seeds - 0.1}
    effects = contrasts(grid)
    for name, value in zip(effects, (-0.3, 0.2, -0.1, 0), strict=True):
        torch.testing.assert_close(effects[name], torch.full((3,), float(value)))


def test_the_interval_is_students():
    x = torch.tensor([1.0, 2.0, 4.0])
    mean, low, high = interval(x)
    half = 4.302653 * x.std().item() / math.sqrt(3)
    assert (mean, low, high) == pytest.approx((7 / 3, 7 / 3 - half, 7 / 3 + half), rel=1e-5)
    assert interval(x, level=0.5)[2] < high


def test_intervals_hold_what_they_promise():
    torch.manual_seed(0)
    held = [low < 0 < high for _, low, high in (interval(x) for x in torch.randn(2000, 3))]
    assert sum(held) / 2000 == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("cell", CELLS)
def test_kl_and_gradient_of_every_variable(cell):
    torch.manual_seed(0)
    model = build(changed(TINY, **CELLS[cell])).eval()
    images = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8)
    torch.manual_seed(1)
    kl, gradient = ablation.kl_and_gradient(model, images)
    assert kl.shape == gradient.shape == (3 * (16 + 4),)
    top = model.layers[-1]
    latent = top.latent
    assert isinstance(latent, RelaxedLatent)
    with torch.no_grad():  # the top layer, whose prior and posterior await no draw
        state, feature = model.decoder.top(3), model.encoder(images / 256 - 0.5 + 1 / 512)[-1]
        log_p = latent.log_prior(top.prior(state))
        log_q = latent.log_posterior(top.posterior(feature, state))
    torch.testing.assert_close(kl[:12], categorical_kl(log_q, log_p).flatten(), atol=1e-5, rtol=0)
    pull = log_p.exp() - log_q.exp()
    if cell == "embedding, σ = 1":
        pull = pull @ latent.codebook.means.detach()
    if cell != "RRVQ":
        lengths = pull.flatten(0, -2).norm(dim=-1)
        torch.testing.assert_close(gradient[:12], lengths, atol=1e-5, rtol=1e-4)


def test_models_of_one_seed_see_the_same_noise_in_all_cells():
    images = torch.randint(256, (80, 3, 8, 8), dtype=torch.uint8)
    after = []
    for choice in CELLS.values():
        model = build(changed(TINY, **choice))
        torch.manual_seed(0)
        train(model, images, steps=2)
        after.append(torch.get_rng_state())
    assert all(torch.equal(after[0], state) for state in after)


def test_a_list_stays_behind_when_codes_move_and_a_place_does_not():
    before, after = ablation.moving_codes()
    assert torch.equal(before.direct, after.direct)
    for state in ("posterior", "embedding"):
        torch.testing.assert_close(getattr(before, state).roll(4), getattr(after, state))
    torch.testing.assert_close(before.embedding, before.direct)


def test_figures_are_drawn():
    pytest.importorskip("matplotlib").use("Agg")
    import matplotlib.pyplot as plt

    ablation.draw_table()
    ablation.draw_moving_codes(ablation.moving_codes())
    figure, axis = plt.subplots()
    grid = by_cell(sweep_runs(RESULTS / "ablation-cifar10.jsonl"))
    ablation.draw_cells(axis, {"first": grid, "second": grid})
    assert [text.get_text() for text in axis.get_yticklabels()] == ["first", "second"]
    _, labels = axis.get_legend_handles_labels()
    assert labels == list(CELLS)
    plt.close("all")


def test_the_table_is_that_of_the_paper():
    neither, prior, variances, both = (test for _, test in TABLE_G1["CIFAR-10"].values())
    assert both - prior - variances + neither == pytest.approx(-0.51)
    assert list(TABLE_G1["CIFAR-10"]) == list(CELLS)
