"""Options of the command line, made from the records of `qrp_store.options`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer

from qrp_store.errors import InvalidInput
from qrp_store.options import Described, Options, described

from .completion import names_of

R = TypeVar("R", bound=Options)


def parameters_of(record: type[Options]) -> list[inspect.Parameter]:
    """Return a record's options as the parameters of a command; those that are not given arrive as None or False."""
    return [_parameter(each) for each in sorted(described(record), key=lambda each: not each.required)]


def made(record: type[R], values: dict[str, Any]) -> R:
    """Return the record that the command line's values make, and take them out of `values`."""
    given = {each.name: (values.pop(each.name), each) for each in described(record)}
    return record(
        **{
            name: not value if each.negated else value
            for name, (value, each) in given.items()
            if value is not None and value != []
        }
    )


def _parameter(each: Described) -> inspect.Parameter:
    default: Any = False if each.type is bool else None
    default = True if each.default is True and not each.negated else default
    default = inspect.Parameter.empty if each.required else default
    annotated: Any = Annotated  # with a type that only the record knows
    kind = annotated[_kind(each), _info(each)]
    return inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)


def _kind(each: Described) -> Any:
    """Return the type for typer, which parses choices and plain types itself; other words need a parser."""
    if each.is_list and each.declaration.separator is None:
        return list[str if _words(each) else each.element] | None  # type: ignore[misc]
    if _words(each):
        return str | None
    return each.type if each.required or each.type is bool else each.type | None


def _words(each: Described) -> bool:
    """Whether typer has no type for the values, so that the record must parse the words."""
    mixed = get_origin(each.element) is not Literal and len(set(get_args(each.element)) - {NoneType}) > 1
    return mixed or each.declaration.separator is not None or each.declaration.choice


def _info(each: Described) -> Any:
    text = each.declaration.help
    if each.default_text is not None:
        text = f"{text}  [default: {each.default_text}]"
    completes = each.declaration.completes
    return typer.Option(
        *each.flags,
        metavar=each.declaration.metavar,
        help=text,
        show_default=False,
        envvar=each.declaration.variable,
        parser=_parser(each) if _words(each) else None,
        autocompletion=names_of(completes) if completes else None,
    )


def _parser(each: Described) -> Callable[[str], Any]:
    separator = each.declaration.separator

    def parse(text: str) -> Any:
        try:
            values = [each.read(word.strip()) for word in (text.split(separator) if separator else [text])]
        except InvalidInput as error:
            raise typer.BadParameter(error.message.removeprefix(f"{each.flag} ")) from error
        return values if separator else values[0]

    return parse
