"""Cut the power under load, and count what was acknowledged and is gone.

    python -m tests.faults.power_cut --fsync always --rounds 5

The data lies on a file system in a file. At the cut store and service are stopped, and the file is
copied as it is, without what the kernel has not written yet: what a disk has after a power cut. A
new service starts on the copy. At `always` nothing that was acknowledged may be missing; at
`everysec` nothing that was acknowledged over two seconds before. For root, on Linux.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from app.embedded import is_locked
from tests.faults.log import begin, check
from tests.faults.mounts import ON_LOOP, make_image, mounted, run
from tests.faults.posters import Posters, posting
from tests.faults.servers import free_port
from tests.integration.service import Service, small, until

Fsync = Literal["everysec", "always"]
IMAGE_BYTES = 2**28
# What docs/operating.md says of `everysec`.
MOST_LOST_S = 2.0


class Round(NamedTuple):
    """What a power cut left: what was acknowledged, how much of it is lost, how old that was."""

    n_acknowledged: int
    n_lost: int
    oldest_lost_s: float


def power_cut(*, fsync: Fsync, n_posters: int, load_s: float, seed: int, folder: Path) -> Round:
    """Cut the power after some seconds of load; return what was lost."""
    disk, copy = make_image(folder / "disk", n_bytes=IMAGE_BYTES), folder / "copy"
    with running(disk, folder / "mount", fsync) as service:
        before = begin(service, service.store_url)
        with posting(service.url, n_posters, seed=seed) as posters:
            posters.wait_until_heard()
            posters[0].is_over.wait(load_s)
            cut_s = cut(service, posters, disk, copy)
    with running(copy, folder / "mount", fsync) as service:
        there = check(service, service.store_url, [], before).admitted
        with posting(service.url, 2, name="after") as after:
            after.wait_until_heard()
        check(service, service.store_url, after.acknowledged, before)
    lost_s = [cut_s - when for key, when in posters.acknowledged.items() if not there[key]]
    return Round(len(posters.acknowledged), len(lost_s), max(lost_s, default=0.0))


@contextmanager
def running(image: Path, mount: Path, fsync: Fsync) -> Iterator[Service]:
    """Run a service whose data is in an image."""
    with mounted(image, mount, kind="ext4", options=ON_LOOP):
        service = small(
            mount / "service",
            port=free_port(),
            fsync=fsync,
            snapshot_events=500,
            snapshot_min_s=0,
            snapshots_keep=100_000,
            dedupe_window=1_000_000,
        )
        try:
            yield service.start()
        finally:
            service.close()
            until(lambda: not is_locked(mount / "service/data/store"))


def cut(service: Service, posters: Posters, disk: Path, copy: Path) -> float:
    """Stop store and service, copy what has reached the disk, and end them; return when."""
    pids = [service.store_pid(), service.pid or 0]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    when = time.monotonic()
    run("cp", "--sparse=always", disk, copy)
    for poster in posters:
        poster.is_over.set()
    os.kill(pids[0], signal.SIGKILL)
    service.kill()
    return when


def rounds(*, fsync: Fsync, n_rounds: int, n_posters: int, seed: int) -> bool:
    """Cut the power again and again; tell each time, and whether all was as promised."""
    chance = random.Random(seed)
    is_right = True
    for n in range(n_rounds):
        load_s = 2 + 3 * chance.random()
        with tempfile.TemporaryDirectory(prefix="sluice-power-") as name:
            found = power_cut(
                fsync=fsync, n_posters=n_posters, load_s=load_s, seed=n, folder=Path(name)
            )
        is_right &= is_as_promised(fsync, found)
        sys.stdout.write(
            f"{fsync}, round {n + 1}: {found.n_acknowledged} events acknowledged in {load_s:.1f} s,"
            f" {found.n_lost} lost, the oldest {found.oldest_lost_s:.2f} s before the cut\n"
        )
        sys.stdout.flush()
    return is_right


def is_as_promised(fsync: Fsync, found: Round) -> bool:
    """Tell whether what was lost is what docs/operating.md says may be lost."""
    return found.oldest_lost_s <= MOST_LOST_S if fsync == "everysec" else found.n_lost == 0


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--fsync", choices=["everysec", "always"], default="always")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--posters", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    is_right = rounds(
        fsync=asked.fsync, n_rounds=asked.rounds, n_posters=asked.posters, seed=asked.seed
    )
    sys.exit(0 if is_right else "more was lost than docs/operating.md says")


if __name__ == "__main__":
    main()
