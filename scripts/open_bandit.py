"""The format of the Open Bandit data set (Saito et al. 2020): what was shown, with its chances.

A row is one place of a page: `item_id`, `position`, `click`, `propensity_score`, and columns
`user_feature_...`. Whose page it was is not said; people with the same features count as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv

from app.errors import InvalidRequest
from scripts.formats import OnProgress
from scripts.off_policy import F64, I64, Logged, Shares

_USER = "user_feature_"
_NEEDED = {
    "item_id": pa.string(),
    "position": pa.int64(),
    "click": pa.float64(),
    "propensity_score": pa.float64(),
}
_BLOCK_BYTES = 2**22


class OpenBanditLog(NamedTuple):
    """A file of the format: `items` are the names by number; each row is a slate of its own."""

    logged: Logged
    items: list[str]


def read_log(path: Path, on_progress: OnProgress = lambda _: None) -> OpenBanditLog:
    """Read a file; raise InvalidRequest, with the row, where it is not of the format."""
    try:
        batches = list(_batches(path, on_progress))
    except (OSError, pa.ArrowInvalid) as error:
        raise InvalidRequest(f"{path} is no Open Bandit log: {error}") from None
    if not any(len(batch) for batch in batches):
        raise InvalidRequest(f"{path} has no rows")
    table = pa.Table.from_batches(batches)
    _refuse_bad(path, table)
    item, names = _codes(table["item_id"])
    _, place = np.unique(table["position"].to_numpy(), return_inverse=True)
    logged = Logged(
        user=_users(table),
        slate=np.arange(len(table)),
        place=place.astype(np.int64),
        item=item,
        click=table["click"].to_numpy(),
        propensity=table["propensity_score"].to_numpy(),
    )
    return OpenBanditLog(logged, names)


def _batches(path: Path, on_progress: OnProgress) -> Iterator[pa.RecordBatch]:
    """Yield the columns that are wanted, a block of the file at a time."""
    with path.open(encoding="utf-8") as file:
        header = file.readline().rstrip("\n").split(",")
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        raise InvalidRequest(f"{path} is no Open Bandit log: it has no column {missing[0]!r}")
    users = {name: pa.string() for name in header if name.startswith(_USER)}
    convert = csv.ConvertOptions(
        include_columns=[*_NEEDED, *users], column_types=_NEEDED | users, null_values=[""]
    )
    with pa.input_stream(str(path)) as source:
        done = 0
        read = csv.ReadOptions(block_size=_BLOCK_BYTES)
        for batch in csv.open_csv(source, read_options=read, convert_options=convert):
            yield batch
            on_progress(source.tell() - done)
            done = source.tell()


def _refuse_bad(path: Path, table: pa.Table) -> None:
    """Raise InvalidRequest at the first row with a value that none can be."""
    propensity, click = (table[name].to_numpy() for name in ("propensity_score", "click"))
    rules = {
        "propensity_score": (propensity > 0) & (propensity <= 1),
        "click": (click == 0) | (click == 1),
        "position": table["position"].is_valid().to_numpy(),
        "item_id": table["item_id"].is_valid().to_numpy(),
    }
    meant = {"propensity_score": "in (0, 1]", "click": "0 or 1"}
    for name, is_good in rules.items():
        if not is_good.all():
            row = int(np.flatnonzero(~is_good)[0])
            raise InvalidRequest(
                f"{path}, row {row + 1}: {name} is {table[name][row].as_py()!r}, and must be"
                f" {meant.get(name, 'there')}"
            )


def _codes(column: pa.ChunkedArray) -> tuple[I64, list[str]]:
    """Return a column as numbers from 0 on, and what they stand for."""
    coded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    return coded.indices.to_numpy().astype(np.int64), coded.dictionary.to_pylist()


def _users(table: pa.Table) -> I64:
    """Return who is who by the columns of the user; without any, everybody is somebody else."""
    names = [name for name in table.column_names if name.startswith(_USER)]
    if not names:
        return np.arange(len(table))
    user: I64 = np.zeros(len(table), np.int64)
    for name in names:
        codes, values = _codes(table[name])
        _, user = np.unique(user * len(values) + codes, return_inverse=True)
    return user.astype(np.int64)


# -- policies ---------------------------------------------------------------------------------


def random_policy(log: OpenBanditLog) -> Shares:
    """Return the policy that shows any item of a log, each with the same chance."""
    n, places = len(log.items), log.logged.n_places
    return Shares(np.vstack([np.full((n, places), 1.0 / n), np.zeros((1, places))]))


def policy_of(other: OpenBanditLog, log: OpenBanditLog) -> Shares:
    """Return the policy of another log: how often it showed each item at each place.

    Raises InvalidRequest where the places are not those of `log`.
    """
    theirs, places = other.logged, log.logged.n_places
    if theirs.n_places != places:
        raise InvalidRequest(f"one log has {places} positions, the other {theirs.n_places}")
    number = {name: index for index, name in enumerate(log.items)}
    ours = np.array([number.get(name, len(number)) for name in other.items])
    counts: F64 = np.zeros((len(number) + 1, places))
    np.add.at(counts, (ours[theirs.item], theirs.place), 1.0)
    return Shares(counts / counts.sum(axis=0))
