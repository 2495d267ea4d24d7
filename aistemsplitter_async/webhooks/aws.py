"""HTTP requests as AWS passes them to Lambda functions, and the results that it makes answers of.

REST APIs and payload format 1.0 have `httpMethod` and two forms of the headers; format 2.0 and function URLs have
`requestContext.http`, and joined repeated headers with commas; load balancers have either form of the headers.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import attrs

from aistemsplitter_async._wire.signature import Body


@attrs.frozen
class Request:
    """An HTTP request in an event.

    Attributes:
        method: such as `"POST"`.
        headers: each name with one value, or with a list.
        of_balancer: whether a load balancer sent it.
        of_lists: whether the headers are lists; a load balancer then wants those of the answer so, too.
    """

    method: str
    headers: Mapping[str, Any]
    of_balancer: bool
    of_lists: bool
    _body: str = attrs.field(repr=False)
    _is_base64: bool

    @property
    def size(self) -> int:
        """Return the bytes of the body, as far as that is known without decoding it: at least so many."""
        return len(self._body) * 3 // 4 - 2 if self._is_base64 else len(self._body)

    def read(self) -> Body:
        """Return the body; empty, so that no signature matches, if it cannot be decoded."""
        if not self._is_base64:
            return self._body
        try:
            return base64.b64decode(self._body, validate=True)
        except (binascii.Error, ValueError):
            return b""


def parse_request(event: Any) -> Request:
    """Return the HTTP request in an event.

    Raises:
        TypeError: there is none, or its body was parsed.
    """
    if not isinstance(event, Mapping):
        raise TypeError(f"a Lambda event must be a dict, not {type(event).__name__}")
    context = event.get("requestContext") or {}
    inner = context.get("http") if isinstance(context, Mapping) else None
    method = event.get("httpMethod") or (inner.get("method") if isinstance(inner, Mapping) else None)
    lists, single, body = event.get("multiValueHeaders"), event.get("headers"), event.get("body")
    headers = lists or single or {}
    if not isinstance(method, str) or not isinstance(headers, Mapping):
        raise TypeError(
            "this event is not an HTTP request of an API Gateway, a function URL or a load balancer; "
            f"it has {', '.join(sorted(map(str, event))) or 'nothing'}"
        )
    if not isinstance(body, str | None):
        raise TypeError(
            f"the body in a Lambda event must be its text, not {type(body).__name__}; the signature is of the bytes "
            "that were sent, which parsed JSON does not give back"
        )
    is_balancer = isinstance(context, Mapping) and "elb" in context
    return Request(method, headers, is_balancer, bool(lists), body or "", bool(event.get("isBase64Encoded")))


def build_result(status: int, request: Request) -> dict[str, Any]:
    """Return what the function returns to answer with `status`; an API Gateway refuses keys that it does not know."""
    result: dict[str, Any] = {"statusCode": int(status), "body": "", "isBase64Encoded": False}
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        result |= {"multiValueHeaders": {"Allow": ["POST"]}} if request.of_lists else {"headers": {"Allow": "POST"}}
    if request.of_balancer:
        result["statusDescription"] = f"{status} {HTTPStatus(status).phrase}"
        result.setdefault("multiValueHeaders" if request.of_lists else "headers", {})
    return result
