"""What LXD 5.0.2 says when a transfer breaks; ``{0}`` is the instance. Each side has its own words."""

CLOSED = "websocket: close 1006 (abnormal closure): unexpected EOF"
BROKEN = f"Error transferring instance data: Got error reading migration source: {CLOSED}"
PIPE = "Failed sending volume {0}:/: Btrfs send failed: [signal: killed write tcp: write: broken pipe] (At subvol {0})"
NO_SPACE = (
    "Error transferring instance data: Failed to run: btrfs receive -e: exit status 1 "
    "(ERROR: writing to rootfs/root/data failed: No space left on device)"
)
NO_SPACE_RSYNC = "Rsync send failed: {0}: [exit status 11] (rsync: [sender] write error: Broken pipe (32))"
VANISHED = (
    "Rsync send failed: {0}: [exit status 24] (rsync warning: some files vanished before they could be transferred)"
)
NO_PARENT = (
    "Error transferring instance data: Failed to run: btrfs receive -e: exit status 1 "
    "(ERROR: cannot find parent subvolume)"
)
NOT_ON_STORAGE = "Error transferring instance data: Volume exists in database but not on storage"
UNEVEN = "Instance snapshot record count doesn't match instance snapshot volume record count"
ORPHAN = (
    "Error transferring instance data: Failed creating instance on target: Error inserting volume "
    '"{0}/{1}" for project "default" in pool "default" of type "containers" into database '
    '"Failed creating volume snapshot record: UNIQUE constraint failed: '
    'storage_volumes_snapshots.storage_volume_id, storage_volumes_snapshots.name"'
)
NO_SUBVOLUME = (
    'Failed setting subvolume writable "/containers/{0}": Failed to run: btrfs property set -f -ts /containers/{0} '
    "ro false: exit status 1 (ERROR: Could not get subvolume flags: Invalid argument)"
)
STILL_THERE = "Failed creating instance on target: Cannot create volume, already exists on migration target storage"
NO_HEADER = "Failed closing BTRFS migration header frame: write: broken pipe"
NO_INDEX = f"Failed reading migration index header: {CLOSED}"
