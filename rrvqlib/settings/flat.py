"""Nested settings <-> flat names: what the command line, `changed` and a run's command speak.

A flat name is a field's own, or its `flag`; the `kind` of a part goes by the part's name
(`latent="gaussian"`).
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args, get_origin

from rrvqlib.settings.fields import SettingError, Settings, name_of, one_of, types

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Place:
    """Where a flat name lives.

    Attributes:
        group: of `--help`.
        help: text of the flag.
        default: value where nothing is said.
        type: of its values.
        choices: the values that there are, where they can be listed.
        limits: of numbers, see `setting`.
    """

    group: str
    help: str
    default: Any
    type: Any
    choices: tuple[str, ...] = ()
    limits: dict[str, float | None] = field(default_factory=dict)


def places(kind: type[Settings], group: str = "model") -> dict[str, Place]:
    """Every flat name of a class of settings, those of all alternatives included.

    Raises:
        ValueError: two settings that can stand beside each other have one name.
    """
    found: dict[str, Place] = {}
    for f in fields(kind):
        new: dict[str, Place] = {}
        if "kinds" in f.metadata:
            kinds = f.metadata["kinds"]
            for part in kinds.values():
                new = places(part, f.metadata["group"]) | new
            if "" not in kinds:
                choices = tuple(kinds)
                place = Place(f.metadata["group"], f.metadata["help"], choices[0], str, choices)
                new = {f.name: place} | new
        elif f.metadata:
            of_type = types(kind)[f.name]
            choices = get_args(of_type) if get_origin(of_type) is Literal else ()
            about = f.metadata
            place = Place(group, about["help"], f.default, of_type, choices, about["limits"])
            new = {name_of(f): place}
        twice = found.keys() & new.keys()
        if twice:
            raise ValueError(f"two settings are called {', '.join(sorted(twice))}")
        found |= new
    return found


def flattened(settings: Settings) -> dict[str, Any]:
    """Flat name -> value, of all that the chosen kinds of parts have."""
    found: dict[str, Any] = {}
    for f in fields(settings):
        value = getattr(settings, f.name)
        if "kinds" in f.metadata:
            if "" not in f.metadata["kinds"]:
                found[f.name] = value.kind
            found |= flattened(value)
        elif f.metadata:
            found[name_of(f)] = value
    return found


def nested(kind: type[S], values: dict[str, Any]) -> S:
    """The inverse of `flattened`; names that the chosen kinds of parts do not have are ignored.

    Raises:
        SettingError: a value is out of range, or there is no such kind of a part.
    """
    made: dict[str, Any] = {}
    for f in fields(kind):
        if "kinds" in f.metadata:
            kinds = f.metadata["kinds"]
            wanted = "" if "" in kinds else values.get(f.name, next(iter(kinds)))
            if not isinstance(wanted, str) or wanted not in kinds:
                raise SettingError(f.name, wanted, "must be " + one_of(tuple(kinds)))
            made[f.name] = nested(kinds[wanted], values)
        elif f.metadata and name_of(f) in values:
            made[f.name] = values[name_of(f)]
    return kind(**made)


def changed(settings: S, **given: Any) -> S:
    """A copy with other values, by flat names; `changed(RUN, latent="gaussian", channels=32)`.

    What plays no part beside the new values goes back to its default.

    Raises:
        SettingError: a name is unknown, a value out of range, or one that was given plays no part.
    """
    known = places(type(settings))
    for name in sorted(given.keys() - known.keys()):
        near = difflib.get_close_matches(name, known, 1)
        raise SettingError(name, given[name], "is no setting" + (f"; {near[0]}?" if near else ""))
    values = flattened(settings)
    result = nested(type(settings), values | given)
    idle = dict(absent(result, given)) | idle_names(result)
    for name in given.keys() & idle.keys():
        raise SettingError(name, given[name], f"plays no part {idle[name]}; leave it out")
    kept = {n: v for n, v in flattened(result).items() if n not in idle}
    return nested(type(settings), kept) if idle else result


def idle_names(settings: Settings) -> dict[str, str]:
    """Flat names that play no part beside the others -> why, of the whole."""
    found = settings.idle()
    for f in fields(settings):
        if "kinds" in f.metadata:
            found = idle_names(getattr(settings, f.name)) | found
    return found


def takes(settings: Settings, name: str, value: Any = None) -> bool:
    """Whether a flat name may be given beside the others: what advises people asks this first.

    Args:
        settings: the others.
        name: of the setting.
        value: that it is given; None, the one that it has.
    """
    if value is None:
        value = flattened(settings).get(name)
    try:
        changed(settings, **{name: value})
    except SettingError:
        return False
    return True


def absent(settings: Settings, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names among `given` that the chosen kinds of parts do not have -> which kinds these are."""
    present = flattened(settings)
    for name in given.keys() - present.keys():
        part = part_with(type(settings), name)
        yield name, f"with {part} {present[part]}"


def part_with(kind: type[Settings], name: str) -> str:
    """The part of which some kinds have a setting of a flat name, and others not."""
    for f in fields(kind):
        for of_part in f.metadata.get("kinds", {}).values():
            if name in places(of_part):
                own = {name_of(g) for g in fields(of_part)}
                return f.name if name in own else part_with(of_part, name)
    raise KeyError(name)


NOTHING = "none"  # how one writes a path that is not given


def written(value: object) -> str:
    """A setting as one writes it on the command line; (16, 16, 8) -> "16*2,8"."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        runs = ((side, len(list(equal))) for side, equal in itertools.groupby(value))
        return ",".join(f"{side}*{n}" if n > 1 else str(side) for side, n in runs)
    return str(value)
