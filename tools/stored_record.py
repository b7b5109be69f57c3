"""What tools that measure have in common: the file they write, and what stands beside numbers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from rrvqlib.files import check_writable, write_json
from rrvqlib.runs.records import hardware, versions


def file_to_write(about: str | None) -> Path:
    """The one argument of such a tool, looked at before the long work.

    Raises:
        UserError: it cannot be written.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the JSON file to write")
    out: Path = parser.parse_args().out
    check_writable(out)
    return out


def store(out: Path, record: dict[str, Any]) -> None:
    """Write what was measured on one thread of the CPU, with versions and hardware."""
    about = {"versions": versions(), "hardware": hardware(torch.device("cpu"), 1)}
    write_json(out, record | about)
