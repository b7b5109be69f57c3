"""Run the chapters and store their outputs in place, in a form that diffs well.

python tools/run_chapters.py                     # every chapter
python tools/run_chapters.py book/02-train.ipynb # some
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def merge_streams(outputs: list) -> list:
    """Join the pieces that a stream arrived in; how it was cut depends on timing."""
    merged, by_name = [], {}
    for output in outputs:
        if output.output_type == "stream" and output.name in by_name:
            by_name[output.name].text += output.text
        else:
            merged.append(output)
            if output.output_type == "stream":
                by_name[output.name] = output
    return merged


def run(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    widgets = notebook.metadata.get("widgets")
    notebook.metadata = nbformat.from_dict(METADATA)
    if widgets:
        notebook.metadata["widgets"] = widgets
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{path.stem[:2]}-{number:03d}"
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in ("tags", "mystnb")}
        if cell.cell_type == "code":
            cell.outputs = merge_streams(cell.outputs)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="CHAPTER")
    args = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", PYTHONHASHSEED="0", TQDM_DISABLE="1")
    for path in args.paths or sorted((ROOT / "book").glob("*.ipynb")):
        start = time.perf_counter()
        run(path)
        print(f"{path}  {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
