"""The hierarchy in the page computes what rrvqlib computes, and answers to clicks and keys."""

import base64
import importlib.util
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from rrvqlib.latents import of_codes
from rrvqlib.models import load_model
from rrvqlib.settings import changed

ROOT = Path(__file__).resolve().parent.parent
STATIC = ROOT / "book" / "_static"
WEIGHTS, SCRIPT = STATIC / "tiny-hierarchy-weights.js", STATIC / "tiny-hierarchy.js"
NODE = shutil.which("node")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
spec = importlib.util.spec_from_file_location(
    "export_tiny_hierarchy", ROOT / "tools" / "export_tiny_hierarchy.py"
)
export = importlib.util.module_from_spec(spec)
spec.loader.exec_module(export)

needs_node = pytest.mark.skipif(NODE is None, reason="no node here: install it to run the page's")


def content_of(script):
    return json.loads(script[script.index("{") : script.rindex("}") + 1])


@pytest.fixture(scope="module")
def packed():
    return content_of(WEIGHTS.read_text())


@pytest.fixture(scope="module")
def model():
    """The stored model with the page's float16 weights, computing in float64."""
    model = load_model(export.RUN)
    export.fold_weight_norm(model)
    weights = {name: t.float() for name, t in export.generative_tensors(model).items()}
    model.decoder.load_state_dict(weights, strict=False)
    return model.double()


def run_in_node(program, given):
    preamble = f"require({json.dumps(str(WEIGHTS))});\n"
    preamble += f"const page = require({json.dumps(str(SCRIPT))});\n"
    preamble += "const given = JSON.parse(require('fs').readFileSync(0));\n"
    command = [NODE, "-e", preamble + program]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def decoded(model, codes):
    """Codes of a picture, lists, l = 1 first -> mean, log-priors (H W, K), bits of each layer."""
    state, log_priors, bits = model.decoder.top(1), [], []
    for layer, row in zip(reversed(model.layers), reversed(codes), strict=True):
        log_prior = layer.latent.log_prior(layer.prior(state))  # (1, H, W, 1, K)
        chosen = torch.tensor(row).view(log_prior.shape[:-1])
        state = layer.decode(state, layer.latent.lookup(chosen))
        log_priors.append(log_prior.flatten(0, 3))
        bits.append(-of_codes(log_prior, chosen).sum().item() / math.log(2))
    return model.decoder.head(state), log_priors[::-1], bits[::-1]


DECODE = """
const model = page.load(globalThis.TINY_HIERARCHY);
const results = given.map((codes) => {
  const { mean, logPriors } = page.topDown(model, (index) => codes[index]);
  return {
    mean: Array.from(mean.data),
    pixels: Array.from(page.realsToPixels(mean)),
    logPriors: logPriors.map((layer) => layer.map((row) => Array.from(row))),
  };
});
console.log(JSON.stringify(results));
"""


@needs_node
@torch.no_grad()
def test_the_page_decodes_as_the_library_does(model, packed):
    """Pictures and log-priors of the examples and of random codes, both in float64."""
    generator = torch.Generator().manual_seed(0)
    pictures = packed["examples"] + [
        [
            torch.randint(K, (side**2,), generator=generator).tolist()
            for (_, K), side in zip(model.settings.alphabets, model.settings.pyramid, strict=True)
        ]
        for _ in range(4)
    ]
    for codes, result in zip(pictures, run_in_node(DECODE, pictures), strict=True):
        mean, log_priors, _ = decoded(model, codes)
        there = torch.tensor(result["mean"], dtype=torch.float64).view_as(mean)
        torch.testing.assert_close(there, mean, rtol=0, atol=1e-10)
        pixels = torch.tensor(result["pixels"]).view(mean.shape)
        assert (pixels - export.reals_to_pixels(mean)).abs().max() <= 1  # on a bin's edge: either
        for index, expected in enumerate(log_priors):
            there = torch.tensor(result["logPriors"][index], dtype=torch.float64)
            torch.testing.assert_close(there, expected, rtol=0, atol=1e-9)


@needs_node
def test_the_page_samples_the_tempered_prior():
    log_p = [-0.5, -1.5, -3.0, -2.0]
    program = """
    const counts = given.temperatures.map((temperature) => {
      const count = [0, 0, 0, 0];
      for (let i = 0; i < 40000; i++) count[page.categorical(given.logP, temperature)]++;
      return count.map((n) => n / 40000);
    });
    console.log(JSON.stringify(counts));
    """
    temperatures = [0, 0.5, 1, 1.5]
    frequencies = run_in_node(program, {"logP": log_p, "temperatures": temperatures})
    assert frequencies[0] == [1, 0, 0, 0]
    for temperature, there in zip(temperatures[1:], frequencies[1:], strict=True):
        expected = (torch.tensor(log_p) / temperature).softmax(0).tolist()
        assert there == pytest.approx(expected, abs=0.0125)  # five standard errors


@torch.no_grad()
def test_float16_and_folding_change_no_pixel_by_more_than_two(model):
    """The page's picture is that of the trained model, weight norm and all."""
    codes = export.example_codes(model)
    trained = export.reals_to_pixels(export.decode(load_model(export.RUN), codes)).int()
    shown = export.reals_to_pixels(export.decode(model, codes)).int()
    assert (trained - shown).abs().max() <= 2


