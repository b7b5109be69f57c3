"""The rendered book in headless Chromium: offline, on a phone, in the dark, without errors."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")

if CHROMIUM is None:
    pytest.skip("no Chromium here: install it to test the pages", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="needs pip's playwright")
axe = pytest.importorskip("axe_playwright_python", reason="needs pip's axe-playwright-python")
AXE = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
# WCAG 2.1, A and AA. Formulas are MathJax's own, thousands of nodes, and take minutes. The
# bibliography's roles, which ARIA has deprecated since, are docutils' own.
AXE_RUN = """() => axe.run({exclude: ["mjx-container", ".citation-list"]}, {
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], resultTypes: ["violations"],
})"""

# A button fades from one mode's colours to the other's, and half-way its contrast is poor.
SETTLED = """() => Promise.allSettled(
    document.getAnimations().filter(a => a instanceof CSSTransition).map(a => a.finished)
).then(() => null)"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The book, built with warnings as errors, as by `make book`."""
    out = tmp_path_factory.mktemp("book")
    program = Path(sys.executable).with_name("jupyter-book")
    command = [program, "build", ROOT, "-W", "-n", "--keep-going", "--path-output", out]
    build = subprocess.run(command, capture_output=True, text=True)
    assert build.returncode == 0, build.stdout[-3000:] + build.stderr[-3000:]
    html = out / "_build" / "html"
    return sorted((html / "book").glob("*.html")) + [html / "genindex.html"]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def luminance(colour):
    channels = [float(c) for c in colour.split("(")[1].rstrip(")").split(",")[:3]]
    linear = [c / 12.92 / 255 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def open_page(browser, path):
    """Open a page; return it with everything that went wrong or went out to the network."""
    page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme="light")
    troubles = []
    page.on("console", lambda m: troubles.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("requestfailed", lambda r: troubles.append(f"failed: {r.url}"))
    page.on("request", lambda r: troubles.append(r.url) if r.url.startswith("http") else None)
    page.goto(path.as_uri(), timeout=120_000)
    page.evaluate("window.MathJax?.startup?.promise.then(() => null)")
    return page, troubles


def contrast(page):
    """Of the first paragraph's text, and whether the page is dark."""
    ground = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    text = page.locator("article p, article h1").first
    ink = luminance(text.evaluate("node => getComputedStyle(node).color"))
    return (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05), ground < 0.1


def barriers(page):
    """What axe-core finds wrong with the page as it is shown."""
    found = page.evaluate(AXE_RUN)["violations"]
    return [(rule["id"], node["html"]) for rule in found for node in rule["nodes"]]


@pytest.fixture(scope="module")
def reports(browser, pages):
    """For every page what a reader would meet there."""
    found = {}
    for path in pages:
        page, troubles = open_page(browser, path)
        report = {
            "troubles": troubles,
            "formulas": page.locator("mjx-container").count(),
            "sources of formulas": page.locator("article .math").count(),
            "bad formulas": page.locator("mjx-merror").count(),
            "images without alt": page.eval_on_selector_all(
                "article img", "images => images.filter(i => !i.alt).map(i => i.src)"
            ),
            "broken images": page.eval_on_selector_all(
                "article img", "images => images.filter(i => !i.naturalWidth).map(i => i.src)"
            ),
            "light": contrast(page),
        }
        page.emulate_media(color_scheme="dark")
        page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
        report["dark"] = contrast(page)
        page.set_viewport_size({"width": 390, "height": 800})
        report["width"] = page.evaluate("document.documentElement.scrollWidth")
        page.close()
        found[path.stem] = report
    return found


def test_every_page_is_quiet_and_asks_for_nothing_from_the_network(reports):
    assert len(reports) >= 7
    assert {name: r["troubles"] for name, r in reports.items() if r["troubles"]} == {}


def test_formulas_are_typeset(reports):
    assert reports["05-entropy-theorems"]["formulas"] > 100
    for name, report in reports.items():
        assert report["bad formulas"] == 0, name
        assert report["formulas"] > 0 or report["sources of formulas"] == 0, name


def test_every_image_is_there_and_has_a_text(reports):
    for name, report in reports.items():
        assert not report["images without alt"], name
        assert not report["broken images"], name


def test_no_page_is_wider_than_a_phone(reports):
    assert {n: r["width"] for n, r in reports.items() if r["width"] > 392} == {}


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_stands_out_in_both_modes(reports, mode):
    for name, report in reports.items():
        value, is_dark = report[mode]
        assert is_dark == (mode == "dark"), name
        assert value > 7, f"{name}: contrast {value:.1f}"


# One page of every kind; all of them take ten minutes.
SOME = ("intro", "notation", "status", "ready-models", "08-ablation")
ALL = sorted(path.stem for path in (ROOT / "book").glob("*.*") if path.suffix in (".md", ".ipynb"))


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("name", ALL if os.environ.get("RRVQ_SLOW") == "1" else SOME)
def test_a_page_has_no_barriers(browser, pages, name, mode):
    page, _ = open_page(browser, next(path for path in pages if path.stem == name))
    page.emulate_media(color_scheme=mode)
    page.wait_for_function(f"document.documentElement.dataset.theme === '{mode}'")
    page.evaluate(SETTLED)
    page.evaluate(AXE)
    found = barriers(page)
    page.close()
    assert found == []


def test_a_barrier_is_found(browser, pages):
    page, _ = open_page(browser, pages[0])
    page.evaluate(AXE)
    before = barriers(page)
    page.evaluate("document.querySelector('article p').style.color = '#999999'")
    assert len(barriers(page)) > len(before)
    page.close()


def test_folded_proofs_solutions_and_cells_are_printed_open(browser, pages):
    (path,) = [p for p in pages if p.stem == "05-entropy-theorems"]
    page, _ = open_page(browser, path)
    if not page.evaluate("CSS.supports('selector(::details-content)')"):
        pytest.skip("this Chromium cannot style the contents of a folded element")
    folded = page.locator("article details, article .admonition.dropdown")
    assert folded.count() > 10
    last_lines = folded.locator(":scope > :last-child")

    def visible():
        return last_lines.evaluate_all(
            "nodes => nodes.filter(n => n.checkVisibility({visibilityProperty: true})"
            " && n.getBoundingClientRect().height > 10).length"
        )

    assert visible() == 0  # on the screen
    page.emulate_media(media="print")
    assert visible() == folded.count()
    page.close()


def test_the_entropy_figure_follows_its_sliders(browser, pages):
    (path,) = [p for p in pages if p.stem == "05-entropy-theorems"]
    page, troubles = open_page(browser, path)
    widget = page.locator("#entropy-widget")
    readout = widget.locator(".entropy-readout")
    assert "g = 9.41 nats" in readout.inner_text() and "d = 4.05." in readout.inner_text()
    widget.locator("input").first.focus()
    page.keyboard.press("End")  # d = 40
    assert "g = 36.40 nats" in readout.inner_text()
    widget.locator("input").nth(1).focus()
    page.keyboard.press("End")  # delta = 3
    assert "do not cross" in readout.inner_text()
    assert widget.locator("svg path").count() >= 2
    assert not troubles


# Page, figure, the control that is focused, the key that is pressed.
OPERATED = {
    "01-bits-per-dimension": ("#logistic-widget", "input[type=range]", "End"),
    "03-relaxed-vq": ("#gumbel-widget", "input[type=range]", "Home"),
    "04-relaxed-responsibilities": ("#responsibility-widget", "svg g", "ArrowRight"),
    "07-hierarchy": ("#layer-bits", "svg", "ArrowRight"),
    "09-compression": ("#ans-widget", "button", "Enter"),
    "11-what-depth-buys": ("#gap-widget", "input[type=range]", "Home"),
}


@pytest.mark.parametrize("stem", OPERATED)
def test_interactive_figures_answer_the_keyboard(stem, browser, pages):
    (path,) = [p for p in pages if p.stem == stem]
    page, troubles = open_page(browser, path)
    selector, control, key = OPERATED[stem]
    widget = page.locator(selector)
    before = widget.inner_text(), widget.locator("svg").first.inner_html()
    widget.locator(control).first.focus()
    page.keyboard.press(key)
    after = widget.inner_text(), widget.locator("svg").first.inner_html()
    assert after[0] != before[0] and after[1] != before[1]
    assert not troubles


def test_the_bits_of_a_layer_are_those_of_its_run(browser, pages):
    (path,) = [p for p in pages if p.stem == "07-hierarchy"]
    page, troubles = open_page(browser, path)
    widget = page.locator("#layer-bits")
    widget.locator("select").first.select_option("1")
    kl = json.loads((ROOT / "book/results/cifar10-cpu-l32/results.json").read_text())
    for layer in range(1, 33):
        bits = 3072 * kl["kl_bits_per_dim"][layer - 1]
        words = widget.locator(".lb-status").inner_text()
        assert f"Layer {layer}:" in words
        assert float(words.split("codes. ")[1].split(" bits")[0]) == pytest.approx(bits, abs=0.07)
        widget.locator("svg").focus()
        page.keyboard.press("ArrowRight")
    assert not troubles


def test_the_reach_of_a_layer_follows_its_slider(browser, pages):
    (path,) = [p for p in pages if p.stem == "11-what-depth-buys"]
    page, troubles = open_page(browser, path)
    widget = page.locator("#reach-widget")
    found = []
    for key in ("Home", "End"):
        widget.locator("input").focus()
        page.keyboard.press(key)
        picture = widget.locator("canvas").first.evaluate("canvas => canvas.toDataURL()")
        found.append((widget.locator(".reach-readout").inner_text(), picture))
    assert "Layer 1, at 16 × 16" in found[0][0] and "Layer 32, at 2 × 2" in found[1][0]
    assert found[0][1] != found[1][1]
    assert not troubles


def test_the_gaps_of_the_interactive_figure_are_those_of_the_runs(browser, pages):
    (path,) = [p for p in pages if p.stem == "11-what-depth-buys"]
    page, troubles = open_page(browser, path)
    widget = page.locator("#gap-widget")
    readout = widget.locator(".gap-readout")
    assert "six layers ahead of one layer by 0.79" in readout.inner_text()
    widget.locator("select").first.select_option("mixture")
    widget.locator("select").nth(1).select_option("1")
    assert "seed 1" in readout.inner_text() and "one layer" not in readout.inner_text()
    assert "six layers of Gaussians ahead of six layers by 0.23" in readout.inner_text()
    assert not troubles
