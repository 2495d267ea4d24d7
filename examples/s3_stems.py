"""Stems to S3 without a file in between: each goes up while it comes down, in constant memory.

    pip install aistemsplitter-async aiobotocore
    export AISTEMSPLITTER_API_KEY=ast_... AWS_PROFILE=...
    python examples/s3_stems.py song.mp3 s3://bucket/stems/song

With AWS_ENDPOINT_URL it works with MinIO, R2, Ceph and the like. A stem has its name in the bucket when it is complete,
and the parts of one that breaks off are taken back. A lifecycle rule with `AbortIncompleteMultipartUpload`, which every
bucket should have, does that where the process was killed. `split_123` instead of a song sends the stems of a split
that exists, at no cost.
"""

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from aistemsplitter_async import AsyncAIStemSplitter, StemStream

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef

PART = 8 * 1024 * 1024  # bytes. S3 wants 5 MiB at least, and 10,000 parts at most


async def send(s3: "S3Client", bucket: str, key: str, stem: StemStream) -> None:
    """Send a stem in parts. If it fails or is cancelled, nothing stays in the bucket."""
    started = await s3.create_multipart_upload(Bucket=bucket, Key=key, ContentType=stem.content_type)
    upload, parts = started["UploadId"], list["CompletedPartTypeDef"]()
    try:
        while data := await stem.read(PART):
            number = len(parts) + 1
            part = await s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=data)
            parts.append({"PartNumber": number, "ETag": part["ETag"]})
        await s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
    except BaseException:
        with suppress(BotoCoreError, ClientError):  # the first error is the one to tell
            await s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
        raise


async def main(song: str, target: str) -> None:
    to = urlsplit(target)
    async with AsyncAIStemSplitter() as client, get_session().create_client("s3") as s3:
        job = client.job(song) if song.startswith("split_") else await client.submit(song)
        print(job.id)  # noqa: T201  # to send its stems again, if something fails
        split = await job.wait()

        async def copy(name: str) -> None:
            async with client.open_stem(split, name) as stem:
                key = f"{to.path}/{stem.filename}".lstrip("/")
                await send(s3, to.netloc, key, stem)
                print(f"s3://{to.netloc}/{key}", stem.length, "bytes")  # noqa: T201

        async with asyncio.TaskGroup() as group:
            for name in split.stems:
                group.create_task(copy(name))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
