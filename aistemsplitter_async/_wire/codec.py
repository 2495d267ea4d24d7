"""Decodes JSON into values: camelCase names, no silent coercion, and a JSON path in every error.

cattrs coerces by default (`None` becomes `"None"`), so every primitive has a strict hook here. A hostile reply cannot
exhaust memory or stack: its size is capped while it is read, its depth and the length of its numbers here.

A reply is read for what is needed of it. A field without a default must be right; one with a default value has that if
it cannot be read, since a split that exists must not be lost over its date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

import attrs
from cattrs import ClassValidationError, Converter, IterableValidationError
from cattrs.gen import make_dict_structure_fn, override

from aistemsplitter_async._wire.dates import parse_time
from aistemsplitter_async._wire.encodings import decode_text
from aistemsplitter_async._wire.messages import Reply
from aistemsplitter_async.config import REPLY_BRACKETS, REPLY_CAP_BYTES, REPLY_DEPTH
from aistemsplitter_async.errors import ProtocolError

T = TypeVar("T")

_KEY_SHOWN = 40  # characters of a server's key in a message
_LARGEST = 2.0**53  # every whole number up to this is exact as a float
_MOST_DIGITS = 20  # of a number read exactly; `_LARGEST` has 16
_PADDING = " \t\r\n\x00\ufeff"  # around a reply's JSON; some servers send whole buffers
_DECIMAL = re.compile(r"-?[0-9]{1,16}(\.[0-9]{1,16})?")  # as frameworks write decimals, which are no JSON numbers
_PLAIN_KEY = re.compile(rf"[\w-]{{1,{_KEY_SHOWN}}}", re.ASCII)


def parse_json(body: bytes) -> Any:
    """Return the JSON value in `body`, which must be plain in every respect: nothing is decoded or repaired.

    Raises:
        ProtocolError: not UTF-8, not JSON, over 1 MiB, nested deeper than 32, NaN or Infinity, a number too long to
            read, or text with a lone surrogate.
    """
    if len(body) > REPLY_CAP_BYTES:
        raise ProtocolError(f"the reply is larger than {REPLY_CAP_BYTES} bytes")
    value = _load(_STRICT, lambda: body.decode("utf-8"))
    # A tree cannot be deeper than its number of brackets, and a lone surrogate can only come from an escape.
    if body.count(b"{") + body.count(b"[") > REPLY_DEPTH or b"\\u" in body:
        _check_tree(value, texts=True)
    return value


def parse_reply(reply: Reply) -> Any:
    """Return the JSON value in a reply's body, in any encoding of `encodings`.

    What is wrong with one value does not spoil the others: numbers that are none (`NaN`) or too long to read become NaN
    or infinity, and text may have lone surrogates; `decode` and `clean_text` accept neither.

    Raises:
        ProtocolError: not readable text, not JSON, over 1 MiB, of more than 10,000 lists and objects, or nested deeper
            than 32.
    """
    text = decode_text(reply.body, reply.headers)
    brackets = text.count("{") + text.count("[")
    if brackets > REPLY_BRACKETS:
        raise ProtocolError("the reply is not usable JSON: it has too many values")
    value = _load(_TOLERANT, lambda: text.strip(_PADDING))
    if brackets > REPLY_DEPTH:
        _check_tree(value, texts=False)
    return value


def is_readable(reply: Reply) -> bool:
    """Return whether a reply's body contains a whole JSON value, as far as it has come."""
    try:
        return isinstance(parse_reply(reply), dict)  # of an object, unlike a number, no proper part is another
    except ProtocolError:
        return False


