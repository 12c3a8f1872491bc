"""The disk of the embedded store is full for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.embedded import is_locked
from tests.faults.log import check
from tests.faults.mounts import mounted, skip_without_tmpfs
from tests.faults.posters import posting
from tests.faults.servers import free_port
from tests.integration.service import Service, small, until


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    skip_without_tmpfs()
    with mounted("tmpfs", tmp_path / "disk", kind="tmpfs", options="size=16m") as folder:
        yield folder


@pytest.fixture
def on_disk(disk: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service whose data is there."""
    service = small(disk / "service", port=free_port(), fsync=request.param)
    yield service
    service.close()
    until(lambda: not is_locked(disk / "service/data/store"))


def fill(disk: Path) -> Path:
    """Write a file until there is no room for another page."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4_096))
    return path


@pytest.mark.parametrize("on_disk", ["everysec", "always"], indirect=True)
def test_a_full_disk(disk: Path, on_disk: Service) -> None:
    """Posts are refused while the disk is full, GETs are not; with room again each is there once.

    At `always` the server ends rather than lie, and is started until it can write again.
    """
    service = on_disk.start()
    with posting(service.url, 4) as posters:
        posters.wait_until_heard()
        filler = fill(disk)
        posters.wait_until_refused()
        filler.unlink()
        posters.wait_until_heard()
    check(service, service.store_url, posters.acknowledged)
    service.kill()
    service.start()
    check(service, service.store_url, posters.acknowledged)
    assert posters.total("n_broken") == 0
