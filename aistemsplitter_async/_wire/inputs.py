"""The dicts that the official clients take where this one has values: the input of a create, or all of its body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from aistemsplitter_async._wire.codec import to_camel
from aistemsplitter_async.errors import ConfigurationError
from aistemsplitter_async.models import DirectURL, SplitInput, UploadedFile

_KINDS: dict[str, type[DirectURL | UploadedFile]] = {"direct_url": DirectURL, "uploaded_file": UploadedFile}
_OPTIONS = ("stemModel", "outputFormat", "webhookUrl")


@attrs.frozen
class CreateBody:
    """The body of a create."""

    input: SplitInput
    stem_model: str | None = None
    output_format: str | None = None
    webhook_url: str | None = None


def parse_input(value: SplitInput | Mapping[str, Any], where: str = "input") -> SplitInput:
    """Return the input of a create: as it is, or from a dict with the names of the API or of the attributes.

    Raises:
        ConfigurationError: it is none; the message names the field.
    """
    if isinstance(value, DirectURL | UploadedFile):
        return value
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{where} must be upload.input, DirectURL(url) or a dict with a type, not {type(value).__name__}"
        )
    kind = value.get("type")
    cls = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        found = "is missing; it is" if kind is None else f"is {_show(kind)}; it must be"
        raise ConfigurationError(f"{where}.type {found} one of {', '.join(_KINDS)}")
    names = {field.name: to_camel(field.name) for field in attrs.fields(cls)}
    known = {"type", *names, *names.values()}
    _refuse_unknown(value, known, where, shown=["type", *names.values()])
    return cls(**{name: _text(value, (camel, name), f"{where}.{camel}") for name, camel in names.items()})


def parse_create(value: SplitInput | Mapping[str, Any], **options: str | None) -> CreateBody:
    """Return the body of a create whose input is `value`; a dict may be the whole body, as official clients take it.

    Args:
        value: the input, or a dict with an `input` and perhaps `stemModel`, `outputFormat` and `webhookUrl`.
        options: those given besides, by the names of `CreateBody`.

    Raises:
        ConfigurationError: a field is missing, unknown, of the wrong type, or given twice; the message names it.
    """
    if not isinstance(value, Mapping) or "input" not in value:
        return CreateBody(parse_input(value), **options)
    _refuse_unknown(value, {"input", *_OPTIONS}, "the create", shown=["input", *_OPTIONS])
    for name, given in options.items():
        camel = to_camel(name)
        if value.get(camel) is None:
            continue
        if given is not None:
            raise ConfigurationError(f"give {name}= or the dict's {camel}, not both")
        options[name] = _text(value, (camel,), camel)
    return CreateBody(parse_input(value["input"]), **options)


def _refuse_unknown(value: Mapping[str, Any], known: set[str], where: str, *, shown: list[str]) -> None:
    unknown = [key for key in value if key not in known]
    if unknown:
        raise ConfigurationError(f"{where} has no field {_show(unknown[0])}; it has {', '.join(shown)}")


def _text(value: Mapping[str, Any], names: tuple[str, ...], where: str) -> str:
    given = [value[name] for name in dict.fromkeys(names) if name in value]
    if len(given) > 1:
        raise ConfigurationError(f"{where} is given twice: give {' or '.join(names)}")
    found = given[0] if given else None
    if isinstance(found, str) and found:
        return found
    problem = "is missing" if found is None else "is empty" if found == "" else f"is {type(found).__name__}"
    raise ConfigurationError(f"{where} {problem}; it must be text")


def _show(value: object) -> str:
    return repr(value[:80]) if isinstance(value, str) else type(value).__name__
