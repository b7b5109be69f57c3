"""The chapters are stored in the form that nbval checks, and nbval notices a wrong result."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
TAUGHT = [path for path in CHAPTERS if path.name[0].isdigit()]  # the others are manuals
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [c for c in read(path).cells if c.cell_type == "code"]


def has_picture(cell):
    return any("image/png" in output.get("data", {}) for output in cell.outputs)


def test_there_are_chapters_and_the_contents_list_them_all():
    toc = (ROOT / "_toc.yml").read_text()
    assert CHAPTERS
    for path in [*CHAPTERS, *(ROOT / "book").glob("*.md")]:
        assert f"book/{path.stem}" in toc, f"{path.name} is not in _toc.yml"


@each_chapter
def test_every_cell_was_run_once_and_in_order(path):
    """nbval compares nothing for a cell without an execution count."""
    counts = [c.execution_count for c in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))


@each_chapter
def test_some_outputs_are_stored_and_none_is_an_error_or_a_warning(path):
    outputs = [output for cell in code_cells(path) for output in cell.outputs]
    assert len(outputs) >= 5
    for output in outputs:
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.get("text")


@each_chapter
def test_no_cell_is_long_or_hides_its_result(path):
    for cell in code_cells(path):
        assert len(cell.source.splitlines()) <= 25, cell.source[:80]
        assert not cell.source.rstrip().endswith(";")
        assert "NBVAL_" not in cell.source


@each_chapter
def test_every_figure_has_caption_and_alt_text_and_a_number(path):
    for cell in code_cells(path):
        if has_picture(cell):
            mystnb = cell.metadata.get("mystnb", {})
            assert len(mystnb.get("figure", {}).get("caption", "")) > 20, cell.source[:80]
            assert len(mystnb.get("image", {}).get("alt", "")) > 20, cell.source[:80]
            printed = "".join(o.get("text", "") for o in cell.outputs)
            assert re.search(r"\d", printed), f"nothing to compare: {cell.source[:80]}"


@each_chapter
def test_uncompared_outputs_are_explained(path):
    before = ""
    for cell in read(path).cells:
        tags = cell.metadata.get("tags", [])
        assert "nbval-skip" not in tags
        if "nbval-ignore-output" in tags:
            assert "not compared" in before, f"say why before: {cell.source[:80]}"
        before = cell.source


@pytest.mark.parametrize("path", TAUGHT, ids=lambda p: p.stem)
def test_a_chapter_teaches(path):
    text = "\n".join(c.source for c in read(path).cells if c.cell_type == "markdown")
    assert text.startswith("# ")
    assert "After this chapter you can" in text
    assert "## Summary" in text
    assert 3 <= text.count("```{exercise}") == text.count("```{solution}") <= 5
    assert text.count(":class: dropdown") >= text.count("```{solution}")
    assert "rrvqlib" in "".join(c.source for c in code_cells(path))


def run_nbval(folder, *files):
    flags = "--nbval --nbval-current-env -q -p no:cacheprovider".split()
    sanitize = f"--nbval-sanitize-with={ROOT / 'tests' / 'nbval-sanitize.cfg'}"
    command = [sys.executable, "-m", "pytest", *flags, sanitize]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [*command, *files], cwd=folder, capture_output=True, text=True, env=environment
    )


@pytest.fixture
def small_book(tmp_path):
    """A copy of the library and a notebook of two cells that use it, without other settings."""
    shutil.copytree(ROOT / "rrvqlib", tmp_path / "rrvqlib")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    source = (
        "from rrvqlib.teaching import theory\n"
        "print(round(float(theory.worst_case_entropy(5.0, 8)), 3))"
    )
    results = [("print(1 + 1)", "2\n"), (source, "0.271\n")]
    cells = [
        nbformat.v4.new_code_cell(
            code,
            execution_count=n,
            outputs=[nbformat.v4.new_output("stream", name="stdout", text=text)],
        )
        for n, (code, text) in enumerate(results, start=1)
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "small.ipynb")
    return tmp_path


def test_nbval_passes_what_is_right(small_book):
    run = run_nbval(small_book, "small.ipynb")
    assert run.returncode == 0 and "2 passed" in run.stdout, run.stdout


def test_nbval_notices_a_stored_number_that_was_tampered_with(small_book):
    path = small_book / "small.ipynb"
    path.write_text(path.read_text().replace("0.271", "0.272"))
    run = run_nbval(small_book, "small.ipynb")
    assert run.returncode == 1 and "1 failed, 1 passed" in run.stdout, run.stdout


def test_nbval_notices_a_changed_constant_in_the_library(small_book):
    path = small_book / "rrvqlib" / "teaching" / "theory.py"
    text = path.read_text()
    right = "return np.log(near) + np.log1p(x) + x * g / (1 + x)"
    assert right in text
    path.write_text(text.replace(right, right.replace("x * g", "1.01 * x * g")))
    run = run_nbval(small_book, "small.ipynb")
    assert run.returncode == 1 and "1 failed, 1 passed" in run.stdout, run.stdout


@pytest.mark.parametrize("address", ["", "https://github.com/owner/book"])
def test_buttons_that_need_the_repository_appear_only_with_its_address(tmp_path, address):
    """The whole way: one setting in _config.yml, one page built."""
    shutil.copytree(ROOT / "book" / "_static", tmp_path / "book" / "_static")
    shutil.copy(ROOT / "book" / "references.bib", tmp_path / "book")
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "repository_buttons.py", tmp_path / "tools")
    config = (ROOT / "_config.yml").read_text()
    assert 'url: ""' in config
    (tmp_path / "_config.yml").write_text(config.replace('url: ""', f'url: "{address}"'))
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A page\n\nText.")])
    page.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(page, tmp_path / "page.ipynb")
    program = Path(sys.executable).with_name("jupyter-book")
    build = subprocess.run([program, "build", tmp_path], capture_output=True, text=True)
    assert build.returncode == 0, build.stdout + build.stderr
    page = (tmp_path / "_build" / "html" / "page.html").read_text()
    assert ("btn-source-repository-button" in page) == bool(address)
    assert ("mybinder.org" in page) == bool(address)
    assert ("/edit/main/page.ipynb" in page) == bool(address)


def test_the_scoreboard_has_every_claim_twice_once_as_a_chip_and_once_as_a_row():
    text = (ROOT / "book/status.md").read_text()
    chips = re.findall(
        r"^- \[\*\*(C\d+)\*\* .*\]\(sec-claims\)\{\.(yes|part|no|open)\}$", text, re.M
    )
    rows = re.findall(r"^\| (C\d+) \|[^|]+\| (.*?) \|", text, re.M)
    claims = [f"C{n}" for n in range(1, 13)]
    assert sorted(name for name, _ in chips) == sorted(claims)
    assert [name for name, _ in rows] == claims
    begins = {"yes": ("yes", "by construction"), "no": ("not seen",), "open": ("open",)}
    for name, verdict in chips:
        if verdict in begins:
            assert dict(rows)[name].startswith(begins[verdict]), name


def test_every_symbol_of_the_notation_page_stands_in_the_glossary():
    tables = (ROOT / "book/notation.md").read_text().splitlines()
    cells = [line.split("|")[1] for line in tables if line.startswith("| $")]
    symbols = [
        part.partition("=")[0]
        for cell in cells
        for text in re.findall(r"\$([^$]+)\$", cell)
        for part in text.split(",")
    ]
    assert len(symbols) > 40
    words = (ROOT / "book/glossary.md").read_text()
    written = " ".join(re.findall(r"\$([^$]+)\$", words))
    missing = [
        symbol
        for symbol in symbols
        if not re.search(rf"(?<![\\\w{{]){re.escape(symbol)}(?![\w}}])", written)
    ]
    assert not missing


def test_the_glossary_is_in_order_and_says_everything_once():
    text = (ROOT / "book/glossary.md").read_text()
    lines = text.splitlines()[5:]
    words = [line.lower() for line in lines if line and not line.startswith((" ", "`"))]
    assert words == sorted(set(words))
