"""The addresses of the origins, and those of uploads and stems that are made from them."""

from __future__ import annotations

import attrs

from aistemsplitter_async.sandbox.http.signing import build_signed_path
from aistemsplitter_async.sandbox.service.state import Split, Upload


@attrs.define
class Addresses:
    """Addresses of the origins, `http://host:port`, empty until they listen; `secret` signs those of stems."""

    secret: bytes = attrs.field(repr=False)
    api: str = ""
    worker: str = ""
    cdn: str = ""

    def build_upload_url(self, upload: Upload) -> str:
        """Return the address that takes a reserved upload."""
        return f"{self.worker}/upload/{upload.id}"

    def build_file_url(self, upload: Upload) -> str:
        """Return the address by which a create names an upload. It serves nothing."""
        return f"{self.worker}/files/{upload.storage_key}"

    def build_stem_urls(self, split: Split, expires_at: float) -> dict[str, str]:
        """Return freshly signed addresses of a split's stems by name, valid until POSIX time `expires_at`."""
        return {
            stem.name: self.cdn + build_signed_path(f"/stems/{split.id}/{stem.filename}", expires_at, self.secret)
            for stem in split.stems
        }
