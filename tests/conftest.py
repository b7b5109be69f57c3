"""Fixtures that several test files share."""

import pytest
from helpers import write_images


@pytest.fixture
def images(tmp_path):
    """A data set of 40 training and 12 test images of 8x8 pixels, as `dataset` names it."""
    return write_images(tmp_path / "images.npz")
