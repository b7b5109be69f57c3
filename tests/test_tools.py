"""The tools: help, and mistakes, which are one line and exit code 2 as in the commands."""

import subprocess
import sys
from pathlib import Path

import pytest

from rrvqlib.settings import changed, flattened

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import sweep  # noqa: E402

SWEEP = ("sweep.py", "base", "--dataset", "swatches")


def tool(name, *argv):
    command = [sys.executable, ROOT / "tools" / name, *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("name", ["results_page.py", "tables_page.py", "run_chapters.py"])
def test_help_is_help(name):
    page = ROOT / "book" / "cpu-results.md"
    before = page.stat().st_mtime_ns
    done = tool(name, "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage"), done.stderr
    assert page.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ((*SWEEP, "--steps", "0", "--out", "new"), "--steps 0: must be at least 1"),
        ((*SWEEP, "--dataset", "npz:none", "--out", "new"), "there is no file none"),
        ((*SWEEP, "--out", "none/new"), "cannot write"),
        (("measure_compression.py", "none", "--out", "none/new"), "cannot write"),
        (("measure_compression.py", "none", "--out", "new"), "pip install|config.json is missing"),
    ],
)
def test_a_mistake_is_one_line(argv, says, tmp_path):
    *argv, out = argv
    done = tool(*argv, tmp_path / out)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and any(text in line for text in says.split("|"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sweep.VARIANTS)
def test_every_variant_of_the_sweep_changes_what_it_says(name):
    changes = sweep.VARIANTS[name]
    if "components" in changes:  # to be joined with another
        changes = sweep.VARIANTS["mixture"] | changes
    found = flattened(changed(sweep.BASE, **changes))
    assert {key: found[key] for key in changes} == changes


def test_a_sweep_by_seconds_takes_as_many_steps_as_fit(monkeypatch):
    def trained(settings, splits, name):  # two seconds of set-up, and a quarter for each step
        return None, {"processor_seconds": 2 + settings.schedule.steps / 4}

    monkeypatch.setattr(sweep, "trained", trained)
    assert sweep.steps_in(100, sweep.BASE, None) == 400
