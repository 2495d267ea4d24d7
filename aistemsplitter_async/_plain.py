"""Values as plain JSON: `to_dict`, `from_dict`, and what pydantic and JSON encoders ask of a value.

A value is written the same way everywhere: its keys are its attribute names, as in `--json`. Where values of several
kinds come in one list (outcomes, events, errors, inputs), `type` says which it is.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin

import attrs

_CREDENTIALS = re.compile("//[^/]*@")
# A password with a `#`, `?` or `/` in it: what comes first looks like a host with a port that is no number.
_ODD_CREDENTIALS = re.compile(r"//[^/?#@[]*:(?!\d*[/?#])[^/?#@]*[/?#].*@.*", re.DOTALL)
_URL = re.compile(
    r"""[a-z][a-z0-9+.-]{0,15}://\S*?(?=[])}>"'.,:;]{0,3}(?:\s|$))""", re.IGNORECASE
)  # without what ends it
# Of a database: a user, perhaps a password, which goes on to the last @, hosts, a path, options.
_DATABASE = re.compile(r"(postgres(?:ql)?://)(?:([^/?#:@]*)(?::.*)?@)?([^/?#@]*)(/[^?#@]*)?(?:\?(.*))?", re.DOTALL)
_SHOWN_OPTIONS = frozenset({"dbname", "host", "port", "schema", "sslmode", "target_session_attrs", "user"})
_PARAMETER = re.compile(
    r"((?:[?&]|%3f|%26)(?:amp;)?(?!(?:schema|host|dbname)=)[\w.\[\]-]{1,64}(?:=|%3d))[\w%+/=~-]{16,}(?:\.[\w-]{16,})*",
    re.IGNORECASE,
)  # of a query without the rest of its URL, and long enough to be a token or a signature
_RAW_BYTE = re.compile("[\udc80-\udcff]")  # as Python reads one in a name that is not text
_ONE_URL = re.compile(r"\s*[a-z][a-z0-9+.-]{0,15}://", re.IGNORECASE)
_DEEPEST = 32  # levels of lists and dicts; what is deeper may contain itself
_INTEGERS = range(-(2**63), 2**64)  # that encoders other than Python's write, too
_SCHEMAS: dict[object, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    datetime: {"type": "string", "format": "date-time"},
    NoneType: {"type": "null"},
}


def redact_url(url: str) -> str:
    """Return a URL that is safe to show: without query, fragment and credentials, which may grant access.

    That of a PostgreSQL database keeps its user and the options that say which database it is.
    """
    if (database := _DATABASE.fullmatch(url)) is not None:
        scheme, user, hosts, path, query = database.groups(default="")
        options = "&".join(one for one in query.split("&") if one.partition("=")[0] in _SHOWN_OPTIONS)
        return f"{scheme}{user}{'@' if user else ''}{hosts}{path}{'?' if options else ''}{options}"
    return _CREDENTIALS.sub("//", re.split("[?#]", _ODD_CREDENTIALS.sub("//..", url), maxsplit=1)[0])


def redact_text(text: str) -> str:
    """Return text in which every URL is safe to show, and what is left of one, such as a path with its query."""
    whole = _URL.sub(lambda found: redact_url(found[0]), text) if "://" in text else text
    return _PARAMETER.sub(r"\1...", whole)


def safe_text(text: str) -> str:
    """Return text that can be encoded: the name of a file need not be text, and what it is not is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def printable_text(text: str) -> str:
    r"""Return text for people that can be printed: a byte of a file name that is not text is written as `\xNN`."""
    return safe_text(_RAW_BYTE.sub(lambda half: rf"\x{ord(half[0]) - 0xDC00:02x}", text))


def to_plain(value: object, *, shown: bool = False, _depth: int = 0) -> Any:
    """Return `value` as plain JSON: text, numbers, booleans, `None`, lists and dicts.

    Dates become ISO 8601 in UTC with `Z`, paths text, and numbers that not all JSON has, such as NaN, `None`. What
    cannot be a part of JSON at all (a stream, bytes, what contains itself) is named instead.

    Args:
        value: of any kind.
        shown: whether it goes to logs: URLs lose what may grant access.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if int(value) in _INTEGERS else None
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str | PurePath):
        text = safe_text(str.__str__(value) if isinstance(value, str) else str(value))  # an enum's own is its name
        return _redact(text) if shown else text
    if isinstance(value, datetime):
        return _write_time(value)
    if isinstance(value, PlainValue):
        return value.to_plain(shown=shown)
    if isinstance(value, Mapping) and _depth < _DEEPEST:
        with suppress(Exception):  # other people's code
            return {
                to_plain(key if isinstance(key, str) else repr(key)): to_plain(item, shown=shown, _depth=_depth + 1)
                for key, item in value.items()
            }
    if isinstance(value, list | tuple | set | frozenset) and _depth < _DEEPEST:
        return [to_plain(item, shown=shown, _depth=_depth + 1) for item in value]
    return _name_of(value)


