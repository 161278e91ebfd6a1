"""How options are declared: once, as fields of a frozen record that checks its values when it is made."""

from __future__ import annotations

import difflib
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cache, wraps
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from qrp_store.errors import InvalidInput, UnknownOption, did_you_mean

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R", bound="Options")
Several: TypeAlias = T | Sequence[T]
"""The type of a Python argument that takes one value or several."""
Names = Literal["datasets", "backbones", "concepts"]


@dataclass(frozen=True)
class Declaration:
    """What `option` attaches to a field. Bounds hold for each element of a list.

    `default_text` describes a default that is not a plain value. `separator` splits one word of the command line into
    a list. `identity`: a fingerprint contains the value, as `recorded` if that is set, and if `younger` (than the first
    stored results) only when it is not the default. `check` returns the value or raises InvalidInput; with `choice`
    a wrong value is a usage error on the command line, as for a list of choices. `variable` names the environment
    variable that replaces the option.
    """

    help: str
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    default_text: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    separator: str | None = None
    identity: bool = True
    younger: bool = False
    recorded: str | None = None
    check: Callable[[Any], Any] | None = None
    choice: bool = False
    completes: Names | None = None
    variable: str | None = None

    def bounds(self) -> str:
        """The bounds in words: `at least 1, below 2`; empty without any."""
        limits = (("at least", self.minimum), ("above", self.above), ("at most", self.maximum), ("below", self.below))
        return ", ".join(f"{words} {limit:,}" for words, limit in limits if limit is not None)

    def admits(self, number: float) -> bool:
        """Whether a number is finite and within the bounds."""
        return (
            math.isfinite(number)
            and (self.minimum is None or number >= self.minimum)
            and (self.maximum is None or number <= self.maximum)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )


def option(default: T, help: str, **declared: Any) -> T:
    """Declare a field of an options record; `declared` are the fields of `Declaration`."""
    return field(default=default, metadata={"option": Declaration(help, **declared)})


def plain_option(default: T, help: str, **declared: Any) -> T:
    """Declare a field that no fingerprint contains."""
    return option(default, help, identity=False, **declared)


def required(help: str, **declared: Any) -> Any:
    """Declare a field that has no default."""
    return field(metadata={"option": Declaration(help, **declared)})


@dataclass(frozen=True)
class Described:
    """One option of a record: its Python name, its type, its default (MISSING: required) and its declaration."""

    name: str
    type: Any
    default: Any
    declaration: Declaration

    @property
    def required(self) -> bool:
        return self.default is MISSING

    @property
    def negated(self) -> bool:
        """Whether its flag switches it off: `wait` and `--no-wait`."""
        return self.default is True and self.flag.startswith("--no-")

    @property
    def flags(self) -> tuple[str, ...]:
        """How the command line spells it."""
        return self.declaration.flags or ("--" + self.name.replace("_", "-"),)

    @property
    def flag(self) -> str:
        """Its first flag, without the `/--opposite` of a pair."""
        return self.flags[0].partition("/")[0]

    @property
    def is_list(self) -> bool:
        return get_origin(self.type) is tuple

    @property
    def element(self) -> Any:
        """The type of one element of a list; else the type itself."""
        return get_args(self.type)[0] if self.is_list else self.type

    @property
    def default_text(self) -> str | None:
        """What the default is, in words; None where there is nothing to say."""
        unsaid = any(self.default is nothing for nothing in (MISSING, None, False, True, ()))
        if self.declaration.default_text is not None or unsaid:
            return self.declaration.default_text
        return ", ".join(map(str, self.default)) if self.is_list else f"{self.default}"

    def checked(self, value: Any) -> Any:
        """Return the value as the record holds it. Raise InvalidInput for a wrong type or a value out of bounds."""
        if not self.is_list:
            return self._checked(value)
        if isinstance(value, (str, bytes, os.PathLike)) or not isinstance(value, Iterable):
            value = () if value is None else (value,)
        return tuple(self._checked(element) for element in value)

    def read(self, word: str) -> Any:
        """Return the element that a word of the command line means. Raise InvalidInput for a wrong type."""
        value: Any = word
        for kind in (int, float):
            if kind in get_args(self.element) or kind is self.element:
                try:
                    value = kind(word)
                    break
                except ValueError:
                    pass
        value = _converted(value, self.element, self.flag)
        return self._checked(value) if self.declaration.choice else value

    def _checked(self, value: Any) -> Any:
        value = _converted(value, self.element, self.flag)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not self.declaration.admits(value):
            shown = f"{value:g}" if isinstance(value, float) else value
            raise InvalidInput(f"{self.flag} {shown}: {self.declaration.bounds() or 'expected a finite number'}")
        return value if value is None or self.declaration.check is None else self.declaration.check(value)


