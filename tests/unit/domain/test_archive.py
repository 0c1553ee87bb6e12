"""Names and manifests of exports, and which of them are meant."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from common.domain.archive import Manifest, chosen, file_name, manifest_name, room_needed
from common.domain.errors import InputError
from common.domain.plan import Compression
from tests.builders import NOW, a_manifest, an_instance

OLD = a_manifest()
NEW = replace(OLD, file="web1-20250601T020000Z.tar", created_at=NOW + timedelta(hours=1))
SHOP = replace(OLD, file="shop-web1-20250601T010000Z.tar", project="shop")
DB = replace(OLD, file="db1-20250601T010000Z.tar.gz", instance="db1")
ALL = (NEW, SHOP, OLD, DB)


@pytest.mark.parametrize(
    ("project", "compression", "name"),
    [
        ("default", Compression.NONE, "web1-20250601T010000Z.tar"),
        ("shop", Compression.NONE, "shop-web1-20250601T010000Z.tar"),
        ("default", Compression.ZSTD, "web1-20250601T010000Z.tar.zst"),
    ],
)
def test_a_file_is_named_for_its_instance_and_time(project: str, compression: Compression, name: str) -> None:
    """The manifest beside it has the same name."""
    assert file_name(an_instance(project=project), NOW, compression) == name
    assert manifest_name(name) == name.partition(".")[0] + ".json"


@pytest.mark.parametrize("compression", Compression)
def test_every_compression_has_an_ending_that_its_manifest_leaves_out(compression: Compression) -> None:
    """An instance's name has no dots."""
    assert manifest_name(file_name(an_instance(), NOW, compression)) == "web1-20250601T010000Z.json"


@pytest.mark.parametrize(
    ("names", "options", "found"),
    [
        ((), {}, (DB, NEW)),
        ((), {"project": "shop"}, (SHOP,)),
        ((), {"all_projects": True}, (DB, NEW, SHOP)),
        (("web1",), {}, (NEW,)),
        (("web1", "web1"), {}, (NEW,)),
        (("web1-20250601T010000Z",), {}, (OLD,)),
        (("web1-20250601T010000Z.tar", "db1"), {}, (OLD, DB)),
        (("shop-web1-20250601T010000Z",), {}, (SHOP,)),
    ],
)
def test_an_instance_means_its_newest_export_and_a_file_means_itself(
    names: tuple[str, ...], options: dict[str, Any], found: tuple[Manifest, ...]
) -> None:
    """Whatever the order in which the archive lists them."""
    asked: dict[str, Any] = {"project": "default", "all_projects": False, "archive": "/a"} | options
    for seen in (ALL, ALL[::-1]):
        assert chosen(seen, names, **asked) == found


def test_a_name_that_fits_nothing_is_told() -> None:
    """With all others that fit nothing."""
    with pytest.raises(InputError, match=r"/a has no export of web2, web3 \(project default\)"):
        chosen(ALL, ("web2", "web1", "web3"), project="default", all_projects=False, archive="/a")


def test_a_portable_backup_has_every_snapshot_in_full() -> None:
    """An optimized one has them as the pool has."""
    assert room_needed(10, 2, optimized=False) == 30
    assert room_needed(10, 2, optimized=True) == 10


def test_a_manifest_tells_enough_of_the_instance_to_find_a_place_for_it() -> None:
    """Its pool, profiles, devices and type."""
    known = replace(OLD, profiles=("default", "small"), pool="fast", type="virtual-machine").as_instance()
    assert (known.root_pool, known.own_profiles, known.is_virtual_machine) == ("fast", ("default", "small"), True)