def _redact(text: str) -> str:
    """Return text for logs. One that is a URL may have spaces in it."""
    return redact_url(text) if _ONE_URL.match(text) else redact_text(text)


def _write_time(time: datetime) -> str:
    aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)  # as `_read_time` takes it
    with suppress(OverflowError):  # of the first or the last day there is
        aware = aware.astimezone(UTC)
    return aware.isoformat().replace("+00:00", "Z")


def _name_of(value: object) -> str:
    with suppress(Exception):  # other people's code
        for attribute in ("filename", "name"):
            name = getattr(value, attribute, None)
            if isinstance(name, str) and name:
                return safe_text(name)
    return f"<{type(value).__name__}>"


class PlainValue:
    """A value that is written as plain JSON.

    `dict(value)` and `{**value}` are its `to_dict()`, which is how encoders such as FastAPI's read it; `__json__` is
    for those of Celery and others. In pydantic it is a type like any other.
    """

    __slots__ = ()
    _kind: ClassVar[str | bool] = False  # the `type` that is written with it; True for the name of the class
    _shown: ClassVar[bool] = False  # whether it is made for logs, so that URLs lose what may grant access

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON: keys are attribute names, dates ISO 8601 with `Z`, paths text (`docs/values.md`)."""
        return self.to_plain(shown=self._shown)

    def to_plain(self, *, shown: bool) -> dict[str, Any]:
        """Return it as a part of another value, which goes to logs if `shown`."""
        kind = self.type_name()
        head = {} if kind is None else {"type": kind}
        return head | {name: to_plain(value, shown=shown) for name, value in self._fields().items()}

    @classmethod
    def type_name(cls) -> str | None:
        """Return the `type` that is written with it, if any."""
        return (cls.__name__ if cls._kind is True else cls._kind) or None

    def _fields(self) -> dict[str, object]:
        return {field.name: getattr(self, field.name) for field in attrs.fields(type(self))}  # type: ignore[arg-type]

    def keys(self) -> list[str]:
        """Return the keys of `to_dict()`."""
        return list(self.to_dict())

    def __getitem__(self, key: str) -> Any:
        return self.to_dict()[key]

    __iter__ = None  # it is no list: without this, Python would count up `value[0]`

    def __json__(self) -> dict[str, Any]:
        return self.to_dict()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        from pydantic_core import core_schema  # noqa: PLC0415  # it is the one that calls

        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.plain_serializer_function_ser_schema(cls._serialize)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: object, handler: Any) -> dict[str, Any]:
        return cls.json_schema(written=handler.mode == "serialization")

    @classmethod
    def json_schema(cls, *, written: bool = True) -> dict[str, Any]:
        """Return the JSON schema of what `to_dict` returns or, if not `written`, of what `from_dict` reads."""
        kind = cls.type_name()
        head: dict[str, Any] = {} if kind is None else {"type": {"type": "string", "const": kind}}
        fields = attrs.fields(cls)  # type: ignore[arg-type]
        properties = head | {field.name: _schema_of(_type_of(cls, field.type), written=written) for field in fields}
        required = [*head, *(field.name for field in fields if written or field.default is attrs.NOTHING)]
        return {"title": cls.__name__, "type": "object", "properties": properties, "required": required}

    @classmethod
    def _validate(cls, value: object) -> Self:
        if isinstance(value, cls):
            return value
        raise ValueError(f"should be a {cls.__name__}, which is not made from JSON")

    @staticmethod
    def _serialize(value: PlainValue) -> dict[str, Any]:
        return value.to_dict()


class Model(PlainValue):
    """A value that can be read back from its plain JSON."""

    __slots__ = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the value that `to_dict` wrote. Keys that it does not have are ignored.

        Raises:
            ValueError: a field is missing or wrong; the message names it.
        """
        if not isinstance(data, Mapping):
            raise _wrong(cls.__name__, "an object", data)
        kind = cls.type_name()
        if kind is not None and data.get("type", kind) != kind:
            raise ValueError(f"{cls.__name__}.type should be {kind!r}, not {data['type']!r}")
        values = {}
        for field in attrs.fields(cls):  # type: ignore[arg-type]
            if field.name in data:
                values[field.name] = _read(data[field.name], _type_of(cls, field.type), f"{cls.__name__}.{field.name}")
            elif field.default is attrs.NOTHING:
                raise ValueError(f"{cls.__name__}.{field.name} is missing")
        return cls(**values)

    @classmethod
    def _validate(cls, value: object) -> Self:
        return value if isinstance(value, cls) else cls.from_dict(value)  # type: ignore[arg-type]  # or it raises


