"""What the service does when it is asked, without the trouble: API, upload worker and CDN."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import attrs

from benchmarks.trials.account import Account, Charge
from benchmarks.trials.replies import Answer, failure, success
from benchmarks.trials.scenario import Op, Trial
from benchmarks.trials.songs import build_stem
from benchmarks.trials.watchdog import Watchdog

TOKEN = "upload-token-77aa"  # noqa: S105  # opens nothing


@attrs.frozen
class Asked:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@attrs.frozen
class API:
    """Acts on an account.

    Attributes:
        account: what it knows.
        base: where it is.

    Args:
        trial: says what is usual in it.
        healthy: nothing goes wrong.
        now: POSIX seconds of its own clock.
        watchdog: is told how far the songs are.
    """

    account: Account
    base: str
    _trial: Trial
    _healthy: bool
    _now: Callable[[], float]
    _watchdog: Watchdog

    def do(self, op: Op, asked: Asked) -> Answer:
        """Do what is asked for, and return the answer."""
        if op == "reserve":
            return self._reserve()
        if op == "upload":
            return self._upload(asked)
        if op == "create":
            return self._create(asked)
        return self._poll(asked) if op == "poll" else self._download(asked)

    def is_sick(self, asked: Asked) -> bool:
        """Return whether a create is one of those that are always answered with 500."""
        return self._trial.sick is not None and self.account.song_of(asked.body) == self._trial.sick

    def _reserve(self) -> Answer:
        lifetime = self._trial.reservations.lifetime
        upload = self.account.reserve(until=self._now() + lifetime)
        value = {
            "uploadId": upload,
            "uploadUrl": f"{self.base}/worker/{upload}",
            "uploadHeaders": {"X-Upload-Token": TOKEN},
            "expiresAt": _as_text(self._now() + lifetime),
        }
        return success(value)

    def _upload(self, asked: Asked) -> Answer:
        if asked.headers.get("x-upload-token") != TOKEN:
            return Answer(403, {"success": False, "error": "FORBIDDEN", "message": "no token"})
        upload = asked.path.rpartition("/")[2]
        if self._trial.reservations.refused == "worker" and self._is_over(upload):
            status = self._trial.reservations.status
            return Answer(status, {"success": False, "error": "EXPIRED", "message": "the reservation has expired"})
        if not self.account.store(upload, asked.body):
            self.account.problems.append(f"{len(asked.body)} bytes without a song were uploaded: {asked.body[:16]!r}")
            return Answer(422, {"success": False, "error": "NO_AUDIO", "message": "there is no song in it"})
        self._watchdog.note_progress(("uploaded", self.account.song_of_upload(upload)))
        return success({"url": f"{self.base}/sources/{upload}", "key": f"sources/{upload}"})

    def _create(self, asked: Asked) -> Answer:
        upload = self.account.upload_of(asked.body)
        if upload and self._trial.reservations.refused == "create" and self._is_over(upload):
            return failure(422, "VALIDATION_ERROR", "the upload has expired")
        key, sender = asked.headers.get("idempotency-key", ""), asked.headers.get("authorization", "")
        charge = self.account.create(key, asked.body, sender=sender, now=self._now())
        if charge is None:
            return failure(422, "VALIDATION_ERROR", "what upload?")
        self._watchdog.note_progress(("charge", charge.key))
        return success(
            {
                "id": charge.split_id,
                "status": "queued",
                "creditsUsed": charge.credits,
                "createdAt": _as_text(charge.at),
            }
        )

    def _poll(self, asked: Asked) -> Answer:
        if asked.path == "/v1/credits":
            return success({"balance": 6200, "unit": "seconds"})
        split_id = asked.path.rpartition("/")[2]
        charge = self.account.find(split_id)
        if charge is None:
            return failure(404, "NOT_FOUND", "no such split")
        return success(self._describe(charge, self.account.done_at(split_id, self._trial.polls, now=self._now())))

    def _describe(self, charge: Charge, done_at: float | None) -> dict[str, Any]:
        extension = self._trial.extension
        urls = {
            stem: f"{self.base}/cdn/{charge.split_id}/{charge.song}/{stem}.{extension}" for stem in self._trial.stems
        }
        return {
            "id": charge.split_id,
            "status": "processing" if done_at is None else "succeeded",
            "stemModel": "4s",
            "filename": f"song{charge.song}.wav",
            "durationSeconds": charge.credits,
            "creditsUsed": charge.credits,
            "createdAt": _as_text(charge.at),
            "updatedAt": _as_text(self._now() if done_at is None else done_at),
            "stems": None if done_at is None else urls,
            "error": None,
        }

    def _download(self, asked: Asked) -> Answer:
        split_id, song, file = asked.path.split("/")[-3:]
        stem, _, extension = file.partition(".")
        body = build_stem(split_id, int(song), stem, self._trial.stem_bytes, extension)
        tag = f'"{len(body)}-{split_id}"'
        self._watchdog.note_progress(("bytes", asked.path, asked.headers.get("range", "")))
        usual = (("Content-Type", f"audio/{self._trial.extension}"), ("ETag", tag))
        if self._trial.framing == "chunked":
            return Answer(200, body=body, headers=(*usual, ("Transfer-Encoding", "chunked")))
        wanted = re.fullmatch(r"bytes=(\d+)-", asked.headers.get("range", ""))
        if wanted is None or asked.headers.get("if-range", tag) != tag:
            return Answer(200, body=body, headers=usual)
        start = int(wanted[1])
        if start >= len(body):
            return Answer(416, headers=(("Content-Range", f"bytes */{len(body)}"),))
        part = ("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        return Answer(206, body=body[start:], headers=(*usual, part))

    def _is_over(self, upload: str) -> bool:
        return not self._healthy and self._now() >= self.account.expires_at(upload)


def _as_text(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
