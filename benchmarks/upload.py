"""Measures the speed and memory of uploading a file, against plain aiohttp's ways of streaming one.

All run against the same server process, which drops what it reads; see `paired.py` for how they are compared. With
`--against` the package of another checkout is one of them.

    python benchmarks/upload.py [--mib 1024] [--rounds 3] [--tls] [--against CHECKOUT]
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import paired  # type: ignore[import-not-found]  # a script beside this one

MIB = 1024 * 1024
WAYS = (paired.OURS, "file object", "64 KiB generator", "256 KiB generator", "1 MiB generator", "bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another one of this repository")
    parser.add_argument("--child", nargs=4, metavar=("WAY", "FILE", "URL", "CERT"), help=argparse.SUPPRESS)
    parser.add_argument("--serve", metavar="CERT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        asyncio.run(serve(options.serve))
    elif options.child:
        asyncio.run(upload(*options.child))
    else:
        compare(options.mib, options.rounds, tls=options.tls, other=options.against)


def compare(mib: int, rounds: int, *, tls: bool, other: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "song.wav"
        with file.open("wb") as out:
            block = bytes(range(256)) * (MIB // 256)
            for _ in range(mib):
                out.write(block)
        cert = make_certificate(Path(folder)) if tls else ""
        server = subprocess.Popen([sys.executable, __file__, "--serve", cert], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        try:
            results = paired.run_rounds(__file__, WAYS, [str(file), url, cert], rounds, other)
        finally:
            server.kill()
            server.wait()
    print(f"{mib} MiB over {'TLS' if tls else 'plain HTTP'} on loopback, medians of {rounds} rounds")
    paired.report(results)


async def serve(cert: str) -> None:
    from aiohttp import web

    async def worker(request: web.Request) -> web.Response:
        async for _ in request.content.iter_any():
            pass
        return web.json_response({"success": True, "data": {"url": "https://cdn.example/x", "key": "x"}})

    async def reserve(_: web.Request) -> web.Response:
        data = {
            "uploadId": "upl_1",
            "uploadUrl": f"{base}/worker",
            "uploadHeaders": {},
            "expiresAt": "2099-01-01T00:00:00Z",
        }
        return web.json_response({"success": True, "data": data})

    app = web.Application(client_max_size=1 << 40)
    app.router.add_post("/worker", worker)
    app.router.add_post("/v1/audio/uploads", reserve)
    runner = web.AppRunner(app)
    await runner.setup()
    context = None
    if cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    base = f"{'https' if cert else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    print(base, flush=True)
    await asyncio.Event().wait()


async def upload(way: str, file: str, base: str, cert: str) -> None:
    context = ssl.create_default_context(cafile=cert) if cert else None
    run = (
        await prepare_ours(file, base, context) if way == paired.OURS else await prepare_plain(way, file, base, context)
    )
    await paired.print_measured(run, Path(file).stat().st_size)


async def prepare_ours(file: str, base: str, context: ssl.SSLContext | None) -> Callable[[], Any]:
    from aistemsplitter_async import AsyncAIStemSplitter

    client = AsyncAIStemSplitter("ast_benchmark", base_url=base)
    await client.__aenter__()
    assert client.gate is not None  # both load the modules of the first call: imports are measured elsewhere
    if context is not None:  # the certificate is our own: only for this benchmark are the sessions made by hand
        import aiohttp

        from aistemsplitter_async._send.connections import Lease
        from aistemsplitter_async._wire.messages import Origin

        transport: Any = client._engine.pipeline.transport
        for origin in (Origin.API, Origin.WORKER):
            session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))
            transport._connections._leases[origin] = Lease(session)

    async def run() -> None:
        await client.upload_audio(file)
        await client.aclose()

    return run


async def prepare_plain(way: str, file: str, base: str, context: ssl.SSLContext | None) -> Callable[[], Any]:
    import aiohttp

    async def chunks(size: int) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        with open(file, "rb", buffering=0) as source:  # noqa: ASYNC230, PTH123  # read in threads below
            while chunk := await loop.run_in_executor(None, source.read, size):
                yield chunk

    def body() -> Any:
        if way == "file object":
            return open(file, "rb")  # noqa: PTH123  # aiohttp closes it
        if way == "bytes":
            return Path(file).read_bytes()
        size, unit, _ = way.split()
        return chunks(int(size) * (1024 if unit == "KiB" else MIB))

    async def run() -> None:
        connector = aiohttp.TCPConnector(ssl=context if context is not None else True)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            headers = {"Content-Length": str(Path(file).stat().st_size)}
            async with session.post(f"{base}/worker", data=body(), headers=headers) as response:
                await response.read()

    return run


def make_certificate(folder: Path) -> str:
    path = folder / "cert.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", str(path), "-out", str(path) + ".crt"], check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return str(path)


if __name__ == "__main__":
    main()