def _read(value: object, kind: Any, where: str) -> Any:
    """Return `value`, read from JSON, as the annotation `kind` says."""
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if value is None and NoneType in members:
        return None
    models = [member for member in members if isinstance(member, type) and issubclass(member, Model)]
    if models:
        named = [model for model in models if isinstance(value, Mapping) and value.get("type") == model.type_name()]
        return (named or models)[0].from_dict(value)  # type: ignore[arg-type]  # or it raises
    if datetime in members:
        return _read_time(value, where)
    if float in members or int in members:
        if isinstance(value, bool) or not isinstance(value, int if float not in members else int | float):
            raise _wrong(where, "a number", value)
        return value
    if any(get_origin(member) is Mapping for member in members):
        if not (isinstance(value, Mapping) and all(isinstance(part, str) for pair in value.items() for part in pair)):
            raise _wrong(where, "an object of texts", value)
        return dict(value)
    if not isinstance(value, str):
        raise _wrong(where, "text", value)
    return _read_bytes(value, where) if bytes in members else value


def _read_bytes(value: str, where: str) -> bytes:
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        raise _wrong(where, "text of one character a byte", value) from None


def _read_time(value: object, where: str) -> datetime:
    time = value
    if isinstance(value, str):
        with suppress(ValueError):
            time = datetime.fromisoformat(value)
    if not isinstance(time, datetime):
        raise _wrong(where, "a time in ISO 8601", value)
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _wrong(where: str, expected: str, value: object) -> ValueError:
    found = "null" if value is None else "other text" if isinstance(value, str) else type(value).__name__
    return ValueError(f"{where} should be {expected}, not {found}")


def _schema_of(kind: Any, *, written: bool) -> dict[str, Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        schemas = [_schema_of(member, written=written) for member in arguments]
        if {} in schemas:
            return {}
        kept = [schema for schema in schemas if "enum" not in schema or {"type": "string"} not in schemas]
        return kept[0] if len(kept) == 1 else {"anyOf": kept}
    if origin is Literal:
        return {"type": "string", "enum": list(arguments)}
    if origin in (Mapping, dict):
        return {"type": "object", "additionalProperties": _schema_of(arguments[1], written=written)}
    if origin is tuple:
        return {"type": "array", "items": _schema_of(arguments[0], written=written)}
    if isinstance(kind, type) and issubclass(kind, PlainValue):
        return kind.json_schema(written=written)
    if kind is bytes or (isinstance(kind, type) and issubclass(kind, PurePath)):
        return {"type": "string"}
    return _SCHEMAS.get(kind, {})


def _type_of(cls: type, annotation: Any) -> Any:
    """Return what a field's annotation means; `None` if it names something that is not imported at run time."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, vars(sys.modules[cls.__module__]))  # noqa: S307  # text of our own source
    except NameError:
        return None
