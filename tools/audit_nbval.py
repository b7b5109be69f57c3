"""Which stored outputs does nbval really guard?

Spoils each one in a copy of the book; a cell that still passes is not guarded.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent


def spoil(text: str) -> str:
    """Change the last digit, or else append a word."""
    new, count = re.subn(r"\d(?=\D*$)", lambda m: str((int(m[0]) + 1) % 10), text, count=1)
    return new if count else text + "spoiled"


def main() -> int:
    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp) / "repo"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "_build", "node_modules"))
        spoiled: list[str] = []
        for path in sorted((copy / "book").glob("*.ipynb")):
            notebook = nbformat.read(path, as_version=4)
            code = [c for c in notebook.cells if c.cell_type == "code"]
            for number, cell in enumerate(code):
                hit = False
                for output in cell.outputs:
                    if output.output_type == "stream":
                        output.text, hit = spoil(output.text), True
                    elif "text/plain" in output.get("data", {}):
                        output.data["text/plain"], hit = spoil(output.data["text/plain"]), True
                    elif output.output_type == "error":
                        output.evalue, hit = spoil(output.evalue), True
                if hit:
                    spoiled.append(f"book/{path.name}::Cell {number}")
            nbformat.write(notebook, path)
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--color=no", "-rf", "book"],
            cwd=copy,
            capture_output=True,
            text=True,
            check=False,
        )
        failed = set(re.findall(r"^FAILED (\S+::Cell \d+)", run.stdout, re.MULTILINE))
    unguarded = [s for s in spoiled if s not in failed]
    caught = len(spoiled) - len(unguarded)
    print(f"{len(spoiled)} cells with outputs were spoiled, {caught} were caught")
    for name in unguarded:
        print("not guarded:", name)
    print("failed without being spoiled:", sorted(failed - set(spoiled)) or "none")
    return 0


if __name__ == "__main__":
    sys.exit(main())
