"""Write book/recipe.md from the tables of rrvqlib/paper.py.

python tools/recipe_page.py
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rrvqlib.paper import OPEN, STATED, Gap, Statement
from rrvqlib.runs import RUNS
from rrvqlib.settings.flat import written

PAGE = Path(__file__).resolve().parent.parent / "book" / "recipe.md"

TEXT = """\
# The paper's recipe

The runs whose names end in `-paper` are the paper's recipe {{cite:p}}`willetts2020` wherever it
states something. The first table has every statement, where it stands, the runs it is about, and
the settings of these runs that are it; a test compares each with the run itself. The second has
what the paper leaves open, with our choice and the reason. Both are written from
`rrvqlib/paper.py`.

**These runs are labelled "selects on test".** The paper lowers its learning rate by the score of
the *test* set, and mentions no validation images; it does not say that a model or a checkpoint was
chosen by it. The runs do the same: `select_on` is `test`, the rate goes by the test set, every
other image is trained on, and `run.json` says so beside the score, which the test set has then
steered. Beside them stand runs that change one thing each:

- `X-l32-paper-validated` watches validation images, which are cut from the training images: our
  cleaner choice.
- `X-l32-paper-as-printed`, and `X-l5-…-paper-as-printed`, read the symbol $\\mathbf E_\\Sigma$ of
  Eqs. (6) and (7) as one number for each code. Read with the text's diagonal matrices, the
  equations are the `diagonal` model of the others ({{doc}}`errata`).
- `X-l32-paper-spatial` is the Gaussian twin of Table 1.

None of them has been run to its end: the 32 layers take half a day of a large GPU or more, by
extrapolation ({{doc}}`12-full-scale`). (Of the cells of Table G.1 two thirds of an epoch have been
seen, on a CPU, with settings of our own: {{doc}}`08-ablation`.) What this book's own runs
do otherwise is in {{doc}}`differences`.

(sec-stated)=
## What the paper states

{stated}

(sec-open)=
## What it leaves open

{open}
"""


def settings(values: dict[str, Any]) -> str:
    """{"lr": 0.1} -> "`lr` 0.1"."""
    return ", ".join(f"`{name}` `{written(value)}`" for name, value in values.items())


def names(row: Statement | Gap) -> str:
    """The patterns of a row's runs."""
    return ", ".join(f"`{pattern}`" for pattern in row.runs)


def stated() -> str:
    """The table of statements."""
    rows = ["| where | what it says | runs | settings, or the code |", "|---|---|---|---|"]
    for row in STATED:
        code = ", ".join(f"`{name}`" for name in row.code.split(", "))
        rows.append(
            f"| {row.where} | {row.says} | {names(row)} | {settings(row.settings) or code} |"
        )
    return "\n".join(rows)


def left_open() -> str:
    """The table of gaps."""
    rows = ["| not said | chosen in the `-paper` runs | why |", "|---|---|---|"]
    for row in OPEN:
        rows.append(f"| {row.what} | {settings(row.settings) or '—'} | {row.why} |")
    return "\n".join(rows)


def page() -> str:
    """The text of book/recipe.md."""
    for row in (*STATED, *OPEN):
        assert any(map(row.is_about, RUNS)), f"about no run: {row}"
    return TEXT.format(stated=stated(), open=left_open())


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()  # --help, and nothing else
    PAGE.write_text(page())
    print("book/recipe.md")


if __name__ == "__main__":
    main()
