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


@contextmanager
def mounted(what: str | Path, folder: Path, *, kind: str, options: str) -> Iterator[Path]:
    """Mount something at a folder for a while."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", kind, "-o", options, str(what), str(folder)], check=True)
    try:
        yield folder
    finally:
        # What was killed a moment ago may still be on its way out.
        until(lambda: is_unmounted(folder))


def is_unmounted(folder: Path) -> bool:
    """Unmount a folder; tell whether that went well."""
    return subprocess.run(["umount", str(folder)], check=False, capture_output=True).returncode == 0


def skip_without_mounts(what: str, *, kind: str, options: str) -> None:
    """Skip a test that mounts, where that cannot be, and say why."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    with tempfile.TemporaryDirectory() as name:
        try:
            with mounted(what, Path(name) / "mount", kind=kind, options=options):
                pass
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no file system can be mounted here: {error}")
