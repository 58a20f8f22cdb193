"""Where a SQLite file may lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomalyd.errors import StoreError
from anomalyd.store.engine import file_system, refuse_network_file_system
from anomalyd.store.faults import Place

MOUNTS = """\
overlay / overlay rw,relatime 0 0
proc /proc proc rw 0 0
server:/export /var/lib/shared nfs4 rw,vers=4.2 0 0
/dev/sdb1 /var/lib/shared/local ext4 rw 0 0
//nas/files /mnt/two\\040words cifs rw 0 0
/dev/sda1 /data xfs rw 0 0
nas:/data /data nfs rw 0 0

broken
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/a.db", "overlay"),
        ("/var/lib/shared/a.db", "nfs4"),
        ("/var/lib/sharedx/a.db", "overlay"),
        ("/var/lib/shared/local/a.db", "ext4"),
        ("/mnt/two words/a.db", "cifs"),
        ("/data/a.db", "nfs"),
    ],
)
def test_the_deepest_and_latest_mount_counts(path: str, kind: str) -> None:
    """A path lies on the innermost mount above it; of two on one folder the later one covers the other."""
    assert file_system(Path(path), MOUNTS) == kind


def test_a_network_file_system_is_refused(tmp_path: Path) -> None:
    """A file on NFS is refused with the type and the way out; a local file, and no list of mounts, are fine."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/x {tmp_path.resolve()} nfs4 rw 0 0\n")
    place = Place("sqlite", tmp_path / "a.db", "a.db")
    with pytest.raises(StoreError, match=r"nfs4.*Postgres") as caught:
        refuse_network_file_system(place, mounts)
    assert caught.value.reason == "network"
    mounts.write_text(f"/dev/sda {tmp_path.resolve()} ext4 rw 0 0\n")
    refuse_network_file_system(place, mounts)
    refuse_network_file_system(place, tmp_path / "none")
    refuse_network_file_system(Place("sqlite", None, ":memory:"), mounts)
