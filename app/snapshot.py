"""Engine state <-> bytes: arrays plus JSON, checksummed, in chunks. No pickle, no I/O.

A snapshot is a manifest (JSON) and chunks. The chunks, joined, are a JSON header and then the
*parts*: every array and every long list, cut into blocks. A snapshot may build on another, its
base, and then holds only the blocks that differ. Whatever does not verify is refused by name.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from app.errors import SnapshotRefused
from app.settings import KNOWN_SEMANTICS
from learners.ids import PackedRows, State

FORMAT = 3
# Before parts: the header, then all arrays, whole. In 2 users' histories had another form.
WHOLE_FORMAT = 1
FORMATS = (WHOLE_FORMAT, 2, FORMAT)
CHUNK_BYTES = 2**20
# Two rows of neighbours: an event touches some tens of rows, which lie anywhere.
BLOCK_BYTES = 2_048
# A list is cut into pieces of so many elements once it is longer than a few of them.
PIECE, LONG_LIST = 256, 1_024
# Blocks that are held as Python objects at a time.
_BATCH = 8_192
_PRINT_BYTES = 8
_NUMBER_BYTES = 4
# Only these can be in a snapshot: no objects, no strings, nothing that would need pickle.
_DTYPES = {"uint8", "uint16", "int32", "int64", "uint64", "float32", "float64"}
_ARRAY, _PART = "$array", "$part"

T = TypeVar("T")
Manifest = dict[str, Any]
Chunks = Sequence[bytes | None]
Prints = dict[str, NDArray[np.uint64]]
"""A fingerprint of 64 bits for each block, by the name of the part."""
Ask = Callable[[bytes], Iterator[bytes]]
"""Puts a question to another process; its answer, in pieces, is to be taken to the end."""


def pack_prints(prints: Prints) -> Iterator[bytes]:
    """Yield fingerprints as bytes, a chunk at a time: no loop has to wait for all of them."""
    header = orjson.dumps([[name, len(found)] for name, found in prints.items()])
    arrays = (found.tobytes() for found in prints.values())
    yield from _cut([len(header).to_bytes(4, "little"), header, *arrays])


def unpack_prints(chunks: Iterable[bytes]) -> Prints:
    """Undo `pack_prints`."""
    packed = b"".join(chunks)
    at = 4 + int.from_bytes(packed[:4], "little")
    prints = {}
    for name, n in orjson.loads(packed[4:at]):
        prints[name] = np.frombuffer(packed, np.uint64, n, at)
        at += n * _PRINT_BYTES
    return prints


class Base(NamedTuple):
    """A snapshot that another may build on: its manifest, and its blocks' fingerprints, packed."""

    manifest: Manifest
    prints: Sequence[bytes]


