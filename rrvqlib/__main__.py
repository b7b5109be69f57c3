"""`rrvq VERB ...` and `python -m rrvqlib VERB ...`: all commands under one name."""

from __future__ import annotations

import sys
from importlib import import_module

from rrvqlib import __version__, cli

VERBS = {
    "train": "train a model and write its run folder",
    "evaluate": "score a trained model",
    "sample": "draw images from it",
    "reconstruct": "pass images through it",
    "diagnose": "say what is wrong with a run, in plain words",
    "compress": "images to a file and back",
    "models": "list the models that come with the library",
}


def usage() -> str:
    """What `rrvq --help` prints."""
    lines = [f"  {verb:<13}{what}" for verb, what in VERBS.items()]
    return "\n".join(["usage: rrvq VERB ...", "", *lines, "", "rrvq VERB --help says more."])


def main() -> None:
    """Call the command that the first word names."""
    verb, *rest = sys.argv[1:] or ["--help"]
    if verb in ("-h", "--help"):
        cli.run(lambda _: print(usage()))
    elif verb == "--version":
        cli.run(lambda _: print(f"rrvqlib {__version__}"))
    elif verb in VERBS:
        module = "models.__main__" if verb == "models" else verb
        cli.run(import_module(f"rrvqlib.{module}").main, rest)
    else:
        print(usage(), file=sys.stderr)
        cli.fail(f"there is no command {verb!r}; choose one of {', '.join(VERBS)}")


if __name__ == "__main__":
    main()
