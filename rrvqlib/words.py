"""What a person reads on a terminal: lines, and numbers of things in words."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any


def number_of(count: int, thing: str) -> str:
    """1, "image" -> "1 image"; 2000, "image" -> "2,000 images"."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    """Text without what a terminal would obey: names may hold escape sequences."""
    return "".join(
        c if c.isprintable() or c in " \n" else c.encode("unicode_escape").decode() for c in text
    )


def say(text: str, *, error: bool = False) -> None:
    """Print what the terminal would not obey.

    Args:
        text: one line or more.
        error: whether it goes to standard error. Where that leads nowhere any more (a closed
            terminal, a full disk) the text is dropped: nobody reads it, and a training must not
            end for that.

    Raises:
        OSError: standard output cannot be written to.
    """
    if not error:
        print(printable(text))
        return
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        drop(sys.stderr)


def drop(stream: Any) -> None:
    """Send a stream nowhere, or Python would try to write the rest of it when it exits."""
    with suppress(AttributeError, OSError, ValueError):  # none, closed, or a notebook's
        target = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, target)
        os.close(nowhere)
