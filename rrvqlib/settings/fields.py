"""Settings that are checked when they are made: types, choices, ranges.

A class of settings is a frozen dataclass; each field carries the text of `--help` and its range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from functools import cache
from importlib import import_module
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rrvqlib.errors import UserError

Sides = tuple[int, ...]  # a whole number for each layer, l = 1 first

LARGEST = {int: 2**63 - 1, float: 3e38}  # what torch can hold: int64 and float32


class SettingError(UserError):
    """A setting that cannot be.

    Attributes:
        name, value: of the setting.
        rule: what it breaks; completes "channels=0: ...".
    """

    def __init__(self, name: str, value: object, rule: str):
        super().__init__(f"{name}={shortened(repr(value))}: {rule}")
        self.name, self.value, self.rule = name, value, rule


def shortened(text: str, most: int = 60) -> str:
    """The text, or its beginning with dots: a message is to be read."""
    return text if len(text) <= most else text[: most - 3] + "..."


def setting(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    flag: str = "",
) -> Any:
    """A field with the text that `--help` shows, and the range of its numbers.

    Args:
        default: value where nothing is said.
        help: of the flag.
        at_least, at_most, above, below: of the number, or of each of several.
        flag: its name on the command line, where it is not the field's own.
    """
    limits = {"at_least": at_least, "at_most": at_most, "above": above, "below": below}
    return field(default=default, metadata={"help": help, "flag": flag, "limits": limits})


@dataclass(frozen=True)
class Kind:
    """A line of a registry.

    Attributes:
        settings: class of the settings.
        made_by: "module:Class" of what is made from them, or "module:function".
    """

    settings: type[Settings]
    made_by: str = ""

    def load(self) -> Any:
        """What `made_by` names."""
        return load(self.made_by)


def load(path: str) -> Any:
    """What "module:name" names; this is when the module is imported."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def part(kinds: Mapping[str, Kind] | type[Settings], group: str, help: str = "") -> Any:
    """A field that holds settings of its own.

    Args:
        kinds: their class; or a registry, kind -> line, whose first is the default.
        group: of the flags in `--help`.
        help: of the flag that chooses the kind.
    """
    classes: dict[str, type[Settings]] = {}
    if isinstance(kinds, type):
        classes[""] = kinds
    else:
        classes = {name: kind.settings for name, kind in kinds.items()}
    default = next(iter(classes.values()))
    return field(default_factory=default, metadata={"kinds": classes, "group": group, "help": help})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of all settings; `check` holds the rules between several of them."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if "kinds" in f.metadata:
                check_part(f, value)
                continue
            value = checked(name_of(f), value, types(type(self))[f.name])
            object.__setattr__(self, f.name, value)
            if f.metadata:
                check_limits(f, value)
            elif f.name != "kind":
                raise TypeError(f"{f.name} of {type(self).__name__} is no `setting(...)`")
        self.check()

    def check(self) -> None:
        """Raise SettingError where settings do not go together."""

    def idle(self) -> dict[str, str]:
        """Names of settings that play no part beside the others -> why; parts speak for themselves.

        `flat.idle_names` asks all of them.
        """
        return {}


def name_of(f: Field[Any]) -> str:
    """What a setting is called on the command line and in messages."""
    return f.metadata.get("flag") or f.name


@cache
def types(kind: type[Settings]) -> dict[str, Any]:
    """The type of each field."""
    return get_type_hints(kind)


def check_part(f: Field[Any], value: object) -> None:
    """Raise SettingError where a part of the settings is of none of its kinds."""
    kinds = tuple(f.metadata["kinds"].values())
    if not isinstance(value, kinds):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise SettingError(f.name, value, f"must be settings: {names}")


def checked(name: str, value: Any, kind: Any) -> Any:
    """The value in its type's own form (1 -> 1.0, [16, 8] -> (16, 8)).

    Raises:
        SettingError: it is of another type, or none of the choices.
    """
    if get_origin(kind) is Literal:
        if value not in get_args(kind) or type(value) is not str:
            raise SettingError(name, value, "must be " + one_of(get_args(kind)))
        return value
    if kind == Sides:
        values = (value,) if type(value) is int else value
        if not isinstance(values, tuple | list) or not all(type(v) is int for v in values):
            raise SettingError(name, value, "must be whole numbers, such as (16, 16, 8)")
        return tuple(values)
    if kind is float and type(value) is int:
        value = float(value)
    if kind not in DESCRIPTIONS:
        raise TypeError(f"{name}: settings are int, float, bool, str, Sides or Literal, not {kind}")
    if type(value) is not kind:
        raise SettingError(name, value, f"must be {DESCRIPTIONS[kind]}")
    return value


DESCRIPTIONS = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


def one_of(choices: tuple[str, ...]) -> str:
    """One or several choices, in words."""
    return ("one of " if len(choices) > 1 else "") + ", ".join(choices)


def check_limits(f: Field[Any], value: Any) -> None:
    """Raise SettingError where a number, or one of several, is out of range."""
    limits = f.metadata["limits"]
    for number in value if isinstance(value, tuple) else (value,):
        if type(number) not in LARGEST:
            return
        if not abs(number) <= LARGEST[type(number)]:
            raise SettingError(name_of(f), value, too_large(number))
        low = -math.inf if limits["at_least"] is None else limits["at_least"]
        high = math.inf if limits["at_most"] is None else limits["at_most"]
        over = -math.inf if limits["above"] is None else limits["above"]
        under = math.inf if limits["below"] is None else limits["below"]
        if not (low <= number <= high and over < number < under):
            raise SettingError(name_of(f), value, f"must be {in_words(limits)}")


def too_large(number: float) -> str:
    """What a number breaks that torch cannot hold."""
    if isinstance(number, float) and not math.isfinite(number):
        return "must be a finite number"
    return f"must be a smaller number: {amount(LARGEST[type(number)])} is the largest"


def amount(number: float) -> str:
    """16777216 -> "16,777,216", 0.5 -> "0.5"."""
    whole = isinstance(number, int) and abs(number) >= 10_000
    return f"{number:,}" if whole else f"{number:g}"


def in_words(limits: dict[str, float | None]) -> str:
    """A range; {"at_least": 0, ...} -> "0 or more"."""
    given = {name: value for name, value in limits.items() if value is not None}
    if given == {"at_least": 0}:
        return "0 or more"
    return ", ".join(f"{name.replace('_', ' ')} {amount(value)}" for name, value in given.items())


def from_json(kind: type[Settings], values: Any) -> Any:
    """The inverse of `dataclasses.asdict`; fields that are missing take their defaults.

    Args:
        kind: class of the settings.
        values: what a JSON file holds.

    Raises:
        SettingError: a setting is unknown, of the wrong type or out of range.
    """
    if not isinstance(values, dict):
        raise SettingError(kind.__name__, values, "must be a table of settings")
    known = {f.name: f for f in fields(kind)}
    made = {}
    for name, value in values.items():
        if name not in known:
            raise SettingError(name, value, f"is no setting of {kind.__name__}")
        kinds = known[name].metadata.get("kinds")
        made[name] = from_json(kind_of(name, value, kinds), value) if kinds else value
    return kind(**made)


def kind_of(name: str, value: Any, kinds: Mapping[str, type[Settings]]) -> type[Settings]:
    """The class of a part that a JSON file describes."""
    if "" in kinds:
        return kinds[""]
    wanted = value.get("kind") if isinstance(value, dict) else value
    if not isinstance(wanted, str) or wanted not in kinds:
        raise SettingError(name, wanted, "must be " + one_of(tuple(kinds)))
    return kinds[wanted]