class Dump:
    """A state on its way into bytes. It reads the state as it goes: nothing may change meanwhile.

    `digest` is the same wherever the same log was applied, whatever the snapshot builds on.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._parts: list[_Part] = []
        tree = _take("", state, self._parts)
        meta = [part.meta() for part in self._parts]
        self._header = orjson.dumps({"state": tree, "parts": meta})
        self.prints: Prints = {part.name: part.prints() for part in self._parts}
        sha = hashlib.sha256(self._header)
        for prints in self.prints.values():
            sha.update(prints.tobytes())
        self.digest = sha.hexdigest()
        self._sums: list[str] = []
        self._n_bytes = 0

    def chunks(self, base: Base | None = None) -> Iterator[bytes]:
        """Yield the chunks: with a base only what is not in it, else everything but zeros."""
        known = {} if base is None else unpack_prints(base.prints)
        for chunk in _cut(self._body(known)):
            self._sums.append(hashlib.sha256(chunk).hexdigest())
            self._n_bytes += len(chunk)
            yield chunk

    def _body(self, known: Prints) -> Iterator[bytes]:
        yield self._header
        for part in self._parts:
            changed = _changed(part, self.prints[part.name], known.get(part.name))
            if not part.is_array:
                yield part.lengths.astype("<u4").tobytes()
            yield np.packbits(changed).tobytes()
            yield from part.read_all(changed)

    def manifest(self, snapshot_id: str, base: Base | None = None, **more: Any) -> Manifest:
        """Return what describes the chunks, once they have all been taken."""
        state = self._state
        manifest = {
            "id": snapshot_id,
            "format": FORMAT,
            "semantics": state["semantics"],
            "n_events": state["plain"]["n_events"],
            "watermark_ms": state["admission"]["watermark_ms"],
            "model_version": state["gate"]["data"]["version"],
            "gate": state["gate"]["data"]["state"],
            "n_blessings": state["gate"]["data"]["n_blessings"],
            "base": None if base is None else base.manifest["id"],
            "n_bases": 0 if base is None else base.manifest["n_bases"] + 1,
            "bytes": self._n_bytes,
            "state_bytes": len(self._header) + sum(part.n_bytes for part in self._parts),
            "header_bytes": len(self._header),
            "chunks": self._sums,
            "digest": self.digest,
            **more,
        }
        return manifest | {"checksum": _checksum(manifest)}


def dump(state: State, snapshot_id: str) -> tuple[Manifest, list[bytes]]:
    """Return the manifest and chunks of a whole snapshot of an engine's state."""
    dumped = Dump(state)
    chunks = list(dumped.chunks())
    return dumped.manifest(snapshot_id), chunks


# -- parts ------------------------------------------------------------------------------------


def _take(name: str, value: Any, parts: list[_Part]) -> Any:
    """Return the value with arrays and long lists replaced by the numbers of their parts."""
    part: _Part
    if isinstance(value, dict):
        return {key: _take(f"{name}/{key}", inner, parts) for key, inner in value.items()}
    if isinstance(value, Lent):
        first = len(parts)
        parts += value.parts
        return _put(value.tree, _PART, lambda number: {_PART: first + number})
    if isinstance(value, PackedRows):
        part = _Rows(name, value)
    elif isinstance(value, np.ndarray):
        part = _Array(name, value)
    elif isinstance(value, list) and len(value) > LONG_LIST:
        part = _List(name, value)
    else:
        return value
    parts.append(part)
    return {_PART: len(parts) - 1}


class _Part:
    """Something long, in blocks. `lengths` are the blocks' in bytes; `read` joins some of them."""

    name: str
    lengths: NDArray[np.int64]
    is_array = False

    @property
    def n_bytes(self) -> int:
        return int(self.lengths.sum())

    def meta(self) -> list[Any]:
        raise NotImplementedError

    def read(self, start: int, stop: int) -> bytes:
        raise NotImplementedError

    def read_all(self, chosen: NDArray[np.bool_]) -> Iterator[bytes]:
        """Yield the blocks that are chosen, some at a time."""
        for start, stop in _runs(chosen):
            for at in range(start, stop, _BATCH):
                yield self.read(at, min(at + _BATCH, stop))

    def prints(self) -> NDArray[np.uint64]:
        """Return a fingerprint of each block."""
        found = bytearray()
        for start in range(0, len(self.lengths), _BATCH):
            lengths = self.lengths[start : start + _BATCH]
            blocks = memoryview(self.read(start, start + len(lengths)))
            for begin, end in pairwise(_starts(lengths).tolist()):
                found += _print(blocks[begin:end])
        return np.frombuffer(bytes(found), np.uint64)


