"""File systems that tests make, fill, copy and forget: for root, where mounting is allowed."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.service import until

# Nothing but an fsync brings anything to the disk while a test runs: the kernel's own five seconds
# would flatter whoever forgot it.
ON_LOOP = "loop,commit=300"


@contextmanager
def mounted(what: str | Path, folder: Path, *, kind: str, options: str) -> Iterator[Path]:
    """Mount something at a folder for a while."""
    folder.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", kind, "-o", options, what, folder)
    try:
        yield folder
    finally:
        # What was killed a moment ago may still be on its way out.
        until(lambda: is_unmounted(folder))


def is_unmounted(folder: Path) -> bool:
    """Unmount a folder; tell whether that went well."""
    return subprocess.run(["umount", str(folder)], check=False, capture_output=True).returncode == 0


def make_image(path: Path, *, n_bytes: int) -> Path:
    """Make an ext4 file system in a file."""
    with path.open("wb") as file:
        file.truncate(n_bytes)
    run("mkfs.ext4", "-q", path)
    return path


def run(*command: str | Path) -> None:
    """Run a program that must succeed; say what it said if it does not."""
    ended = subprocess.run([str(word) for word in command], check=False, capture_output=True)
    if ended.returncode != 0:
        raise OSError(f"{command[0]}: {ended.stderr.decode(errors='replace').strip()}")


def skip_without_tmpfs() -> None:
    """Skip a test that mounts a file system of its own, where that cannot be, and say why."""
    with trial() as folder, mounted("tmpfs", folder / "m", kind="tmpfs", options="size=1m"):
        pass


def skip_without_loop_devices() -> None:
    """Skip a test that mounts a file, where that cannot be, and say why."""
    with trial() as folder:
        image = make_image(folder / "image", n_bytes=2**22)
        with mounted(image, folder / "m", kind="ext4", options=ON_LOOP):
            pass


@contextmanager
def trial() -> Iterator[Path]:
    """Lend a folder to try something in that only root can do; skip the test if it fails."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    with tempfile.TemporaryDirectory() as name:
        try:
            yield Path(name)
        except OSError as error:
            pytest.skip(f"no file system can be mounted here: {error}")
