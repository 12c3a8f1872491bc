"""The archive: what is trimmed is in files first, and comes back from them byte for byte."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pyarrow import parquet

from app import archive, events
from app.archive import Archive, ArchiveFile
from app.errors import ArchiveRefused, LogTrimmed, NotFound
from app.events import Command, Entry, Feedback, Impression, ItemUpsert, Malformed, Record
from app.past import Past
from app.settings import Settings
from app.store import BEGINNING, END, Store, StoredEntry
from tests.factories import click, configure, make_settings
from tests.integration.conftest import OpenStore

pytestmark = pytest.mark.anyio

RECORDS: list[list[Record]] = [
    [configure(make_settings())],
    [click("u1", "i1"), click("u2", "i2", source="app", recommendation_id="r", token="valid")],
    [Malformed("schema", "no item", "e9", "{'a': 1}"), ItemUpsert("i1", ["tea"], {"price": 1.5})],
    [Impression("r", "u1", ["i1", "i2"], [0.5, 0.25], 7), Command("freeze", "sale", "operator")],
    [Feedback("e7", "ü\u2028", "i/1", "rating", 4.5, None, draft="hold:a")],
]


@pytest.fixture
async def store(server: Any, open_store: OpenStore) -> Store:
    """An empty store, open; what kind of server it is makes no difference here."""
    return await open_store(server.url)


async def append(store: Store, *entries: list[Record]) -> list[StoredEntry]:
    """Append entries, and return what the log has of them."""
    payloads = [(events.encode(Entry(records, 99)), "a-tag") for records in entries]
    cursors = await store.append(payloads)
    return [StoredEntry(c, *pair) for c, pair in zip(cursors, payloads, strict=True)]


def settings(folder: Path, **others: Any) -> Settings:
    """Return settings with an archive."""
    return Settings(namespace="test", archive_dir=str(folder), **others)


def archived(folder: Path) -> list[StoredEntry]:
    """Return all that is archived."""
    return [entry for file in archive.files(folder) for entry in file.entries()]


def bytes_in(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


async def test_entries_come_back_byte_for_byte(store: Store, tmp_path: Path) -> None:
    """Of every kind of record the bytes are kept, and what is worth looking at has columns."""
    entries = await append(store, *RECORDS)
    assert await archive.keep(store, settings(tmp_path), entries[-1].cursor)
    assert archived(tmp_path) == entries[:-1]
    [file] = archive.files(tmp_path, "test")
    assert (file.first, file.last) == (entries[0].cursor, entries[3].cursor)
    assert file.about()["next"] == entries[4].cursor
    assert file.about()["begins"] == "true"
    rows = parquet.read_table(file.path).to_pylist()
    assert [row["kind"] for row in rows] == [
        *("configure", "feedback", "feedback", "malformed"),
        *("item", "impression", "command"),
    ]
    assert rows[2]["index"] == 1
    assert rows[2]["source"] == "app"
    assert rows[2]["arrival_ms"] == 99
    assert msgspec.json.decode(rows[4]["record"])[:2] == ["item", "i1"]


async def test_what_we_would_write_otherwise_is_kept_as_it_is(store: Store, tmp_path: Path) -> None:
    """An entry of another form, or one that nobody can read, comes back as it was, too."""
    spaced = b'{"version": 1, "records": [["item_delete", "i1"]], "arrival_ms": 5}'
    odd = [b"no JSON at all", b'{"records":[],"arrival_ms":null,"version":1}', spaced]
    cursors = await store.append([(payload, "") for payload in odd])
    assert await archive.keep(store, settings(tmp_path), END)
    assert archived(tmp_path) == [StoredEntry(c, p, "") for c, p in zip(cursors, odd, strict=True)]


async def test_the_same_log_gives_the_same_files(store: Store, tmp_path: Path) -> None:
    """Whoever archives a log writes the same bytes; what is there is not written again."""
    entries = await append(store, *RECORDS * 3)
    before = entries[-1].cursor
    for name in ("a", "b"):
        assert await archive.keep(store, settings(tmp_path / name), before)
    first = bytes_in(tmp_path / "a")
    assert len(first) == 1
    assert first == bytes_in(tmp_path / "b")
    inode = next((tmp_path / "a").iterdir()).stat().st_ino
    assert await archive.keep(store, settings(tmp_path / "a"), before)
    assert next((tmp_path / "a").iterdir()).stat().st_ino == inode
    assert bytes_in(tmp_path / "a") == first


async def test_after_a_crash_it_goes_on(store: Store, tmp_path: Path) -> None:
    """Killed before the rename, or between file and trim: nothing is lost or there twice."""
    entries = await append(store, *RECORDS)
    tmp_path.joinpath(".fresh.tmp").write_bytes(b"half a file")
    old = tmp_path / ".old.tmp"
    old.write_bytes(b"half a file of last week")
    os.utime(old, (time.time() - 7 * 86_400,) * 2)
    assert await archive.keep(store, settings(tmp_path), entries[2].cursor)
    # The trim did not come about; meanwhile the log has grown.
    entries += await append(store, *RECORDS)
    assert await archive.keep(store, settings(tmp_path), entries[7].cursor)
    assert archived(tmp_path) == entries[:7]
    assert [file.about()["begins"] for file in archive.files(tmp_path)] == ["true", "false"]
    assert tmp_path.joinpath(".fresh.tmp").exists()
    assert not old.exists()


async def test_a_long_log_becomes_files_and_row_groups(store: Store, tmp_path: Path) -> None:
    """However long the log is, what is held in memory is a row group; files go on each other."""
    clicks: list[list[Record]] = [[click(f"u{n}", f"i{m}") for n in range(6_000)] for m in range(8)]
    entries = await append(store, *clicks)
    keeping = settings(tmp_path)
    assert await archive.keep(store, keeping, entries[-1].cursor, file_rows=20_000)
    files = archive.files(tmp_path)
    assert [file.first for file in files] == [entries[0].cursor, entries[4].cursor]
    assert parquet.ParquetFile(files[0].path).metadata.num_row_groups == 2
    assert archived(tmp_path) == entries[:-1]


async def test_without_its_archive_the_log_stays(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that cannot be written to keeps the log from being trimmed; a warning says so."""
    entries = await append(store, *RECORDS)
    tmp_path.joinpath("a-file").write_bytes(b"")
    assert not await archive.keep(store, settings(tmp_path / "a-file/x"), entries[2].cursor)
    assert "the log is not trimmed: its archive in" in caplog.text
    assert "SLUICE_ARCHIVE_DIR" in caplog.text
    assert await archive.keep(store, Settings(namespace="test"), entries[2].cursor)


