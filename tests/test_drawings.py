"""The diagrams in book/figures are what `make figures` draws."""

import importlib.util
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from rrvqlib.models import build
from rrvqlib.settings import ModelSettings, changed

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("draw_figures", ROOT / "tools" / "draw_figures.py")
draw_figures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(draw_figures)


@pytest.mark.parametrize("name", draw_figures.FIGURES)
def test_stored_drawings_are_up_to_date(name):
    stored = (ROOT / "book" / "figures" / name).read_text(encoding="utf-8")
    assert stored == draw_figures.FIGURES[name](), "run make figures"


def test_no_drawing_is_left_over():
    stored = {path.name for path in (ROOT / "book" / "figures").iterdir()}
    assert stored == set(draw_figures.FIGURES)


def test_the_networks_are_those_of_the_library():
    """Every labelled arrow is an attribute of a layer, of a chain, or of the model."""
    settings = changed(
        ModelSettings(), image_size=16, pyramid=(8, 4, 2), codebook_size=4, channels=4
    )
    model = build(settings)
    drawing = ElementTree.fromstring(draw_figures.networks())
    drawn = {words for e in drawing.iter() if (words := (e.text or "").strip()).isalpha()}
    named = {name for name in drawn if len(name) > 1}
    assert named == {"enc", "dec", "qladder", "pladder", "qstrap", "pstrap", "likelihood"}
    owners = model.decoder.layers[0], model.encoder, model
    assert all(any(hasattr(owner, name) for owner in owners) for name in named)


def test_toy_codes_are_the_nearest_of_their_colours():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2], image[2:] = (200, 10, 10), (10, 10, 200)
    codes = draw_figures.toy_codes(image, K=2)
    assert len(set(codes[:2].flat)) == len(set(codes[2:].flat)) == 1
    assert codes[0, 0] != codes[3, 0]
