"""Command lines from dataclass fields, and errors that a person can act on."""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rrvqlib.data.registry import DATASETS
from rrvqlib.errors import UserError
from rrvqlib.models.ready import find_model
from rrvqlib.remedies import remedy
from rrvqlib.settings.fields import SettingError, Settings, Sides, in_words
from rrvqlib.settings.flat import NOTHING, Place, places, written
from rrvqlib.settings.model import parse_sides
from rrvqlib.words import drop, say


def truth(text: str) -> bool:
    """true/false, yes/no, on/off, 1/0."""
    if text.lower() in ("true", "yes", "on", "1"):
        return True
    if text.lower() in ("false", "no", "off", "0"):
        return False
    raise ValueError(text)


def not_empty(flag: str, text: str) -> str:
    """What was given for a path or a data set.

    Raises:
        UserError: nothing, which would stand for the folder at hand, or for the default.
    """
    if not text.strip():
        raise UserError(f"{flag} is empty; give a path or a name (is a shell variable not set?)")
    return text


def path_of(flag: str) -> Callable[[str], Path]:
    """How an argument is parsed that is a path."""
    return lambda text: Path(not_empty(flag, text))


def model_of(flag: str) -> Callable[[str], Path]:
    """How an argument is parsed that is a trained model: a folder, or a name for one."""
    return lambda text: find_model(not_empty(flag, text))


MODEL_HELP = "folder of a run, a ready model's name (rrvq models lists them), or hub:OWNER/NAME"

PARSERS: dict[Any, tuple[Callable[[str], Any], str, str]] = {
    int: (int, "a whole number", "N"),
    float: (float, "a number", "X"),
    bool: (truth, "true or false", "true|false"),
    str: (str, "text", "TEXT"),
    Sides: (parse_sides, "whole numbers such as 16*4,8,4", "N,N,..."),
}

RANK_0_SECONDS = 15.0
RUN_FILES = (".json", ".jsonl", ".safetensors")  # all but the pictures

GROUPS = {
    "model": "what is wired together, and what training raises",
    "latents": "a layer's variables",
    "likelihood": "of the pixels, given what the decoder outputs",
    "data": "the images",
    "optimisation": "how weights move",
    "schedule": "how long, and what changes on the way",
    "evaluation": "what is scored and saved, and when",
    "machine": "where and how it is computed, and what is written",
}


def add_settings(parser: argparse.ArgumentParser, kind: type[Settings]) -> None:
    """One flag for each setting, in groups.

    A flag that is not given stays unset, so that a named run's own value holds.
    """
    groups = {name: parser.add_argument_group(name, text) for name, text in GROUPS.items()}
    for name, place in places(kind).items():
        metavar = "{" + ",".join(place.choices) + "}"
        if not place.choices:
            metavar = PARSERS[place.type][2]
        groups[place.group].add_argument(
            f"--{name}",
            metavar=metavar,
            default=argparse.SUPPRESS,
            help=f"{place.help} ({about(place)})".replace("%", "%%"),
        )


def about(place: Place) -> str:
    """The range and the default of a setting."""
    limits = in_words(place.limits) + "; " if any(place.limits.values()) else ""
    return f"{limits}default: {written(place.default) or NOTHING}"


def read_settings(args: argparse.Namespace, kind: type[Settings]) -> dict[str, Any]:
    """The settings that were given, parsed to their types.

    Raises:
        SettingError: one is written otherwise.
    """
    values = {}
    for name, place in places(kind).items():
        if name not in args:
            continue
        text = getattr(args, name)
        if place.type is str and not place.choices:
            not_empty(f"--{name}", text)
            if text == NOTHING and place.default == "":
                text = ""
        parse, what, _ = PARSERS[str if place.choices else place.type]
        try:
            values[name] = parse(text)
        except ValueError:
            raise SettingError(name, text, f"must be {what}") from None
    return values


