"""The control endpoint: read and change a running sandbox over HTTP, from any language or a terminal.

| call | body | what |
|---|---|---|
| `GET /control/state?newest=500` | | addresses, time, accounts with their windows, activity, the newest splits |
| `GET /control/splits/{id}` | | one split and its stems |
| `GET /control/splits/{id}/stems/{file}` | | a stem's audio; unlike a download it leaves no trace and meets no fault |
| `GET /control/ledger?newest=500` | | counts, and the newest records of each kind |
| `GET /control/faults` | | fault rules and how often each was consumed |
| `POST /control/faults` | a rule as JSON, or `{"rule": "get:status:status=503"}` | queue a rule |
| `DELETE /control/faults`, `/control/faults/{id}` | | remove all rules, or one |
| `POST /control/advance` | `{"seconds": 60}` | let time pass at once |
| `POST /control/step` | `{"split_id": "split_.."}` | advance a split of a manual progression |
| `POST /control/credits` | `{"balance": 100, "account": "key-.."}` | set a balance, by default the first key's |
| `POST /control/keys` | `{"account": "key-..", "revoke": false}` | a further key of an account, by default the first |

Names are those of the Python attributes. No key is needed, since a program that reaches it could start a sandbox of its
own; but it never answers the page of another origin, nor a request for a foreign host name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from aiohttp import web

from aistemsplitter_async.sandbox.control.overview import build_listening_reply, build_split_state, build_state
from aistemsplitter_async.sandbox.faults.rules import Faults
from aistemsplitter_async.sandbox.http.addresses import Addresses
from aistemsplitter_async.sandbox.http.decode import parse_json
from aistemsplitter_async.sandbox.http.encode import dump
from aistemsplitter_async.sandbox.http.refusals import RefusalError, not_found
from aistemsplitter_async.sandbox.http.replies import JSON_HEADERS, Reply, build_refusal_reply
from aistemsplitter_async.sandbox.service.errors import InvalidRequestError, ServiceError
from aistemsplitter_async.sandbox.service.service import Service
from aistemsplitter_async.sandbox.service.timeline import format_timestamp

PREFIX: Final = "/control/"
_MAX_BYTES: Final = 64 * 1024
_NEWEST: Final = 500  # records in an answer, unless more are asked for: a long run has a hundred thousand
_MAX_DIGITS: Final = 9
_HEADERS: Final = {**JSON_HEADERS, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Control:
    """Answers requests below `/control/`."""

    def __init__(self, service: Service, faults: Faults, addresses: Addresses) -> None:
        self._service = service
        self._faults = faults
        self._addresses = addresses

    async def handle(self, request: web.BaseRequest) -> Reply:
        """Answer one request; it is not recorded in the ledger and does not count against any window."""
        self._service.timeline.run_due()
        try:
            check_caller(request.headers)
            path = request.rel_url.raw_path.removeprefix(PREFIX)
            match request.method, path.split("/"):
                case "GET" | "HEAD", ["splits", split_id, "stems", filename]:
                    return build_listening_reply(self._service, request.headers, split_id, unquote(filename))
            value = await self._dispatch(request, request.method, path)
        except (RefusalError, ServiceError) as refusal:
            return build_refusal_reply(refusal)
        return Reply(200, dump(value), _HEADERS)

    async def _dispatch(self, request: web.BaseRequest, method: str, path: str) -> dict[str, Any]:
        asked = _parse_number(request.rel_url.query.get("newest", ""))
        newest = _NEWEST if asked is None else asked
        match method, path.split("/"):
            case "GET", ["state"]:
                return build_state(self._service, self._addresses, newest)
            case "GET", ["splits", split_id]:
                return build_split_state(self._service, split_id)
            case "GET", ["ledger"]:
                return self._service.ledger.as_dict(newest)
            case "GET", ["faults"]:
                return {"rules": [rule.as_dict() for rule in self._faults.rules]}
            case "DELETE", ["faults"]:
                self._faults.clear()
                return {"rules": []}
            case "DELETE", ["faults", number] if (rule := _parse_number(number)) and self._faults.remove(rule):
                return {"rules": [rule.as_dict() for rule in self._faults.rules]}
            case "POST", ["faults" | "advance" | "step" | "credits" | "keys"]:
                return await self._act(path, parse_json(await _read(request)))
            case _:
                raise not_found("control")

    async def _act(self, action: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            match action:
                case "faults":
                    rule = body.get("rule")
                    added = self._faults.add_text(rule) if isinstance(rule, str) else self._faults.add_dict(body)
                    return added.as_dict()
                case "advance":
                    self._service.advance(float(body["seconds"]))
                    return {"now": format_timestamp(self._service.clock.now())}
                case "step":
                    return {"status": await self._service.jobs.step(str(body["split_id"]))}
                case "keys":
                    account, key = self._service.rotate_key(body.get("account"), revoke=body.get("revoke") is True)
                    return {"account": account.label, "api_key": key}
                case _:
                    account = self._service.set_balance(int(body["balance"]), body.get("account"))
                    return {"account": account.label, "balance": account.balance}
        except KeyError as error:
            raise InvalidRequestError(f"There is no {error.args[0]!r}.") from None
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidRequestError(str(error)) from None


def check_caller(headers: Mapping[str, str]) -> None:
    """Refuse with 403 a browser's request for a page of another origin, or for a foreign host name."""
    host = headers.get("Host", "")
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        name = ""
    if not _is_own_host(name):
        raise RefusalError(403, "FORBIDDEN", "This host name is not the sandbox's.")
    origin = headers.get("Origin")
    foreign = origin is not None and origin != f"http://{host}"
    if foreign or headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        raise RefusalError(403, "FORBIDDEN", "Pages of other origins are not answered.")


def _is_own_host(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True  # a page can let its own host name resolve to this machine, but not an address


def _parse_number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < _MAX_DIGITS else None


async def _read(request: web.BaseRequest) -> bytes:
    # A page of another origin needs a preflight to send this type, and no answer here permits it.
    if request.content_type != "application/json":
        raise RefusalError(415, "UNSUPPORTED_MEDIA_TYPE", "Send application/json.")
    body = await request.content.read(_MAX_BYTES)
    while len(body) < _MAX_BYTES and (chunk := await request.content.read(_MAX_BYTES - len(body))):
        body += chunk
    return body
