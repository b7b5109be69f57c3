"""Commands run from a page, which shows what they print."""

from __future__ import annotations

import importlib
import io
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from rrvqlib.errors import UserError

WIDTH = 96  # of a page's lines


def cut(number: str, kept: int) -> str:
    """A decimal with so many significant figures, "…" for the others: "0.0234" -> "0.023…"."""
    figures, length = 0, len(number)
    for place, sign in enumerate(number):
        if sign.isdigit() and (figures or sign != "0"):
            figures += 1
        if figures == kept:
            length = max(place + 1, number.index("."))
            break
    return number[: min(length, len(number) - 1)].rstrip(".") + "…"  # the last is never sure


def settled(text: str, kept: int | None = 2, unsure: Sequence[str] = ()) -> str:
    """What a program printed, with "…" for what another machine would print otherwise.

    Args:
        text: of any number of lines; longer ones than a page has are broken.
        kept: significant figures of every decimal; None for all.
        unsure: regular expressions; what they find is left out.
    """
    for pattern in unsure:
        text = re.sub(pattern, "…", text)
    if kept is not None:
        text = re.sub(r"\d+\.\d+", lambda found: cut(found.group(), kept), text)
    lines = text.rstrip().splitlines()
    return "\n".join(
        textwrap.fill(line, WIDTH, subsequent_indent="  ") if len(line) > WIDTH else line
        for line in lines
    )


def typed(line: str) -> str:
    """A command as a page shows it, broken where it is long."""
    return "$ " + " \\\n".join(
        textwrap.wrap(line, WIDTH - 4, subsequent_indent="    ", break_on_hyphens=False)
    )


def command(line: str, kept: int | None = 2, unsure: Sequence[str] = ()) -> None:
    """Run `python -m rrvqlib.NAME ...` in this process and print it, and what it prints.

    Args:
        line: the command as one would type it.
        kept: see `settled`.
        unsure: see `settled`.
    """
    from rrvqlib import cli

    program, *words = shlex.split(line.removeprefix("python -m "))
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            cli.run(importlib.import_module(program).main, words)
        except SystemExit as end:  # what the user can fix has been said
            if end.code not in (0, 2):
                raise
    print(f"{typed(line)}\n{settled(said.getvalue(), kept, unsure)}")


def stopped(
    line: str, file: Path, kept: int | None = 2, unsure: Sequence[str] = (), patience: float = 120
) -> None:
    """Start a command in a process of its own, end it politely once it writes a file, print both.

    Args:
        line: the command as one would type it.
        file: that tells that it is under way.
        kept: see `settled`.
        unsure: see `settled`.
        patience: seconds that the file may take.

    Raises:
        UserError: the command ended, or its time was up, before there was the file.
    """
    program = [sys.executable, *shlex.split(line)[1:]]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    end = time.monotonic() + patience
    while not file.exists():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            said, _ = process.communicate()
            raise UserError(f"{line} did not write {file}: {said}")
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    print(f"{typed(line)}\n^C\n{settled(said, kept, unsure)}")
