"""An archive under a prefix of an S3 bucket, of AWS or of any server that speaks its language.

Credentials, region and endpoint are found where boto3 looks for them: environment, profile, ``AWS_ENDPOINT_URL``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, cast

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)

from common.archive import manifests
from common.archive.stream import PIECE, Incoming
from common.domain.archive import MANIFEST, Manifest, manifest_name
from common.domain.errors import ArchiveRefused, ArchiveUnreachable, HerderError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

#: A part is held in memory; S3 takes no more than 10 000 of them.
_PART = 16 * 1024 * 1024
_MAX_PARTS = 9_000
_SERVER_FAULT = 500
_THROTTLED = 429
_NOT_THERE = 404


class Bucket:
    """Implements ``place.Archive``. An object is there when its upload is completed, and not before."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.where = f"s3://{bucket}/{self._prefix}".rstrip("/")

    @cached_property
    def _s3(self) -> "S3Client":
        with self._errors():
            # A session of its own: boto3's default one is not to be used by several threads.
            return boto3.session.Session().client("s3")

    def _key(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def check_writable(self) -> None:
        """Raises ArchiveRefused."""
        key = self._key(".herder-probe")
        with self._errors():
            begun = self._s3.create_multipart_upload(Bucket=self._bucket, Key=key)
            self._s3.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=begun["UploadId"])

    def manifests(self) -> tuple[Manifest, ...]:
        """Every export."""
        with self._errors():
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix, Delimiter="/"
            )
            keys = [each["Key"] for page in pages for each in page.get("Contents", ())]
            return tuple(self._read_manifest(key) for key in keys if key.endswith(MANIFEST))

    def _read_manifest(self, key: str) -> Manifest:
        text = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        return manifests.read(text, f"s3://{self._bucket}/{key}")

    def manifest(self, file: str) -> Manifest | None:
        """The manifest of this backup file, or None."""
        key = self._key(manifest_name(file))
        with self._errors():
            return self._read_manifest(key) if self._size_of(key) is not None else None

    def size(self, file: str) -> int | None:
        """Bytes of this backup file, None if there is none."""
        with self._errors():
            return self._size_of(self._key(file))

    def _size_of(self, key: str) -> int | None:
        try:
            return self._s3.head_object(Bucket=self._bucket, Key=key)["ContentLength"]
        except ClientError as error:
            if _status(error) == _NOT_THERE:
                return None
            raise

    def write(self, file: str, incoming: Incoming) -> None:
        """All of it or nothing; what is there is never overwritten."""
        self._clear(file)
        part = max(_PART, -(-incoming.size // _MAX_PARTS))
        one_at_a_time = TransferConfig(multipart_threshold=part, multipart_chunksize=part, use_threads=False)
        with self._errors():
            self._refuse_if_there(self._key(file))
            readable = cast("IO[Any]", incoming)  # all that boto3 needs of a file is that it can be read
            self._s3.upload_fileobj(readable, self._bucket, self._key(file), Config=one_at_a_time)

    def write_manifest(self, manifest: Manifest) -> None:
        """The same for a manifest."""
        key = self._key(manifest_name(manifest.file))
        with self._errors():
            self._refuse_if_there(key)
            self._s3.put_object(
                Bucket=self._bucket, Key=key, Body=manifests.written(manifest), ContentType="application/json"
            )

    def _refuse_if_there(self, key: str) -> None:
        if self._size_of(key) is not None:
            where = f"s3://{self._bucket}/{key}"
            raise ArchiveRefused(f"{where} is there already, and an export is never overwritten", hint="export again")

    def read(self, file: str) -> Iterator[bytes]:
        """The pieces of a backup file."""
        with self._errors():
            yield from self._s3.get_object(Bucket=self._bucket, Key=self._key(file))["Body"].iter_chunks(PIECE)

    def discard(self, file: str) -> None:
        """Remove a backup file, whole or not."""
        self._clear(file)
        with self._errors():
            self._s3.delete_object(Bucket=self._bucket, Key=self._key(file))

    def _clear(self, file: str) -> None:
        """Give up what a worker that died had uploaded: it would take room for ever, and nobody sees it."""
        key = self._key(file)
        with self._errors():
            begun = self._s3.list_multipart_uploads(Bucket=self._bucket, Prefix=key).get("Uploads", ())
            for upload in begun:
                if upload["Key"] == key:
                    self._s3.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload["UploadId"])

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise self._refusal(error) from error
        except (NoCredentialsError, PartialCredentialsError, NoRegionError, ProfileNotFound) as error:
            raise ArchiveRefused(
                f"{self.where}: {error}",
                hint="give the workers credentials as boto3 finds them, for example AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY",
            ) from error
        except (BotoCoreError, Boto3Error) as error:
            raise ArchiveUnreachable(f"{self.where}: {error}") from error

    def _refusal(self, error: ClientError) -> HerderError:
        if _status(error) >= _SERVER_FAULT or _status(error) == _THROTTLED:
            return ArchiveUnreachable(f"{self.where}: {error}")
        return ArchiveRefused(f"{self.where}: {error}", hint="the bucket must be there, and open to the credentials")


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
