"""The sandbox's page as it comes over the wire, and what the control endpoint answers it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from aistemsplitter_async.sandbox import Manual
from tests.e2e.harness import Answer, BareAPI, Connect, MakeWav

SONG = "https://example.com/a.mp3?seconds=10"


class Outline(HTMLParser):
    """Start tags with their attributes, and the text of styles and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, list[str]] = {"style": [], "script": []}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in self.inline and data.strip():
            self.inline[self.tags[-1][0]].append(data)


async def get(api: BareAPI, path: str = "/", method: str = "GET", **headers: str) -> Answer:
    return await api.send(method, api.sandbox.base_url.removesuffix("/v1") + path, headers=headers)


async def test_the_page_is_one_document_whose_policy_names_its_own_style_and_script_and_nothing_else(
    api: BareAPI,
) -> None:
    answer = await get(api)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == policy["media-src"] == "'self'"
    assert policy["img-src"] == "data:"
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    page = Outline(answer.raw.decode())
    for tag in ("style", "script"):
        (text,) = page.inline[tag]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["X-Frame-Options"] == "DENY"


async def test_the_page_refers_to_nothing_outside_and_has_no_attribute_that_its_policy_blocks(api: BareAPI) -> None:
    text = (await get(api)).raw.decode()
    page = Outline(text)
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert name not in ("src", "srcset", "style", "action", "formaction"), (tag, name)
            assert not name.startswith("on"), (tag, name)
            if name == "href":
                assert (value or "").startswith(("data:image/svg+xml,", "#", "/openapi.json")), value
    assert set(re.findall(r"(?:https?|wss?):?//[\w.]*", text)) == {"http://www.w3.org"}  # the name of SVG, no address
    assert "@import" not in text
    assert "url(" not in text
    assert "{{" not in text


async def test_data_from_the_sandbox_can_only_become_text(api: BareAPI) -> None:
    answer = await get(api)
    (script,) = Outline(answer.raw.decode()).inline["script"]
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc"):
        assert way not in script
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in answer.headers["Content-Security-Policy"]


async def test_reading_the_page_is_not_an_api_request_and_the_document_has_no_data(connect: Connect) -> None:
    async with connect(requests_per_minute=1) as api:
        before = await get(api)
        await api.create(SONG)
        assert (await get(api)).raw == before.raw
        assert api.sandbox.ledger.count() == 1
        assert api.sandbox.api_key.encode() not in before.raw


async def test_the_page_is_read_only(api: BareAPI) -> None:
    head = await get(api, method="HEAD")
    assert (head.status, head.raw) == (200, b"")
    assert int(head.headers["Content-Length"]) == len((await get(api)).raw)
    refused = await get(api, method="POST")
    assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")
    assert (await get(api, "/page.js")).status == 404


async def test_the_page_knows_when_there_is_no_control_endpoint_to_ask(connect: Connect) -> None:
    async with connect() as api:
        assert b'<html lang="en" data-control="on">' in (await get(api)).raw
    async with connect(control=False) as api:
        assert b'<html lang="en" data-control="off">' in (await get(api)).raw


def test_every_part_of_the_page_is_in_the_package_and_used() -> None:
    package = files("aistemsplitter_async")
    folders = (package.joinpath("_web"), package.joinpath("sandbox/control/web"))
    names = {file.name for folder in folders for file in folder.iterdir() if not file.name.startswith("__")}
    source = package.joinpath("sandbox/control/page.py").read_text(encoding="utf-8")
    assert names == {name for name in names if name in source}
    assert {"page.html", "page.css", "page.js"} <= names


async def test_the_state_has_the_requests_and_the_use_of_each_window(connect: Connect) -> None:
    async with connect(requests_per_minute=3, window="bucket", burst=2, progression=Manual()) as api:
        created = (await api.create(SONG)).json["data"]["id"]
        for _ in range(3):
            await api.call("GET", "/credits")
        await api.sandbox.step(created)
        state = (await get(api, "/control/state")).json
        assert state["requests"]["counts"] == {"create": {"200": 1}, "credits": {"200": 1, "429": 2}}
        assert state["requests"]["throttled"] == 2
        assert (sum(state["activity"]["answered"]), sum(state["activity"]["throttled"])) == (2, 2)
        assert len(state["activity"]["answered"]) == len(state["activity"]["throttled"]) == 60
        (account,) = state["accounts"]
        assert (state["burst"], account["limit"], account["remaining"]) == (2, 3, 0)
        assert 0 < account["retry_after"] <= 20 < account["reset_after"] <= 40
        assert state["split_counts"] == {"queued": 0, "processing": 1, "succeeded": 0, "failed": 0}