def _load(decoder: json.JSONDecoder, read: Callable[[], str]) -> Any:
    text = ""
    try:
        text = read()
        return decoder.decode(text)
    except RecursionError:
        problem = "nested too deeply"
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError and the integer digit limit are all ValueErrors
        is_page = text.lstrip()[:1] == "<"
        problem = "it is a web page" if is_page else str(error).partition(";")[0][:200]
    raise ProtocolError(f"the reply is not usable JSON: {problem}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _parse_int(digits: str) -> float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def _parse_float(digits: str) -> float:
    return float(digits)  # in Python, so that other threads have their turns while many are read


# Built once: building a decoder costs as much as using it.
_STRICT = json.JSONDecoder(parse_constant=_refuse_constant)
_TOLERANT = json.JSONDecoder(parse_constant=float, parse_float=_parse_float, parse_int=_parse_int, strict=False)


def _check_tree(value: Any, *, texts: bool) -> None:
    """Check, without recursion, that the nesting is within the limit and, if asked, every string can be encoded."""
    level, depth = [value], 0
    while level:
        below: list[Any] = []
        for node in level:
            if isinstance(node, str):
                if texts and not _is_encodable(node):
                    raise ProtocolError("the reply is not usable JSON: a lone surrogate in a string")
            elif isinstance(node, dict | list):
                if depth == REPLY_DEPTH:
                    raise ProtocolError(f"the reply is not usable JSON: nested deeper than {REPLY_DEPTH}")
                below += node
                below += node.values() if isinstance(node, dict) else ()
        level, depth = below, depth + 1


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def decode(value: Any, cls: type[T], *, path: str = "$") -> T:
    """Return `value`, a parsed JSON tree found at `path`, as `cls`.

    Raises:
        ProtocolError: a field is missing or of the wrong type; names the first such path, e.g. `$.data.creditsUsed`.
    """
    try:
        return _converter().structure(value, cls)
    except Exception as error:  # noqa: BLE001  # cattrs wraps anything that a hook raises
        problem = _first_problem(error, path)
    raise ProtocolError(f"unexpected reply: {problem}")


def _first_problem(error: BaseException, path: str) -> str:
    if isinstance(error, ClassValidationError):
        noted = [(inner, f"{path}.{to_camel(note.name)}") for inner, note in error.group_exceptions()[0]]
    elif isinstance(error, IterableValidationError):
        noted = [(inner, f"{path}{_step(note.index)}") for inner, note in error.group_exceptions()[0]]
    else:
        what = "is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
        return f"{path} {what}"
    if not noted:
        return f"{path} should be an object"
    return _first_problem(*noted[0])


def _step(key: Any) -> str:
    """Return one step of a path. Keys are the server's text: anything but a plain name is escaped and shortened."""
    return f".{key}" if _PLAIN_KEY.fullmatch(str(key)) else f"[{str(key)[:_KEY_SHOWN]!r}]"


def to_camel(name: str) -> str:
    """Return the camelCase spelling, as in JSON, of one of our field names."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


@cache
def _converter() -> Converter:
    converter = Converter(detailed_validation=True)
    converter.register_structure_hook(str, _string)
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(datetime, _time)
    converter.register_structure_hook_func(_is_open_enum, _known_or_new)
    converter.register_structure_hook_func(
        lambda annotation: annotation == Mapping[str, str],
        lambda value, _: converter.structure(_filled(value), dict[str, str]),
    )
    converter.register_structure_hook_factory(attrs.has, lambda cls: _structure_fn(converter, cls))
    return converter


def _structure_fn(converter: Converter, cls: Any) -> Any:
    fields = {
        field.name: override(rename=to_camel(field.name), struct_hook=_optional(converter, field))
        for field in attrs.fields(cls)
    }
    structure = make_dict_structure_fn(cls, converter, **fields)  # type: ignore[arg-type]

    def checked(value: Any, expected: Any) -> Any:
        # `null` for a field that has a default means the same as a missing field.
        return structure({key: item for key, item in _object(value).items() if item is not None}, expected)

    return checked


def _optional(converter: Converter, field: attrs.Attribute[Any]) -> Callable[[Any, Any], Any] | None:
    """Return the hook of a field with a default value, which is taken for a value that cannot be read."""
    if field.default is attrs.NOTHING or isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]
        return None

    def read(value: Any, expected: Any) -> Any:
        try:
            return converter.structure(value, expected)
        except Exception:  # noqa: BLE001  # cattrs wraps anything that a hook raises
            return field.default

    return read


def _is_open_enum(annotation: Any) -> bool:
    """Recognise `Literal[..] | str`, with or without `None`: known strings, to which the API may add others."""
    if get_origin(annotation) not in (Union, UnionType):
        return False
    members = [member for member in get_args(annotation) if member is not NoneType]
    return len(members) > 1 and all(member is str or get_origin(member) is Literal for member in members)


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"should be an object, not {_kind(value)}")
    return value


def _filled(value: Any) -> Mapping[str, Any]:
    """Return an object without its empty entries. PHP writes an empty one as a list."""
    return {key: item for key, item in _object({} if value == [] else value).items() if item is not None}


def _known_or_new(value: Any, _: Any) -> str:
    # An unknown string is passed through, also into messages and logs, so it must be safe to display.
    if not _string(value, str).isprintable():
        raise TypeError("should be a printable string")
    return str(value)


def _string(value: Any, _: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"should be a string, not {_kind(value)}")
    if not value.isascii() and not _is_encodable(value):
        raise TypeError("should be text without lone surrogates")
    return value


def _number(value: Any, _: Any) -> float:
    # Integers stay integers: credits are shown as 214, not 214.0.
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = float(value) if "." in value else int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"should be a number, not {_kind(value)}")
    if not -_LARGEST <= value <= _LARGEST:  # `1e999` is infinity, and an integer of 400 digits does not fit a float
        raise TypeError("should be a number of at most 2**53")
    return value


def _time(value: Any, _: Any) -> datetime:
    time = None if isinstance(value, bool) or not isinstance(value, str | int | float) else parse_time(value)
    if time is None:
        raise TypeError("should be a time, in ISO 8601 or as seconds since 1970")
    return time


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