class _Array(_Part):
    is_array = True

    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self.name = name
        self._dtype, self._shape = _checked_dtype(array.dtype), list(array.shape)
        # As it lies: often among others, and to put it together would take as much memory again.
        self._rows = np.atleast_1d(array)
        self.lengths = _array_lengths(self._dtype, self._shape)
        self._per = max(1, BLOCK_BYTES // max(self._rows[:1].nbytes, 1))

    def meta(self) -> list[Any]:
        return [self.name, "array", self._dtype, self._shape]

    def read(self, start: int, stop: int) -> bytes:
        return self._rows[start * self._per : stop * self._per].tobytes()


class _Rows(_Part):
    def __init__(self, name: str, packed: PackedRows) -> None:
        self.name = name
        self._packed = packed
        self._dtype = _checked_dtype(packed.dtype)
        width = packed.width * packed.dtype.itemsize
        self._per = max(1, BLOCK_BYTES // max(width, 1))
        sizes = packed.sizes.astype(np.int64)
        firsts = np.arange(0, len(sizes), self._per)
        sums = np.add.reduceat(sizes, firsts) if len(sizes) else np.zeros(0, np.int64)
        self.lengths = sums * packed.dtype.itemsize

    def meta(self) -> list[Any]:
        return [self.name, "rows", self._dtype, [len(self.lengths)]]

    def read(self, start: int, stop: int) -> bytes:
        return self._packed.pack(start * self._per, stop * self._per).tobytes()


class _List(_Part):
    def __init__(self, name: str, values: list[Any]) -> None:
        self.name = name
        starts = range(0, len(values), PIECE)
        self._pieces = [orjson.dumps(values[start : start + PIECE]) for start in starts]
        self.lengths = np.array([len(piece) for piece in self._pieces], np.int64)

    def meta(self) -> list[Any]:
        return [self.name, "list", "json", [len(self._pieces)]]

    def read(self, start: int, stop: int) -> bytes:
        return b"".join(self._pieces[start:stop])


def _checked_dtype(dtype: np.dtype[Any]) -> str:
    if dtype.name not in _DTYPES:
        raise TypeError(f"an array of {dtype} cannot be in a snapshot")
    return dtype.name


def _array_lengths(dtype: str, shape: Sequence[int]) -> NDArray[np.int64]:
    """Return the lengths of an array's blocks: as many whole rows as fit, one at least."""
    width = np.dtype(dtype).itemsize * math.prod(shape[1:])
    n_bytes = width * shape[0] if shape else width
    block = max(width, BLOCK_BYTES // max(width, 1) * width, 1)
    n_full, rest = divmod(n_bytes, block)
    return np.array([block] * n_full + [rest] * (rest > 0), np.int64)


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _print(block: bytes | memoryview) -> bytes:
    return hashlib.blake2b(block, digest_size=_PRINT_BYTES).digest()


def _changed(
    part: _Part, prints: NDArray[np.uint64], known: NDArray[np.uint64] | None
) -> NDArray[np.bool_]:
    """Tell which blocks a reader lacks who has the base's, or zeros where there is no base."""
    changed = np.ones(len(prints), np.bool_)
    if known is not None:
        n = min(len(known), len(prints))
        changed[:n] = prints[:n] != known[:n]
    elif part.is_array:
        for length in set(part.lengths.tolist()):
            zeros = np.frombuffer(_print(bytes(length)), np.uint64)
            changed[part.lengths == length] = prints[part.lengths == length] != zeros
    return changed


def _runs(changed: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield the stretches of blocks that changed, as (start, stop)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], changed, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist())


def _cut(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Join pieces into chunks of one size."""
    chunk = bytearray()
    for piece in pieces:
        chunk += piece
        while len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk[:CHUNK_BYTES])
            del chunk[:CHUNK_BYTES]
    if chunk:
        yield bytes(chunk)


# -- of another process -----------------------------------------------------------------------


class Lender:
    """A part of a state, `name`d as in the whole, for a process that has the rest.

    `answer` is for what `Lent` asks. Reads the state when it is first asked.
    """

    def __init__(self, name: str, read: Callable[[], State]) -> None:
        self._name, self._read = name, read
        self._parts: list[_Part] = []

    def answer(self, question: bytes) -> Iterator[bytes]:
        """Yield, asked for nothing, what there is; else the blocks of a part that are wanted."""
        if not question:
            yield self._describe()
            return
        part = self._parts[int.from_bytes(question[:_NUMBER_BYTES], "little")]
        packed = np.frombuffer(question, np.uint8, offset=_NUMBER_BYTES)
        chosen = np.unpackbits(packed, count=len(part.lengths)).astype(np.bool_)
        yield from _cut(part.read_all(chosen))  # each piece is waited for: so not by the block

    def _describe(self) -> bytes:
        tree = _take(self._name, self._read(), parts := self._parts)
        header = orjson.dumps([tree, [[*part.meta(), len(part.lengths)] for part in parts]])
        arrays = [array.tobytes() for part in parts for array in (part.lengths, part.prints())]
        return b"".join([len(header).to_bytes(_NUMBER_BYTES, "little"), header, *arrays])


class Lent:
    """A part of a state that another process has: `ask` puts a question to a `Lender` there."""

    def __init__(self, ask: Ask) -> None:
        told = b"".join(ask(b""))
        at = _NUMBER_BYTES + int.from_bytes(told[:_NUMBER_BYTES], "little")
        self.tree, described = orjson.loads(told[_NUMBER_BYTES:at])
        self.parts = []
        for number, (*meta, n_blocks) in enumerate(described):
            lengths = np.frombuffer(told, np.int64, n_blocks, at)
            prints = np.frombuffer(told, np.uint64, n_blocks, at + lengths.nbytes)
            self.parts.append(_LentPart(ask, number, meta, lengths, prints))
            at += lengths.nbytes + prints.nbytes


class _LentPart(_Part):
    def __init__(
        self,
        ask: Ask,
        number: int,
        meta: list[Any],
        lengths: NDArray[np.int64],
        prints: NDArray[np.uint64],
    ) -> None:
        self.name, kind = meta[:2]
        self.is_array = kind == "array"
        self.lengths = lengths
        self._ask, self._number, self._meta, self._prints = ask, number, meta, prints

    def meta(self) -> list[Any]:
        return self._meta

    def read_all(self, chosen: NDArray[np.bool_]) -> Iterator[bytes]:
        number = self._number.to_bytes(_NUMBER_BYTES, "little")
        yield from self._ask(number + np.packbits(chosen).tobytes())

    def prints(self) -> NDArray[np.uint64]:
        return self._prints


# -- reading ----------------------------------------------------------------------------------

_Steps = Generator[None, bytes | None, T]


class _Read(NamedTuple):
    """A part as it was read: what it is, and its blocks."""

    meta: list[Any]
    lengths: NDArray[np.int64]
    content: NDArray[np.uint8]


class _Body:
    """The chunks of a snapshot, joined, to be read once from the front.

    Reading is by generators that are sent chunks as they need more, None at the end.
    """

    def __init__(self) -> None:
        self._chunk, self._at = b"", 0
        self._is_over = False

    def read(self, n_bytes: int) -> _Steps[bytes]:
        """Return the next bytes."""
        target = np.empty(n_bytes, np.uint8)
        yield from self.read_into(target)
        return target.tobytes()

    def read_into(self, target: NDArray[np.uint8]) -> _Steps[None]:
        """Fill an array with the next bytes; raise ValueError where there are not so many."""
        done = 0
        while done < len(target):
            if not (yield from self._has_more()):
                raise ValueError(f"its bytes end {len(target) - done} before a part does")
            n = min(len(self._chunk) - self._at, len(target) - done)
            target[done : done + n] = np.frombuffer(self._chunk, np.uint8, n, self._at)
            done, self._at = done + n, self._at + n

    def rest(self) -> _Steps[bytes]:
        """Return all that is left."""
        pieces = []
        while (yield from self._has_more()):
            pieces.append(self._chunk[self._at :])
            self._at = len(self._chunk)
        return b"".join(pieces)

    def _has_more(self) -> _Steps[bool]:
        while self._at == len(self._chunk) and not self._is_over:
            chunk = yield
            self._chunk, self._at, self._is_over = chunk or b"", 0, chunk is None
        return self._at < len(self._chunk)


class Reading:
    """Makes a state of a snapshot and those that it builds on, oldest first, chunk by chunk.

    So that of a large one nothing is in memory twice. Whatever does not verify raises
    SnapshotRefused, by name.
    """

    def __init__(self) -> None:
        self._tree: Any = None
        self._parts: dict[str, _Read] = {}
        self._state: State | None = None
        self._manifest: Manifest = {}
        self._n_fed = 0

    def begin(self, manifest: Manifest) -> None:
        """Begin with the next snapshot."""
        check_manifest(manifest)
        # Nothing builds on one of the first format.
        expected = self._manifest.get("id") if self._state is None else None
        self._manifest, self._n_fed = manifest, 0
        if manifest["format"] != WHOLE_FORMAT and manifest["base"] != expected:
            self._refuse(f"it builds on {manifest['base']}, which is not there")
        self._steps = self._read()
        self._go_on(None)

    def feed(self, chunk: bytes | None) -> None:
        """Take its next chunk, None where it is missing."""
        sums, self._n_fed = self._manifest["chunks"], self._n_fed + 1
        name = f"snapshot {self._manifest['id']}: chunk {self._n_fed} of {len(sums)}"
        if self._n_fed > len(sums):
            raise SnapshotRefused(f"{name} is one too many")
        if chunk is None:
            raise SnapshotRefused(f"{name} is missing")
        if hashlib.sha256(chunk).hexdigest() != sums[self._n_fed - 1]:
            raise SnapshotRefused(f"{name} is damaged")
        self._go_on(chunk)

    def end(self) -> None:
        """Take note that this was its last chunk."""
        manifest = self._manifest
        if self._n_fed < len(manifest["chunks"]):
            n = len(manifest["chunks"])
            raise SnapshotRefused(f"snapshot {manifest['id']} has {self._n_fed} chunks of {n}")
        self._go_on(None)

    def state(self) -> State:
        """Return the state of the snapshot that ended last. To be asked once."""
        if self._state is not None:
            return self._state
        ordered, self._parts = list(self._parts.values()), {}
        try:
            state: State = _put(self._tree, _PART, lambda number: _value(ordered[number]))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            self._refuse(str(error))
        return state

    def _go_on(self, chunk: bytes | None) -> None:
        try:
            self._steps.send(chunk)
        except StopIteration:  # with the end of the chunks
            pass
        except (ValueError, KeyError, TypeError, IndexError) as error:
            self._refuse(str(error))

    def _refuse(self, why: str) -> NoReturn:
        name = f"snapshot {self._manifest.get('id')}"
        raise SnapshotRefused(f"{name} is damaged: {why}") from None

    def _read(self) -> _Steps[None]:
        body = _Body()
        if self._manifest["format"] == WHOLE_FORMAT:
            self._state = _read_whole(self._manifest, (yield from body.rest()))
            return
        self._state = None
        header = orjson.loads((yield from body.read(int(self._manifest["header_bytes"]))))
        before, parts = self._parts, {}
        for meta in header["parts"]:
            parts[meta[0]] = yield from _read_part(meta, body, before)
        if (yield from body.rest()):
            raise ValueError("it has bytes that no part explains")
        self._tree, self._parts = header["state"], parts


def load(chain: Iterable[tuple[Manifest, Chunks]]) -> State:
    """Return the state that was dumped; raise SnapshotRefused where anything does not verify.

    `chain` ends with the snapshot and begins with a whole one.
    """
    reading = Reading()
    for manifest, chunks in chain:
        reading.begin(manifest)
        for chunk in chunks:
            reading.feed(chunk)
        reading.end()
    return reading.state()


def _read_part(meta: list[Any], body: _Body, before: dict[str, _Read]) -> _Steps[_Read]:
    """Read a part: as it was before, with the blocks that have changed."""
    name, kind, dtype, shape = meta
    if kind == "array":
        if dtype not in _DTYPES:
            raise ValueError(f"an array of {dtype}")
        lengths = _array_lengths(dtype, shape)
    else:
        lengths = np.frombuffer((yield from body.read(4 * shape[0])), "<u4").astype(np.int64)
    n = len(lengths)
    packed = np.frombuffer((yield from body.read(-(-n // 8))), np.uint8)
    changed = np.unpackbits(packed, count=n).astype(np.bool_)
    content = _unchanged(before.pop(name, None), lengths, changed)
    starts = _starts(lengths)
    for first, last in _runs(changed):
        yield from body.read_into(content[starts[first] : starts[last]])
    return _Read(meta, lengths, content)


def _unchanged(
    before: _Read | None, lengths: NDArray[np.int64], changed: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Return a part's bytes as they were before (or zeros), with room for the changed blocks."""
    if before is not None and np.array_equal(before.lengths, lengths):
        return before.content
    starts = _starts(lengths)
    content = np.zeros(int(starts[-1]), np.uint8)
    if before is not None:
        old = _starts(before.lengths)
        for first, last in _runs(~changed):
            if last >= len(old) or (before.lengths[first:last] != lengths[first:last]).any():
                raise ValueError("its base has other blocks")
            content[starts[first] : starts[last]] = before.content[old[first] : old[last]]
    return content


def _value(part: _Read) -> Any:
    _, kind, dtype, shape = part.meta
    if kind == "array":
        return part.content.view(dtype).reshape(shape)
    if kind == "rows":
        return part.content.view(dtype)
    raw, starts = part.content.tobytes(), _starts(part.lengths).tolist()
    values: list[Any] = []
    for start, stop in pairwise(starts):
        values += orjson.loads(raw[start:stop])
    return values


def _read_whole(manifest: Manifest, body: bytes) -> State:
    """Read a snapshot of the first format."""
    start = int(manifest["header_bytes"])
    header = orjson.loads(body[:start])
    arrays = []
    for dtype, shape in manifest["arrays"]:
        if dtype not in _DTYPES:
            raise ValueError(f"an array of {dtype}")
        count = math.prod(shape)
        arrays.append(np.frombuffer(body, dtype, count, start).reshape(shape))
        start += arrays[-1].nbytes
    if start != len(body):
        raise ValueError(f"{len(body)} bytes, of which the arrays explain {start}")
    state: State = _put(header, _ARRAY, arrays.__getitem__)
    return state


def _put(value: Any, key: str, get: Any) -> Any:
    """Return a tree with each {key: number} replaced by what the number stands for."""
    if isinstance(value, dict):
        if set(value) == {key}:
            return get(value[key])
        return {name: _put(inner, key, get) for name, inner in value.items()}
    return value


# -- checking ---------------------------------------------------------------------------------


def check_manifest(manifest: Manifest) -> None:
    """Raise SnapshotRefused unless the manifest is of our format and as it was written."""
    name = f"snapshot {manifest.get('id')}"
    if set(manifest) == {"id"}:
        raise SnapshotRefused(f"{name}: its manifest cannot be read")
    if manifest.get("format") not in FORMATS:
        raise SnapshotRefused(
            f"{name} has format {manifest.get('format')}; this program reads formats"
            f" {WHOLE_FORMAT} to {FORMAT}"
        )
    if manifest.get("checksum") != _checksum(manifest):
        raise SnapshotRefused(f"{name}: its manifest does not match its checksum")
    if manifest["semantics"] not in KNOWN_SEMANTICS:
        known = " and ".join(map(str, KNOWN_SEMANTICS))
        raise SnapshotRefused(
            f"{name} has semantics version {manifest['semantics']}; this program knows {known}"
        )


def _checksum(manifest: Manifest) -> str:
    content = {name: value for name, value in manifest.items() if name != "checksum"}
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