async def test_activity_is_by_the_second_and_ends_a_minute_ago(api: BareAPI) -> None:
    await api.call("GET", "/credits")
    api.sandbox.advance(30)
    await api.call("GET", "/nothing")
    answered = (await get(api, "/control/state")).json["activity"]["answered"]
    assert sum(answered) == 2
    assert [age for age, n in enumerate(reversed(answered)) if n] in ([0, 30], [0, 31])
    api.sandbox.advance(45)
    assert sum((await get(api, "/control/state")).json["activity"]["answered"]) == 1
    api.sandbox.advance(60)
    assert sum((await get(api, "/control/state")).json["activity"]["answered"]) == 0


async def test_uploads_and_downloads_are_counted_but_are_not_activity(api: BareAPI, make_wav: MakeWav) -> None:
    split = await api.finish(await api.upload(make_wav()))
    await api.send("GET", split["stems"]["vocals"])
    state = (await get(api, "/control/state")).json
    counts = state["requests"]["counts"]
    assert (counts["upload"], counts["download"]) == ({"200": 1}, {"200": 1})
    assert sum(state["activity"]["answered"]) == sum(
        sum(counts[name].values()) for name in ("reserve", "create", "get")
    )


@pytest.mark.parametrize("output_format", ["mp3", "wav"])
async def test_a_stem_can_be_listened_to_without_a_trace(api: BareAPI, output_format: str) -> None:
    split = await api.finish(SONG, outputFormat=output_format)
    wire = await api.send("GET", split["stems"]["bass"])
    state = (await get(api, f"/control/splits/{split['id']}")).json
    assert [stem["name"] for stem in state["stems"]] == ["vocals", "drums", "bass", "other"]
    assert (state["id"], state["status"], state["polls"]) == (split["id"], "succeeded", 1)
    stem = state["stems"][2]
    path = f"/control/splits/{split['id']}/stems/{stem['filename']}"
    before, rule = api.sandbox.ledger.as_dict(), api.sandbox.faults.add_text("download:status:status=503")
    whole = await get(api, path)
    assert (whole.status, whole.raw) == (200, wire.raw)
    assert whole.headers["Content-Type"] == wire.headers["Content-Type"]
    assert len(whole.raw) == stem["size_bytes"]
    part = await get(api, path, Range="bytes=10-19")
    assert (part.status, part.raw) == (206, wire.raw[10:20])
    assert part.headers["Content-Range"] == f"bytes 10-19/{len(wire.raw)}"
    beyond = await get(api, path, Range="bytes=999999-")
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{len(wire.raw)}")
    assert (await get(api, path, **{"If-None-Match": whole.headers["ETag"]})).status == 304
    assert (await get(api, path, "HEAD")).headers["Content-Length"] == str(len(wire.raw))
    assert api.sandbox.ledger.as_dict() == before
    assert rule.consumed == 0


async def test_really_separated_stems_are_read_from_their_files(connect: Connect, make_wav: MakeWav) -> None:
    async with connect(separation="real") as api:
        split = await api.finish(await api.upload(make_wav(0.5)), outputFormat="wav")
        wire = await api.send("GET", split["stems"]["drums"])
        (filename,) = [
            stem["filename"]
            for stem in (await get(api, f"/control/splits/{split['id']}")).json["stems"]
            if stem["name"] == "drums"
        ]
        path = f"/control/splits/{split['id']}/stems/{filename}"
        assert (await get(api, path)).raw == wire.raw
        assert (await get(api, path, Range="bytes=100-299")).raw == wire.raw[100:300]


async def test_stems_are_not_read_by_pages_of_other_origins(api: BareAPI) -> None:
    split = await api.finish(SONG)
    for path in (f"/control/splits/{split['id']}", f"/control/splits/{split['id']}/stems/bass.mp3"):
        for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Sec-Fetch-Site": "same-site"}):
            answer = await get(api, path, **headers)
            assert answer.status == 403
        answer = await get(api, path, **{"Sec-Fetch-Site": "same-origin"})
        assert answer.status == 200
        assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    "path", ["splits/split_none", "splits/{id}/stems/none.mp3", "splits/{id}/stems/..%2Fa", "splits"]
)
async def test_what_is_not_there_is_404(api: BareAPI, path: str) -> None:
    split = await api.finish(SONG)
    assert (await get(api, "/control/" + path.replace("{id}", split["id"]))).status == 404
