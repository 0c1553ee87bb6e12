"""An archive in a bucket, on a server that speaks S3."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import boto3
import pytest
from moto.server import ThreadedMotoServer

from common.archive import bucket as module
from common.archive import manifests
from common.archive.bucket import Bucket
from common.archive.stream import Incoming
from common.domain.errors import ArchiveRefused, ArchiveUnreachable, TransferFailed
from tests.builders import a_manifest

FILE = "web1-20250601T010000Z.tar"
PART = 5 * 1024 * 1024


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def seen(s3: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty bucket as its owner sees it; parts are as small as S3 lets them be."""
    for key, value in (
        ("AWS_ENDPOINT_URL", s3),
        ("AWS_ACCESS_KEY_ID", "owner"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_MAX_ATTEMPTS", "1"),
    ):
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(module, "_PART", PART)
    found = boto3.session.Session().resource("s3").create_bucket(Bucket="shelf")
    found.objects.all().delete()
    return found


@pytest.fixture
def archive(seen: Any) -> Bucket:
    return Bucket(seen.name, "night/ly")


def incoming(*pieces: bytes, size: int | None = None) -> Incoming:
    whole = sum(map(len, pieces)) if size is None else size
    return Incoming(iter(pieces), whole, on_piece=lambda _: None, on_whole=lambda *_: None)


@pytest.mark.parametrize("size", [6, PART, 2 * PART + 1], ids=["small", "one part", "parts"])
def test_what_is_written_can_be_read(archive: Bucket, seen: Any, size: int) -> None:
    """In one piece or in parts; beside others' objects, under the prefix and beneath it."""
    seen.put_object(Key="night/ly/deeper/other.json", Body=b"{}")
    seen.put_object(Key="other.json", Body=b"{}")
    archive.check_writable()
    archive.write(FILE, incoming(bytes(size)))
    archive.write_manifest(a_manifest())
    assert b"".join(archive.read(FILE)) == bytes(size)
    assert archive.size(FILE) == size
    assert archive.manifest(FILE) == a_manifest()
    assert archive.manifests() == (a_manifest(),)
    assert list(seen.multipart_uploads.all()) == []


@pytest.mark.parametrize("size", [6, 2 * PART + 1], ids=["small", "parts"])
def test_of_a_broken_stream_nothing_stays(archive: Bucket, seen: Any, size: int) -> None:
    """No object, and no upload that takes room unseen."""
    with pytest.raises(TransferFailed):
        archive.write(FILE, incoming(bytes(size), size=size + 1))
    assert list(seen.objects.all()) == list(seen.multipart_uploads.all()) == []
    assert (archive.size(FILE), archive.manifest(FILE), archive.manifests()) == (None, None, ())


def test_what_a_dead_worker_had_uploaded_goes_with_the_next_try(archive: Bucket, seen: Any) -> None:
    """That of another file stays."""
    for name in (FILE, f"{FILE}.gz"):
        seen.Object(f"night/ly/{name}").initiate_multipart_upload()
    archive.write(FILE, incoming(b"abc"))
    assert [upload.object_key for upload in seen.multipart_uploads.all()] == [f"night/ly/{FILE}.gz"]


def test_what_is_there_is_never_overwritten(archive: Bucket) -> None:
    """Neither a backup nor a manifest."""
    archive.write(FILE, incoming(b"abc"))
    archive.write_manifest(a_manifest())
    with pytest.raises(ArchiveRefused, match="never overwritten"):
        archive.write(FILE, incoming(b"other"))
    with pytest.raises(ArchiveRefused, match="never overwritten"):
        archive.write_manifest(replace(a_manifest(), job="p2-1"))
    assert b"".join(archive.read(FILE)) == b"abc"


def test_what_is_discarded_is_gone(archive: Bucket, seen: Any) -> None:
    """Whole or not."""
    archive.write(FILE, incoming(b"abc"))
    archive.discard(FILE)
    assert list(seen.objects.all()) == []


@pytest.mark.usefixtures("seen")
def test_a_bucket_that_is_not_there_waits_for_a_person() -> None:
    """With its address and what S3 said."""
    with pytest.raises(ArchiveRefused, match=r"s3://none/x: .*NoSuchBucket"):
        Bucket("none", "x").check_writable()


@pytest.mark.usefixtures("seen")
def test_without_credentials_it_says_how_to_give_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the workers, for it is they that carry the bytes."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ArchiveRefused, match="credentials") as refused:
        Bucket("shelf", "").check_writable()
    assert "AWS_ACCESS_KEY_ID" in refused.value.hint


@pytest.mark.usefixtures("seen")
def test_a_server_that_does_not_answer_is_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the queue that acts next."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ArchiveUnreachable, match="s3://shelf"):
        Bucket("shelf", "").check_writable()


def test_a_manifest_that_is_withdrawn_leaves_a_file_that_is_no_export(archive: Bucket) -> None:
    """Sizes are those of backup files; a prefix tells which exports are meant."""
    archive.write(FILE, incoming(b"abc"))
    archive.write_manifest(a_manifest())
    assert archive.manifests("web1-") == (a_manifest(),)
    assert archive.manifests("web2-") == ()
    archive.withdraw(FILE)
    archive.withdraw(FILE)
    assert (archive.manifests(), archive.sizes()) == ((), {FILE: 3})


def test_what_was_abandoned_is_found_whether_it_was_whole_or_not(archive: Bucket, seen: Any) -> None:
    """An upload that nobody has ended is seen by nobody else, and takes room for ever; what has a manifest is left."""
    left, other, begun = "db1-1.tar", "db2-1.tar", "db1-2.tar"
    for file in (left, other):
        archive.write(file, incoming(b"abc"))
    seen.Object(f"night/ly/{begun}").initiate_multipart_upload()
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert archive.abandoned("db1-", later) == (left, begun)
    # To moto every upload was begun in 2010.
    assert left not in archive.abandoned("db1-", later - timedelta(days=1))
    archive.write_manifest(a_manifest(file=left))
    assert archive.abandoned("db1-", later) == (begun,)
    archive.discard(begun)
    assert archive.abandoned("db", later) == (other,)


def test_a_manifest_is_read_once_as_long_as_it_is_the_same(archive: Bucket, seen: Any) -> None:
    """It is a request of its own, and an archive may have thousands; one that was changed is read again."""
    first, second = a_manifest(file="a.tar"), a_manifest(file="b.tar")
    archive.write_manifest(first)
    assert archive.manifests() == (first,)
    archive.write_manifest(second)
    with mock.patch.object(archive, "_read_manifest", wraps=archive._read_manifest) as read:
        assert archive.manifests() == archive.manifests() == (first, second)
        assert [call.args for call in read.call_args_list] == [("b.json",)]
        changed = replace(first, size=7)
        seen.Object("night/ly/a.json").put(Body=manifests.written(changed))
        assert archive.manifests("a") == (changed,)
        seen.Object("night/ly/b.json").delete()
        assert archive.manifests() == (changed,)
