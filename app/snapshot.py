"""Engine state <-> bytes: arrays plus JSON, checksummed, in chunks. No pickle, no I/O.

A snapshot is a manifest (JSON) and chunks. The chunks, joined, are a JSON header and then the raw
arrays, little-endian, in the order of the manifest. Whatever does not verify is refused by name.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from app.errors import SnapshotRefused
from app.settings import SEMANTICS
from learners.ids import State

FORMAT = 1
CHUNK_BYTES = 2**20
# Only these can be in a snapshot: no objects, no strings, nothing that would need pickle.
_DTYPES = {"uint8", "uint16", "int32", "int64", "uint64", "float32", "float64"}
_ARRAY = "$array"


def dump(state: State, snapshot_id: str) -> tuple[dict[str, Any], list[bytes]]:
    """Return the manifest and chunks of an engine's state, named by its cursor."""
    arrays: list[np.ndarray[Any, Any]] = []
    header = orjson.dumps(_take_arrays(state, arrays))
    body = b"".join([header, *(array.tobytes() for array in arrays)])
    chunks = [body[start : start + CHUNK_BYTES] for start in range(0, len(body), CHUNK_BYTES)]
    manifest = {
        "id": snapshot_id,
        "format": FORMAT,
        "semantics": state["semantics"],
        "n_events": state["plain"]["n_events"],
        "watermark_ms": state["admission"]["watermark_ms"],
        "model_version": state["gate"]["data"]["version"],
        "gate": state["gate"]["data"]["state"],
        "n_blessings": state["gate"]["data"]["n_blessings"],
        "bytes": len(body),
        "header_bytes": len(header),
        "arrays": [[array.dtype.name, list(array.shape)] for array in arrays],
        "chunks": [hashlib.sha256(chunk).hexdigest() for chunk in chunks],
    }
    return manifest | {"checksum": _checksum(manifest)}, chunks


def load(manifest: dict[str, Any], chunks: Sequence[bytes | None]) -> State:
    """Return the state that was dumped; raise SnapshotRefused, naming what is wrong with it."""
    name = f"snapshot {manifest.get('id')}"
    check(manifest, chunks)
    body = b"".join(chunk for chunk in chunks if chunk is not None)
    try:
        return _read(manifest, body)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise SnapshotRefused(f"{name} is damaged: {error}") from None


def check(manifest: dict[str, Any], chunks: Sequence[bytes | None]) -> None:
    """Raise SnapshotRefused unless format, manifest and every chunk are as they were written."""
    check_manifest(manifest)
    name = f"snapshot {manifest['id']}"
    expected = manifest["chunks"]
    if len(chunks) != len(expected):
        raise SnapshotRefused(f"{name} has {len(chunks)} chunks of {len(expected)}")
    for i, (chunk, sha256) in enumerate(zip(chunks, expected, strict=True), start=1):
        if chunk is None:
            raise SnapshotRefused(f"{name}: chunk {i} of {len(expected)} is missing")
        if hashlib.sha256(chunk).hexdigest() != sha256:
            raise SnapshotRefused(f"{name}: chunk {i} of {len(expected)} is damaged")


def check_manifest(manifest: dict[str, Any]) -> None:
    """Raise SnapshotRefused unless the manifest is of our format and as it was written."""
    name = f"snapshot {manifest.get('id')}"
    if set(manifest) == {"id"}:
        raise SnapshotRefused(f"{name}: its manifest cannot be read")
    if manifest.get("format") != FORMAT:
        raise SnapshotRefused(
            f"{name} has format {manifest.get('format')}; this program reads format {FORMAT}"
        )
    if manifest.get("checksum") != _checksum(manifest):
        raise SnapshotRefused(f"{name}: its manifest does not match its checksum")
    if manifest["semantics"] != SEMANTICS:
        raise SnapshotRefused(
            f"{name} has semantics version {manifest['semantics']}; this program knows {SEMANTICS}"
        )


def _checksum(manifest: dict[str, Any]) -> str:
    content = {name: value for name, value in manifest.items() if name != "checksum"}
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _take_arrays(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    """Return the value with each array replaced by its number, the arrays appended to a list."""
    if isinstance(value, np.ndarray):
        if value.dtype.name not in _DTYPES:
            raise TypeError(f"an array of {value.dtype} cannot be in a snapshot")
        arrays.append(np.ascontiguousarray(value))
        return {_ARRAY: len(arrays) - 1}
    if isinstance(value, dict):
        return {name: _take_arrays(inner, arrays) for name, inner in value.items()}
    return value


def _read(manifest: dict[str, Any], body: bytes) -> State:
    start = int(manifest["header_bytes"])
    header = orjson.loads(body[:start])
    arrays = []
    for dtype, shape in manifest["arrays"]:
        if dtype not in _DTYPES:
            raise ValueError(f"an array of {dtype}")
        count = math.prod(shape)
        array = np.frombuffer(body, dtype, count, start).reshape(shape)
        arrays.append(array)
        start += array.nbytes
    if start != len(body):
        raise ValueError(f"{len(body)} bytes, of which the arrays explain {start}")
    state: State = _put_arrays(header, arrays)
    return state


def _put_arrays(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_ARRAY}:
            return arrays[value[_ARRAY]]
        return {name: _put_arrays(inner, arrays) for name, inner in value.items()}
    return value
