"""The points of chapter 4's first picture, and who claims them."""

import pytest
import torch
from matplotlib import pyplot as plt

from rrvqlib.latents import Codebook
from rrvqlib.teaching import clouds


def at_the_centres(covariance):
    codebook = Codebook(4, 2, covariance)
    codebook.means.data.copy_(clouds.CENTRES)
    if covariance == "isotropic":
        codebook.raw_log_variances.data.copy_(2 * clouds.DEVIATIONS.log())
    return codebook


def test_each_cloud_lies_where_it_should_and_is_as_wide_as_it_should_be():
    points, makers = clouds.clouds(20_000, seed=3)
    for cloud in range(4):
        own = points[makers == cloud]
        assert len(own) == pytest.approx(5_000, rel=0.06)
        assert own.mean(0).tolist() == pytest.approx(clouds.CENTRES[cloud].tolist(), abs=0.1)
        assert own.std(0).tolist() == pytest.approx([clouds.DEVIATIONS[cloud].item()] * 2, rel=0.05)


def test_the_true_widths_leave_fewer_wrong_points_than_equal_ones():
    points, makers = clouds.clouds(4_000, seed=1)
    nearest = torch.cdist(points, clouds.CENTRES).argmin(1)
    equal = clouds.wrong(at_the_centres("fixed"), points, makers)
    assert torch.equal(equal, nearest != makers)
    own = clouds.wrong(at_the_centres("isotropic"), points, makers)
    assert own.float().mean() < 0.06 < 0.15 < equal.float().mean()


def test_two_codes_at_one_cloud_claim_for_it_together():
    codebook = at_the_centres("fixed")
    codebook.means.data[0] = clouds.CENTRES[3] + torch.tensor([0.1, 0.0])
    points, makers = clouds.clouds(1_000, seed=2)
    assert clouds.homes(codebook).tolist() == [3, 1, 2, 3]
    assert (clouds.wrong(codebook, points, makers) | (makers != 0)).all()  # no code for the wide
    assert not (clouds.claimants(codebook, points) == 0).any()


@pytest.mark.parametrize("covariance", ["fixed", "isotropic"])
def test_a_picture_shows_every_point_and_rings_the_wrong_ones(covariance):
    points, makers = clouds.clouds(200, seed=0)
    codebook = at_the_centres(covariance)
    figure, axis = plt.subplots()
    clouds.plot_regions(axis, codebook, points, makers)
    drawn = [len(dots.get_offsets()) for dots in axis.collections]
    assert sum(drawn) == 200
    assert sum(drawn[1::2]) == clouds.wrong(codebook, points, makers).sum()
    radii = [patch.radius for patch in axis.patches]
    expected = [1.0] * 4 if covariance == "fixed" else clouds.DEVIATIONS.tolist()
    assert radii == pytest.approx(expected)
    plt.close(figure)
