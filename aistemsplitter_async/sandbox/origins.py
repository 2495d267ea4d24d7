"""The three HTTP origins and the webhook deliveries around a service: built, started and stopped together."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from functools import partial
from urllib.parse import urlsplit

import attrs
from aiohttp import web

from aistemsplitter_async.sandbox.control.control import PREFIX, Control
from aistemsplitter_async.sandbox.control.page import Page
from aistemsplitter_async.sandbox.faults.rules import Faults
from aistemsplitter_async.sandbox.http.addresses import Addresses
from aistemsplitter_async.sandbox.http.api import API
from aistemsplitter_async.sandbox.http.cdn import CDN
from aistemsplitter_async.sandbox.http.deliveries import Deliveries
from aistemsplitter_async.sandbox.http.fetch import HTTPFetcher
from aistemsplitter_async.sandbox.http.injector import Injector
from aistemsplitter_async.sandbox.http.openapi import serve_description
from aistemsplitter_async.sandbox.http.origin import Handler, Origin
from aistemsplitter_async.sandbox.http.refusals import not_found
from aistemsplitter_async.sandbox.http.replies import Reply, build_refusal_reply
from aistemsplitter_async.sandbox.http.worker import UploadWorker
from aistemsplitter_async.sandbox.service.ledger import Ledger
from aistemsplitter_async.sandbox.service.service import Service
from aistemsplitter_async.sandbox.service.settings import ServiceSettings
from aistemsplitter_async.sandbox.service.timeline import SandboxClock

_API_PREFIX = "/v1"


@attrs.frozen(kw_only=True)
class Settings(ServiceSettings):
    """All settings of a sandbox; `Sandbox` documents each."""

    host: str
    port: int
    rate_styles: frozenset[str]
    control: bool
    allow_private_urls: bool


class Origins:
    """A service and everything that connects it to the network.

    Raises:
        RuntimeError: Another sandbox uses the data folder, or the database in it is not a sandbox's.
    """

    def __init__(self, settings: Settings, clock: SandboxClock, ledger: Ledger, faults: Faults) -> None:
        self._settings = settings
        self._fetcher = HTTPFetcher(settings.limits, allow_private=settings.allow_private_urls)
        self.service: Service = Service(settings, clock, ledger, self._fetcher)
        service = self.service
        self._deliveries = Deliveries(service, faults, allow_private=settings.allow_private_urls)
        service.on_finished = self._deliveries.announce
        secret = service.recall("signing_secret", secrets.token_hex(32)).encode()
        self.addresses: Addresses = Addresses(secret)
        addresses = self.addresses
        injector = Injector(faults, clock)
        others: dict[str, Handler] = {"/": Page(control=settings.control).handle, "/openapi.json": serve_description}
        if settings.control:
            others[PREFIX] = Control(service, faults, addresses).handle
        api = API(service, injector, addresses, rate_styles=settings.rate_styles)
        self._api = Origin("api", partial(_route, api.handle, others), clock)
        self._worker = Origin("worker", UploadWorker(service, injector, addresses).handle, clock)
        self._cdn = Origin("cdn", CDN(service, injector, secret).handle, clock)

    async def start(self) -> None:
        """Restore what an earlier run left, listen on all three origins, and start the workers.

        Raises:
            OSError: The port is taken.
        """
        service, addresses = self.service, self.addresses
        service.restore()
        # The ports of the last run, if they are free: the addresses of that run then stay valid.
        ports: dict[str, int] = service.recall("ports", {})
        host, port = self._settings.host, self._settings.port
        addresses.worker = await self._worker.start(host, ports.get("worker", 0), fixed=False)
        addresses.cdn = await self._cdn.start(host, ports.get("cdn", 0), fixed=False)
        addresses.api = await self._api.start(host, port or ports.get("api", 0), fixed=bool(port))
        urls = {"api": addresses.api, "worker": addresses.worker, "cdn": addresses.cdn}
        service.records.save_note("ports", {name: urlsplit(url).port for name, url in urls.items()})
        service.start()
        for split in service.splits:
            self._deliveries.announce(split)

    async def aclose(self) -> None:
        """Stop listening, then delivering, then the workers; remove the folder unless it is the data folder."""
        await asyncio.gather(self._api.aclose(), self._worker.aclose(), self._cdn.aclose())
        await self._deliveries.aclose()
        await self._fetcher.aclose()
        await self.service.aclose()


async def _route(api: Handler, others: Mapping[str, Handler], request: web.BaseRequest) -> Reply:
    """Pass a request to the API below `/v1`, or to the handler whose path (or prefix ending in `/`) matches."""
    path = request.rel_url.raw_path
    if path.startswith(_API_PREFIX):
        return await api(request)
    for route, handler in others.items():
        if path == route or (route.endswith("/") and route != "/" and path.startswith(route)):
            return await handler(request)
    return build_refusal_reply(not_found("resource"))