async def test_a_chain_has_no_gap(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From file to file each goes on where the one before ended; where one is missing it ends.

    A gap that somebody made who trimmed without archiving is warned of when it is found.
    """
    entries = await append(store, *RECORDS * 2)
    for end in (2, 5, 8):
        assert await archive.keep(store, settings(tmp_path), entries[end].cursor)
        await store.trim(entries[end].cursor)
    with pytest.raises(LogTrimmed, match="the log begins at"):
        await store.read_between(BEGINNING, END, count=1)
    files, upcoming = Archive(tmp_path, "test").chain(BEGINNING, END)
    assert (len(files), upcoming) == (3, entries[8].cursor)
    files, upcoming = Archive(tmp_path, "test").chain(entries[2].cursor, entries[4].cursor)
    assert (len(files), upcoming) == (1, entries[5].cursor)
    assert Archive(tmp_path, "test").chain(entries[7].cursor, END) == ([], entries[8].cursor)
    archive.files(tmp_path)[1].path.unlink()
    files, upcoming = Archive(tmp_path, "test").chain(BEGINNING, END)
    assert (len(files), upcoming) == (1, entries[2].cursor)
    assert Archive(tmp_path, "other").chain(BEGINNING, END) == ([], None)
    assert "gap" not in caplog.text
    await store.trim(entries[9].cursor)
    entries += await append(store, [click("u", "i")])
    assert await archive.keep(store, settings(tmp_path), entries[10].cursor)
    assert f"has a gap from {entries[8].cursor} to {entries[9].cursor}" in caplog.text


async def test_what_another_file_is_named_for_is_not_taken_for_archived(
    server: Any, open_store: OpenStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a damaged file nor one of another log with that namespace lets the log be trimmed."""
    store, other = await open_store(server.url), await open_store(server.url, namespace="other")
    entries = await append(store, *RECORDS)
    path = tmp_path / f"test.{entries[0].cursor}.{entries[3].cursor}.parquet"
    path.write_bytes(b"")
    assert not await archive.keep(store, settings(tmp_path), entries[2].cursor)
    assert f"{path} cannot be read" in caplog.text
    path.unlink()
    await asyncio.sleep(0.002)
    others = await append(other, *RECORDS)
    await asyncio.sleep(0.002)
    entries += await append(store, *RECORDS)
    assert await archive.keep(store, settings(tmp_path), entries[-1].cursor)
    assert not await archive.keep(other, settings(tmp_path), others[-1].cursor)
    assert "is of another log: behind it comes" in caplog.text


async def test_what_follows_on_a_gap_is_refused(store: Store, tmp_path: Path) -> None:
    """With nothing but files of which one is missing, no state is given for another."""
    clicks: list[list[Record]] = [[click("u", f"i{n}")] for n in range(9)]
    entries = await append(store, [configure(make_settings())], *clicks)
    for end in (2, 5, 9):
        assert await archive.keep(store, settings(tmp_path), entries[end].cursor)
        await store.trim(entries[end].cursor)
    archive.files(tmp_path)[1].path.unlink()
    past = Past(None, Archive(tmp_path, "test"))
    assert (await past.engine_at(entries[1].cursor)).cursor == entries[1].cursor
    for at in (2, 4, 5, 8):
        with pytest.raises(NotFound, match="the archive has a gap there"):
            await past.engine_at(entries[at].cursor)


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    """What is no Parquet file, or none of ours, is refused with its path."""
    path = tmp_path / "test.1-0.2-0.parquet"
    path.write_bytes(b"PAR1 this is none")
    with pytest.raises(ArchiveRefused, match=r"test\.1-0\.2-0\.parquet cannot be read"):
        ArchiveFile(path, "test", "1-0", "2-0").about()