def add_run_arguments(parser: argparse.ArgumentParser, *, with_data: bool) -> None:
    """The arguments of the commands that read a run folder."""
    parser.add_argument("dir", type=model_of("DIR"), metavar="DIR", help=MODEL_HELP)
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda", "mps"),
        help="where to compute (default: cuda or mps where there is a GPU)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default: 0)")
    if with_data:
        parser.add_argument(
            "--dataset",
            type=partial(not_empty, "--dataset"),
            help=f"{', '.join(DATASETS)} (default: what the run was trained on)",
        )
        parser.add_argument(
            "--data_dir",
            type=partial(not_empty, "--data_dir"),
            help="where downloaded data sets are kept (default: as in training)",
        )
        parser.add_argument(
            "--split",
            default="test",
            choices=("train", "valid", "test"),
            help="of the data set (default: test)",
        )


def add_force(parser: argparse.ArgumentParser) -> None:
    """The flag of all commands that write files of a name that the user chose."""
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def add_picture(parser: argparse.ArgumentParser, default: str) -> None:
    """The flags of commands that write one picture: its file, and leave to replace it."""
    text = f"picture to write (default: {default})"
    parser.add_argument("--out", type=path_of("--out"), default=Path(default), help=text)
    add_force(parser)


def check_new(path: Path, *, force: bool, inputs: Iterable[Path | None] = ()) -> None:
    """Before long work, make sure that its result would replace nothing.

    Args:
        path: of the result.
        force: whether what exists may be replaced.
        inputs: what the command reads, which is never replaced: files, folders of runs, and
            folders of images.

    Raises:
        UserError: there is something of this name, be it a link that leads nowhere, and the user
            has not given --force; or it is one of the inputs.
    """
    if os.path.lexists(path) and not force:
        raise UserError(f"{path} exists; choose another --out, or add --force to replace it")
    for source in inputs:
        if source and is_part(path, source):
            raise UserError(
                f"{path} is of {source}, which this command reads; choose another --out"
            )


def is_part(path: Path, source: Path) -> bool:
    """Whether a file is `source`, or one of a run's or of the images in this folder."""
    target = Path(os.path.realpath(path))
    if not source.is_dir():
        return target.exists() and source.exists() and target.samefile(source)
    folder = Path(os.path.realpath(source))
    if (folder / "config.json").exists():  # of a run: by its name, since files may join the others
        return target.parent == folder and target.suffix in RUN_FILES
    return target.exists() and target.is_relative_to(folder)


def check_range(name: str, value: int, least: int, most: int, reason: str) -> None:
    """Make sure that a number of the user's lies in a range; `reason` says what its end is."""
    if value < least:
        raise UserError(f"--{name} {value}: must be at least {least}")
    if value > most:
        raise UserError(f"--{name} {value}: must be at most {most}, what {reason}")


def error_in_words(error: float | None, digits: int) -> str:
    """A standard error; one image says nothing of it."""
    return "unknown" if error is None else f"{error:.{digits}f}"


def run(main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> None:
    """Call `main(argv)`; what the user can fix becomes one line and exit code 2."""
    if sys.stderr is None:  # closed by the shell; progress bars expect one
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (open to the end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may hold what a terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            main(argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where what goes wrong is still told in a line
    except KeyboardInterrupt:
        say("interrupted", error=True)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader has left, as `head` does: no error of anybody's
        drop(sys.stdout)
        raise SystemExit(128 + 13) from None  # as the shell reports SIGPIPE
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        message = remedy(error)
        if not message:
            raise
        if isinstance(error, OSError) and error.filename is None:
            drop(sys.stdout)  # most likely standard output, on a full disk
        if isinstance(error, UserError) and os.environ.get("RANK", "0") != "0":
            # Most likely the first process says the same, and torchrun then ends this one.
            time.sleep(RANK_0_SECONDS)
        fail(message)


def fail(message: str) -> None:
    """Print the message to standard error, in one line, and leave with exit code 2."""
    say("error: " + message.replace("\n", " "), error=True)
    raise SystemExit(2)