def test_the_stored_script_is_that_of_the_stored_run(packed):
    model = load_model(export.RUN)
    examples = export.example_codes(model)
    export.fold_weight_norm(model)
    fresh = content_of(export.page_script(model, examples))
    # Folding rounds differently on another CPU: by one unit in the last place of float16.
    here, there = (
        np.frombuffer(base64.b64decode(content["float16"]), "<f2").astype(float)
        for content in (fresh, packed)
    )
    np.testing.assert_allclose(there, here, rtol=2**-10, atol=2**-24, err_msg="run make figures")
    assert packed == fresh | {"float16": packed["float16"]}, "run make figures"


def test_it_is_a_small_download():
    files = [WEIGHTS, SCRIPT, STATIC / "tiny-hierarchy.png", STATIC / "tiny-hierarchy.html"]
    assert sum(path.stat().st_size for path in files) < 500_000


def test_a_run_that_the_page_cannot_draw_is_refused(model):
    with pytest.raises(export.UserError, match="decoder_input is 'add'"):
        export.require_what_the_page_can_draw(changed(model.settings, decoder_input="add"))


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium here: install it to test the page")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip's playwright")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, tmp_path):
    """A page that holds nothing but the fragment; it must stay quiet and offline."""
    shutil.copytree(STATIC, tmp_path / "_static")
    (tmp_path / "book").mkdir()
    fragment = (STATIC / "tiny-hierarchy.html").read_text()
    path = tmp_path / "book" / "page.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><title>Test</title>{fragment}")
    page = browser.new_page(viewport={"width": 390, "height": 800})
    troubles = []
    page.on("console", lambda m: troubles.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("requestfailed", lambda r: troubles.append(f"failed: {r.url}"))
    page.on("request", lambda r: troubles.append(r.url) if r.url.startswith("http") else None)
    page.goto(path.as_uri())
    yield page
    page.close()
    assert troubles == []


def pixels_of(page):
    return page.evaluate("""() => {
      const canvas = document.querySelector("#tiny-hierarchy .picture canvas");
      return Array.from(canvas.getContext("2d").getImageData(0, 0, 32, 32).data);
    }""")


def codes_of(page, layer):
    labels = page.locator(f'[aria-label^="Codes of layer {layer},"] [role=gridcell]')
    found = labels.evaluate_all("cells => cells.map(cell => cell.getAttribute('aria-label'))")
    return [int(re.search(r"code (\d+)", label)[1]) for label in found]


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_click_on_a_code_changes_that_code_and_the_picture(page, layer):
    before, codes = pixels_of(page), [codes_of(page, i) for i in (1, 2, 3)]
    page.locator(f'[aria-label^="Codes of layer {layer},"] [role=gridcell]').nth(5).click()
    assert pixels_of(page) != before
    for i, old in enumerate(codes, 1):
        moved = [p for p, (a, b) in enumerate(zip(old, codes_of(page, i), strict=True)) if a != b]
        assert moved == ([5] if i == layer else [])
    page.get_by_role("button", name="Undo").click()
    assert pixels_of(page) == before


def test_the_keyboard_reaches_a_code_and_changes_it(page):
    before, codes = pixels_of(page), codes_of(page, 3)
    page.locator('[aria-label^="Codes of layer 3,"] [role=gridcell]').first.focus()
    for key in ("ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    side = int(len(codes) ** 0.5)
    moved = [p for p, (a, b) in enumerate(zip(codes, codes_of(page, 3), strict=True)) if a != b]
    assert moved == [side + 1]
    assert pixels_of(page) != before


def test_a_bar_picks_its_code_and_the_toggle_redraws_below(page):
    page.get_by_label("a change redraws the layers below it").check()
    old = [codes_of(page, i) for i in (1, 2, 3)]
    page.locator('[aria-label^="Codes of layer 2,"] [role=gridcell]').nth(9).click()
    bar = page.locator(".bars button[aria-pressed=false]").last
    wanted = int(re.search(r"code (\d+)", bar.get_attribute("aria-label"))[1])
    bar.click()
    now = [codes_of(page, i) for i in (1, 2, 3)]
    assert now[1][9] == wanted
    assert now[2] == old[2]
    assert now[0] != old[0]


def test_the_prior_at_temperature_0_gives_one_picture_again_and_again(page):
    page.get_by_label("Temperature of the prior").fill("0")
    sample = page.get_by_role("button", name="Sample a picture")
    sample.click()
    first = pixels_of(page)
    sample.click()
    assert pixels_of(page) == first
    page.get_by_label("Temperature of the prior").fill("1")
    sample.click()
    assert pixels_of(page) != first


def test_redraw_touches_one_layer(page):
    old = [codes_of(page, i) for i in (1, 2, 3)]
    page.get_by_role("button", name="Redraw layer 2").click()
    now = [codes_of(page, i) for i in (1, 2, 3)]
    assert [a == b for a, b in zip(old, now, strict=True)] == [True, False, True]


@torch.no_grad()
def test_the_bits_shown_are_those_of_the_prior(page, model, packed):
    _, _, bits = decoded(model, packed["examples"][0])
    expected = [f"{of_layer:.1f} bits" for of_layer in reversed(bits)]  # the top stands first
    expected.append(f"{sum(bits):.1f} bits in all")
    assert page.locator(".heading output").all_inner_texts() == expected


def test_it_fits_a_phone(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
