"""An archive under a prefix of an S3 bucket, of AWS or of any server that speaks its language.

Credentials, region and endpoint are found where boto3 looks for them: environment, profile, ``AWS_ENDPOINT_URL``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
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
from common.domain.archive import MANIFEST, Manifest, is_backup_file, manifest_name
from common.domain.errors import ArchiveRefused, ArchiveUnreachable, HerderError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import ObjectTypeDef

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
        #: By name and tag: a scheduler asks every few minutes, and each manifest is a request of its own.
        self._known: dict[tuple[str, str], Manifest] = {}

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

    def manifests(self, prefix: str = "") -> tuple[Manifest, ...]:
        """Every export whose file begins so."""
        with self._errors():
            tags = {name: each["ETag"] for name, each in self._listed(prefix).items() if name.endswith(MANIFEST)}
            known = self._known
            found = {(name, tag): known.get((name, tag)) or self._read_manifest(name) for name, tag in tags.items()}
        read = {key: each for key, each in found.items() if each is not None}
        # What is not listed any more is forgotten when all is listed.
        self._known = read if not prefix else known | read
        return tuple(read.values())

    def _listed(self, prefix: str = "") -> dict[str, "ObjectTypeDef"]:
        """The objects whose names begin so, by name."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._key(prefix), Delimiter="/"
        )
        objects = (each for page in pages for each in page.get("Contents", ()))
        return {each["Key"].removeprefix(self._prefix): each for each in objects}

    def _read_manifest(self, name: str) -> Manifest | None:
        """None if it is not there, or was removed meanwhile."""
        key = self._key(name)
        try:
            text = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except self._s3.exceptions.NoSuchKey:
            return None
        return manifests.read(text, f"s3://{self._bucket}/{key}")

    def sizes(self) -> dict[str, int]:
        """Bytes of every backup file."""
        with self._errors():
            return {name: each["Size"] for name, each in self._listed().items() if is_backup_file(name)}

    def manifest(self, file: str) -> Manifest | None:
        """The manifest of this backup file, or None."""
        with self._errors():
            return self._read_manifest(manifest_name(file))

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

    def withdraw(self, file: str) -> None:
        """Remove the manifest of a backup file, which is no export from then on."""
        with self._errors():
            self._s3.delete_object(Bucket=self._bucket, Key=self._key(manifest_name(file)))

    def discard(self, file: str) -> None:
        """Remove a backup file, whole or not."""
        self._clear(file)
        with self._errors():
            self._s3.delete_object(Bucket=self._bucket, Key=self._key(file))

    def abandoned(self, prefix: str, before: datetime) -> tuple[str, ...]:
        """Backup files that begin so and have no manifest, whole or not, that were begun or written before then."""
        with self._errors():
            there = self._listed(prefix)
            written = {name: each["LastModified"] for name, each in there.items()}
            uploads = self._s3.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._key(prefix)
            )
            begun = (each for page in uploads for each in page.get("Uploads", ()))
            written |= {each["Key"].removeprefix(self._prefix): each["Initiated"] for each in begun}
        return tuple(
            name
            for name, at in sorted(written.items())
            if is_backup_file(name) and at < before and manifest_name(name) not in there
        )

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