def _converted(value: Any, kind: Any, flag: str) -> Any:
    """Return the value as one of the types that `kind` allows."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    choices = [choice for one in kinds if get_origin(one) is Literal for choice in get_args(one)]
    if (value is None and NoneType in kinds) or (isinstance(value, str) and value in choices):
        return value
    if bool in kinds and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    if isinstance(value, (int, float)) or hasattr(value, "__index__") or hasattr(value, "__float__"):
        if int in kinds and hasattr(value, "__index__") and not isinstance(value, bool):
            return value.__index__()
        if float in kinds and not isinstance(value, bool):
            return float(value)
    if str in kinds and isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    names = [str(choice) for choice in choices]
    hint = did_you_mean(value, names) if isinstance(value, str) else None
    words = ["a whole number"] * (int in kinds) + ["a number"] * (float in kinds and int not in kinds)
    words += ["True or False"] * (bool in kinds) + ["text"] * (str in kinds)
    expected = f"expected {' or '.join([*words, *names])}" if words else f"known are {', '.join(names)}"
    raise InvalidInput(f"{flag} {value!r}: {expected}", hint=hint)


def described(record: type[Options]) -> tuple[Described, ...]:
    """Return the options of a record, in the order in which they were declared."""
    return _described(cast(Any, record))


@cache
def _described(record: Any) -> tuple[Described, ...]:
    types = get_type_hints(record)
    return tuple(
        Described(f.name, types[f.name], f.default, f.metadata["option"])
        for f in fields(record)
        if "option" in f.metadata
    )


@dataclass(frozen=True, kw_only=True)
class Options:
    """A record of options. Raises InvalidInput for a value of a wrong type or out of its bounds."""

    def __post_init__(self) -> None:
        for each in described(type(self)):
            object.__setattr__(self, each.name, each.checked(getattr(self, each.name)))

    def values(self) -> dict[str, Any]:
        """Return every option by its Python name, as keyword arguments of a function that takes them."""
        return {each.name: getattr(self, each.name) for each in described(type(self))}

    def identity(self) -> dict[str, Any]:
        """Return the values that a fingerprint contains, by the name that it knows them by."""
        return {
            each.declaration.recorded or each.name: getattr(self, each.name)
            for each in described(type(self))
            if each.declaration.identity and not (each.declaration.younger and getattr(self, each.name) == each.default)
        }


def taken(record: type[R], given: Mapping[str, Any]) -> R:
    """Return the record that these values make; names that are not its fields are left out."""
    return record(**{each.name: given[each.name] for each in described(record) if each.name in given})


def takes(*records: type[Options]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function whose keyword arguments are the options of these records.

    A call with an unknown or a missing argument raises UnknownOption, which names the nearest argument; the flags of
    the command line count as names, too.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)
        spellings = {name: name for name in signature.parameters}
        for each in (each for record in records for each in described(record) if each.name in spellings):
            flags = (part for flag in each.flags for part in flag.split("/"))
            spellings |= {flag.lstrip("-").replace("-", "_"): each.name for flag in flags}

        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            for name in kwargs:
                if name not in signature.parameters:
                    near = difflib.get_close_matches(name, spellings, n=1, cutoff=0.5)
                    advice = f": did you mean {spellings[near[0]]!r}?" if near else ""
                    raise UnknownOption(f"{function.__name__} has no option {name!r}{advice}")
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise UnknownOption(f"{function.__name__}: {error}") from None
            return function(*args, **kwargs)

        checked.records = records  # type: ignore[attr-defined]
        return checked

    return decorate
