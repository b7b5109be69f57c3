"""What chapter 10 draws of priors and of the stored rivals."""

from pathlib import Path

import torch
from matplotlib import pyplot as plt

from rrvqlib.teaching import rivals

RESULTS = Path(__file__).resolve().parent.parent / "book" / "results"


def test_stored_rivals_are_sorted_and_know_their_kind():
    found = rivals.stored_rivals(RESULTS)
    assert set(found) == set(rivals.LABELS)
    scores = [rival.test for rival in found.values()]
    assert scores == sorted(scores)
    assert found["vqvae"].kind == "one layer" and found["rrvq-l4"].kind == "several layers"
    assert found["hqa"].kind == found["vqvae-pixelcnn"].kind == "second stage"
    assert all(0 < rival.kl < rival.test for rival in found.values())
    assert found["vimco"].bound is not None


def test_the_drawing_has_two_bars_for_each_rival():
    found = rivals.stored_rivals(RESULTS)
    axis = rivals.draw_rivals(found).axes[0]
    assert len(axis.patches) == 2 * len(found)
    plt.close("all")


def test_the_four_stages_are_drawn():
    assert len(rivals.draw_stages().axes) == 4
    plt.close("all")


def shifted(codes):
    """Predicts from the code to the left alone."""
    left = torch.nn.functional.pad(codes[:, :, :-1], (1, 0))
    return torch.nn.functional.one_hot(left, 5).double()


def test_influence_finds_the_right_neighbour_and_nothing_else():
    moved = rivals.influence(shifted, torch.zeros(3, 4, dtype=torch.long), 5)
    for place in range(12):
        expected = [place + 1] if place % 4 < 3 else []
        assert moved[place].nonzero().flatten().tolist() == expected


def test_sight_is_drawn_with_a_cell_for_each_position():
    moved = rivals.influence(shifted, torch.zeros(8, 8, dtype=torch.long), 5)
    _, axis = plt.subplots()
    rivals.draw_sight(axis, moved, 20)
    hatched = [patch for patch in axis.patches if patch.get_hatch()]
    assert len(axis.patches) == 64 and len(hatched) == 19  # of 20 earlier ones one is seen
    plt.close("all")


def test_time_is_counted_and_threads_are_as_before():
    threads, calls = torch.get_num_threads(), []
    assert rivals.cpu_seconds(lambda: calls.append(1), repeats=3) >= 0
    assert len(calls) == 4 and torch.get_num_threads() == threads


def test_stored_samples_are_cut_where_the_tiles_are():
    found = rivals.stored_samples(RESULTS / "rival-rrvq-l4" / "samples.png", 14)
    assert found.shape == (14, 3, 32, 32) and found.dtype == torch.uint8
    assert found.flatten(1).float().std(1).min() > 10  # pictures, no borders
