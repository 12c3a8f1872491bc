"""The hot loops, compiled by Numba. Plain arrays in, plain arrays out; no allocation per catalogue.

Only + - * / and sqrt (and the logarithm in ADWIN's bound), in fixed order and without fast-math:
the same log gives the same bytes on every machine. Powers of two come from tables made with
software decimals.

A *handle* is an int64: (generation << 32) | index. It outlives the item that it names: once the
index is given to another item its generation differs, and the handle scores nothing.
"""

from __future__ import annotations

import math
from decimal import Context, Decimal
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.datamodel.registry import default_manager
from numba.core.extending import infer_getattr, lower_getattr_generic, lower_setattr_generic
from numba.core.typing.templates import AttributeTemplate
from numba.experimental import structref
from numba.extending import NativeValue, box, intrinsic, models, unbox
from numpy.typing import NDArray

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

# Most kernels take no memory and return numbers, so nothing has to count who uses an array. Where
# that is counted, each array that is handed on costs two calls, and a table's row is five arrays.
# (Whoever returns arrays, or calls what does, has to count; unless these are lent, see `_Lent`.)
_UNCOUNTED: dict[str, Any] = {"cache": True, "_nrt": False}
kernel = njit(**_UNCOUNTED)

INDEX_MASK = CELL_MASK = np.int64(0xFFFFFFFF)
# A cell is an event or an item that was had: three numbers of 32 bits. Cells lie together in rows
# [link to another row, items, low times, high times and kinds]; there is no row 0.
CHUNK = 5  # cells in a row of a ring: 64 bytes, a cache line
BLOCK = 21  # cells in a row of what has left the ring: four of them
ROOM = 16  # had items that one place of the pool is for: a bound since the first logs
GONE = 2**32 - 1  # stands for an item that is no more
MOST_ITEM_BITS, MOST_HAD = 28, 2**16 - 1
MOST_TYPES = 2**14  # bits that a cell has for a type whose reward has no number
KINDS = 2**14  # pairs of type and reward that have a number; other rewards stand by themselves
MISS = NO_ROOM = -1
NO_EVENT = 2**63 - 1  # the time since when there is an item that had no event yet

# Weights in a sketch are whole sixteenths: the least weight of a pair, 1/sqrt(20), is still 4.
SKETCH_UNIT = 16
SKETCH_MAX = 65_535
SKETCH_STRIPE = 64
LAST_TICK = 2**31 - 1
# From so many values on a bound for some of them may be found by a part.
FEW_ENOUGH, SAMPLED_FROM = 256, 1_024
_ASSIGNED = 64  # items whose slots in two versions are compared at once
BIN_SHIFT = np.int64(49)  # leaves three bits of a float's mantissa
FACTOR_SPREAD = 0.2
FACTOR_BOUND = 4.0
BURST_MS, VISIT_MS, DAY_MS = 20_000, 1_800_000, 86_400_000
LOG2_E = 1.4426950408889634
SHOWN_PER_EVENT = 10  # where showings are not logged

_DECIMALS = Context(prec=30)
_FRACTIONS = 1024
# 2^(j/1024): software decimals, because libm's exp2 differs between processors.
_EXP2 = np.array(
    [
        float(_DECIMALS.exp(_DECIMALS.ln(Decimal(2)) * Decimal(j) / Decimal(_FRACTIONS)))
        for j in range(_FRACTIONS + 1)
    ]
)
_MIN_SHIFT = -1074
_POW2 = np.array([math.ldexp(1.0, shift) for shift in range(_MIN_SHIFT, 1024)])


class Pool(NamedTuple):
    """Row slots shared by versions. Slot 0 is the empty row: never written, never freed."""

    refs: I32  # [slots] how many versions hold the slot
    free: I32  # [slots] stack of freed slots
    marks: I64  # [n_free, high_water]: slots from high_water on were never used


class Neighbours(NamedTuple):
    """Rows of co-visitation."""

    handle: I64  # [slots, N]
    weight: F32  # [slots, N]
    size: I32  # [slots] neighbours in use
    mass: F64  # [slots] rewards of the item itself
    inv_norm: F64  # [slots] see inverse_norm


class Decayed(NamedTuple):
    """Rows of trending, a column for each half-life: weight in units of 2^epoch half-lives."""

    weight: F64  # [slots, half-lives]
    epoch: I64  # [slots, half-lives]


class Lists(NamedTuple):
    """Rows of the heaviest items of a category."""

    handle: I64  # [slots, n] heaviest first
    size: I64  # [slots] items in use


class Versions(NamedTuple):
    """Where each version has its rows, and which rows are taken."""

    pool: Pool
    slots: I32  # [versions, items]


class Accumulator(NamedTuple):
    """A hash table in which a source adds up scores; no state survives in it.

    Of eight times the size of what one request can touch (n): it stays in the processor's caches,
    however many items there are, and hardly any two of them belong in the same place.
    """

    key: I64  # [2^b] (request << 32) | index of the item
    sum: F64  # [2^b] the item's sum
    place: I32  # [n] where in the table those are that were touched in this request
    touched: I32  # [n] their indices
    value: F64  # [n] their sums
    kept: I32  # [n] which of them `nominate_best` looks at
    work: F64  # [n]
    bins: I32  # of `promising`
    tick: I64  # [1] number of the request


class Filter(NamedTuple):
    """Which items may be candidates of a request."""

    mark: I64  # [items] request in which the item was last excluded
    hidden: U8  # [items]
    labels: I32  # [items, labels each]
    wanted: I32  # labels of which an item must have one; empty: any item will do
    clauses: F64  # [clauses, 4] what must hold besides: see `meets`
    values: F64  # what clauses name
    columns: F64  # [columns, items] attributes, NaN for a missing one


# The kinds of clause, those first that are decided fastest. (kind, column, low, high):
BETWEEN = 0  # low <= x <= high
UNLESS_UNDER, UNLESS_FROM = 1, 2  # not x > low; not x <= low: a missing value passes
ONE_OF, NONE_OF = 3, 4  # x is, or is not, in values[low:high], which are in order
HAS_ANY, HAS_ALL, HAS_NONE = 5, 6, 7  # of the labels values[low:high]
BARRED = 8  # the next `column` clauses do not all hold


# A call takes some 50 ns for each array that it is given, and a microsecond for each named tuple.
# What the kernels of every event and request need is therefore handed over as three values.


class _Lent(types.StructRef):
    """The type of a value whose arrays somebody else keeps: nothing counts who reads them."""


class _Lender(structref.StructRefProxy):
    """Such a value. Its type is asked for at every call: as an attribute that is found at once."""

    _numba_type_ = structref.StructRefProxy._type  # type: ignore[attr-defined]


@infer_getattr
class _LentFields(AttributeTemplate):
    """The types of what can be read of it."""

    key = _Lent

    def generic_resolve(self, typ: Any, attr: Any) -> Any:  # type: ignore[override]
        return typ.field_dict.get(attr)


def _data_of(target: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Return the fields of a value. The pointer to them is the fourth of the five in its memory."""
    memory = cgutils.create_struct_proxy(kind)(target, builder, value=value).meminfo
    pointers = builder.bitcast(memory, cgutils.voidptr_t.as_pointer())
    data = builder.load(cgutils.gep_inbounds(builder, pointers, 3))
    payload = kind.get_data_type()
    data = builder.bitcast(data, target.get_value_type(payload).as_pointer())
    return cgutils.create_struct_proxy(payload)(target, builder, ref=data)


@lower_getattr_generic(_Lent)
def _read_field(target: Any, builder: Any, kind: Any, value: Any, name: str) -> Any:
    return getattr(_data_of(target, builder, kind, value), name)


@lower_setattr_generic(_Lent)
def _write_field(target: Any, builder: Any, signature: Any, args: Any, name: str) -> None:
    kind, given = signature.args
    value = target.cast(builder, args[1], given, kind.field_dict[name])
    setattr(_data_of(target, builder, kind, args[0]), name, value)


@box(_Lent)
def _to_python(kind: Any, value: Any, c: Any) -> Any:
    memory = cgutils.create_struct_proxy(kind)(c.context, c.builder, value=value).meminfo
    boxed = c.box(types.MemInfoPointer(types.voidptr), memory)
    make, of = (c.pyapi.unserialize(c.pyapi.serialize_object(o)) for o in (kind.boxed, kind))
    made = c.pyapi.call_function_objargs(make, [of, boxed])
    for used in (make, of, boxed):
        c.pyapi.decref(used)
    return made


@unbox(_Lent)
def _from_python(kind: Any, proxy: Any, c: Any) -> NativeValue:
    boxed = c.pyapi.object_getattr_string(proxy, "_meminfo")
    struct = cgutils.create_struct_proxy(kind)(c.context, c.builder)
    struct.meminfo = memory = c.unbox(types.MemInfoPointer(types.voidptr), boxed).value
    c.pyapi.decref(boxed)
    if not c.context.enable_nrt:  # nobody else gives back what has just been counted
        takes = ir.FunctionType(ir.VoidType(), [memory.type])
        c.builder.call(
            cgutils.get_or_insert_function(c.builder.module, takes, "NRT_MemInfo_release"), [memory]
        )
    return NativeValue(struct._getvalue())


def _define(proxy: Any, kind: Any, fields: list[str]) -> None:
    """Let kernels, and Python, have values of a type with these fields."""
    default_manager.register(kind, models.StructRefModel)
    kind.boxed = proxy._numba_box_
    structref.define_constructor(proxy, kind, fields)


class _PersonalType(_Lent):
    """The type of `Personal`."""


class Personal(_Lender):
    """The arrays of a `History`."""


_define(
    Personal,
    _PersonalType,
    [
        *("generation", "key", "since", "labels", "inputs"),
        *("history_length", "item_bits", "n_events", "had_start", "had_count"),
        *("ring", "ring_reward", "ring_newest", "ring_marks"),
        *("past", "past_oldest", "past_newest", "past_start", "past_count", "past_marks"),
        *("kind_type", "kind_reward", "kind_bits"),
    ],
)


class _SharedType(_Lent):
    """The type of `Shared`."""


class Shared(_Lender):
    """What all versions of a `Blend` have learned, its hyper-parameters, and room to work in."""


_define(
    Shared,
    _SharedType,
    [
        *("covisit", "covisit_rows", "covisit_sums", "covisit_last"),
        *("covisit_sketch", "covisit_aged", "covisit_shrink", "covisit_limit"),
        *("sequence", "sequence_rows", "sequence_sums", "sequence_last"),
        *("sequence_sketch", "sequence_aged", "sequence_shrink", "sequence_limit", "gap_ms"),
        *("factors", "factors_rows", "vector", "gradient"),
        *("order", "order_place", "factors_counts", "factors_seed"),
        *(
            "own",
            "own_past",
            "factors_rate",
            "factors_decay",
            "n_negatives",
            "choice_rate",
            "least_share",
        ),
        *("decayed", "trending_rows", "top", "top_size", "lists", "list_rows", "half_lives_ms"),
        *("weights", "squares", "context", "combined", "combiner_rate", "taste"),
        *("rows_per_event", "slots"),
    ],
)


class _BuffersType(_Lent):
    """The type of `Buffers`."""


class Buffers(_Lender):
    """The arrays of `Candidates`."""


_define(
    Buffers,
    _BuffersType,
    [
        *("item", "raw", "features", "total", "share", "pooled"),
        *("mark", "hidden", "labels"),
        *("clauses", "values", "columns", "n_clauses"),
    ],
)


class _KindredType(_Lent):
    """The type of `Kindred`."""


class Kindred(_Lender):
    """The arrays of `Labels`: which an item has, and what goes with each; and room to work in."""


_define(
    Kindred,
    _KindredType,
    [
        *("of_item", "pool", "rows", "slots", "generation", "sums", "labels", "strengths"),
        *("key", "sketch", "aged", "shrink"),
    ],
)


class Kept(NamedTuple):
    """The last events, in a ring, so that they can be learned again: see `Window`."""

    number: I64  # [events] negative where it taught its user alone
    user: I64  # handles
    item: I64
    time_ms: I64
    reward: F32
    nth: I64  # how many its user had before
    before: I64  # which one of these was its user's last, MISS for none


class Taught(NamedTuple):
    """How much each item has taught: see `Growth`."""

    before: I64  # [items] before the last day
    today: I64
    day: I64
    first_ms: I64  # [1] when the first event taught, MISS before it


class Figures(NamedTuple):
    """How a version ranked what it was judged by: see `Prequential`."""

    counts: I64  # [judged, in the first ten, in the first twenty]
    sums: F64  # [1 / (rank + 1) and discounts of these, rewards of those in the first ten]
    recent: I64  # doubled ranks of the last ones, in a ring
    recent_reward: F64


class _BooksType(_Lent):
    """The type of `Books`."""


class Books(_Lender):
    """The arrays in which an engine notes what came: see `learn_events`."""


_define(
    Books,
    _BooksType,
    [
        *("users_older", "users_newer", "users_touched", "users_generation", "user_since"),
        *("items_older", "items_newer", "items_touched"),
        *("kept", "taught", "champion", "shadow", "anchor", "discounts"),
        *("whole", "real", "ranks", "losses", "found"),
    ],
)


@intrinsic
def _lent(context: Any, fields: Any) -> Any:
    """Return a tuple of arrays, and of tuples of them, whose uses are not counted.

    Counting is atomic, and took more time than all the rest. Whoever lends has to keep the arrays.
    """

    def generate(target: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _uncounted(target, builder, signature.return_type, args[0])

    return fields(fields), generate


def _uncounted(target: Any, builder: Any, kind: Any, value: Any) -> Any:
    if isinstance(kind, types.Array):
        array = cgutils.create_struct_proxy(kind)(target, builder, value=value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        array.parent = cgutils.get_null_value(array.parent.type)
        return array._getvalue()
    parts: Any = kind if isinstance(kind, types.BaseTuple) else ()
    for place, part in enumerate(parts):
        inner = _uncounted(target, builder, part, builder.extract_value(value, place))
        value = builder.insert_value(value, inner, place)
    return value


@intrinsic
def _ask_for_value(context: Any, values: Any, place: Any) -> Any:
    """Ask for the cache line of one of a list of values: see `_ask_for_cell`."""

    def generate(target: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _ask_for(target, builder, values, args)

    return types.void(values, types.intp), generate


@intrinsic
def _ask_for_cell(context: Any, rows: Any, row: Any, column: Any) -> Any:
    """Ask for the cache line of a place in a table, without waiting for it. Changes nothing."""

    def generate(target: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _ask_for(target, builder, rows, args)

    return types.void(rows, types.intp, types.intp), generate


def _ask_for(target: Any, builder: Any, kind: Any, args: Any) -> Any:
    array = cgutils.create_struct_proxy(kind)(target, builder, value=args[0])
    where = cgutils.get_item_pointer(target, builder, kind, array, args[1:], wraparound=False)
    where = builder.bitcast(where, cgutils.voidptr_t)
    number = ir.IntType(32)
    takes = ir.FunctionType(ir.VoidType(), [where.type, number, number, number])
    ask = builder.module.declare_intrinsic("llvm.prefetch", [where.type], takes)
    builder.call(ask, [where, number(0), number(3), number(1)])  # to read; near; data
    return target.get_dummy_value()


@intrinsic
def _in_strands(context: Any, vector: Any, rows: Any, row: Any) -> Any:
    """Multiply a vector with what is in a row behind as many numbers, and add that up in four
    strands: those at 0, 4, 8 and so on, at 1, 5, 9 ...; then (first + second) + (third + fourth).

    The processor does four at a time, in the same order. Numba's compiler would not.
    """

    def generate(target: Any, builder: Any, signature: Any, args: Any) -> Any:
        four = ir.VectorType(ir.FloatType(), 4)
        array = cgutils.create_struct_proxy(vector)(target, builder, value=args[0])
        table = cgutils.create_struct_proxy(rows)(target, builder, value=args[1])
        n = builder.extract_value(array.shape, 0)
        begin = cgutils.get_item_pointer(
            target, builder, rows, table, [args[2], n], wraparound=False
        )
        total = cgutils.alloca_once_value(builder, ir.Constant(four, [0.0] * 4))
        zero, step = target.get_constant(types.intp, 0), target.get_constant(types.intp, 4)
        with cgutils.for_range_slice(builder, zero, n, step, zero.type) as (k, _):
            ours, theirs = (
                builder.load(builder.bitcast(builder.gep(x, [k]), four.as_pointer()), align=4)
                for x in (array.data, begin)
            )
            builder.store(builder.fadd(builder.load(total), builder.fmul(ours, theirs)), total)
        whole = builder.load(total)
        one, two, three, last = (
            builder.extract_element(whole, ir.Constant(ir.IntType(32), at)) for at in range(4)
        )
        return builder.fadd(builder.fadd(one, two), builder.fadd(three, last))

    return types.float32(vector, rows, types.intp), generate


# Numba gives the context, which no type tells.
_lend: Any = _lent
_prefetch_one: Any = _ask_for_value
_prefetch: Any = _ask_for_cell
_multiply: Any = _in_strands


@njit(cache=True)
def _new_personal(fields: Any) -> Personal:
    return Personal(*_lent(fields))  # type: ignore[call-arg]  # Numba gives the context


@njit(cache=True)
def _new_shared(fields: Any) -> Shared:
    return Shared(*_lent(fields))  # type: ignore[call-arg]


@njit(cache=True)
def _new_buffers(fields: Any) -> Buffers:
    return Buffers(*_lent(fields))  # type: ignore[call-arg]


@njit(cache=True)
def _new_kindred(fields: Any) -> Kindred:
    return Kindred(*_lent(fields))  # type: ignore[call-arg]


@njit(cache=True)
def _new_books(fields: Any) -> Books:
    return Books(*_lent(fields))  # type: ignore[call-arg]


def new_personal(*fields: Any) -> Personal:
    """Return a history's arrays as one value, which keeps them."""
    return _keeping(_new_personal(fields), fields)


def new_shared(*fields: Any) -> Shared:
    """Return a blend's arrays as one value, which keeps them."""
    return _keeping(_new_shared(fields), fields)


def new_buffers(*fields: Any) -> Buffers:
    """Return the arrays of candidates as one value, which keeps them."""
    return _keeping(_new_buffers(fields), fields)


def new_kindred(*fields: Any) -> Kindred:
    """Return the arrays of labels as one value, which keeps them."""
    return _keeping(_new_kindred(fields), fields)


def new_books(*fields: Any) -> Books:
    """Return the arrays of an engine's books as one value, which keeps them."""
    return _keeping(_new_books(fields), fields)


def _keeping(value: Any, fields: tuple[Any, ...]) -> Any:
    value.fields = fields
    return value


@kernel
def is_live(handle: int, generation: I32) -> bool:
    """Tell whether a handle still names the item that it was made for."""
    return generation[handle & INDEX_MASK] == handle >> 32


# -- row pool ---------------------------------------------------------------------------------


@kernel
def own_slot(pool: Pool, slots: I32, item: int) -> tuple[int, int]:
    """Return (old slot, slot that only this version holds) for an item; the caller copies the row.

    The two are equal when nothing is to be copied. The pool must have a free slot.
    """
    old = slots[item]
    if old != 0 and pool.refs[old] == 1:
        return old, old
    if pool.marks[0] > 0:
        pool.marks[0] -= 1
        new = pool.free[pool.marks[0]]
    else:
        new = np.int32(pool.marks[1])
        pool.marks[1] += 1
    if old != 0:
        pool.refs[old] -= 1
    pool.refs[new] = 1
    slots[item] = new
    return old, new


@kernel
def release_slot(pool: Pool, slot: int) -> None:
    """Drop one reference; a slot that nobody holds goes to the free stack."""
    if slot == 0:
        return
    pool.refs[slot] -= 1
    if pool.refs[slot] == 0:
        pool.free[pool.marks[0]] = slot
        pool.marks[0] += 1


@kernel
def assign_slots(pool: Pool, target: I32, source: I32, n_items: int) -> int:
    """Make one version hold what another holds; return how many rows differed."""
    n_changed = 0
    for item in range(n_items):
        n_changed += _assign_slot(pool, target, source, item)
    return n_changed


@kernel
def _assign_slot(pool: Pool, target: I32, source: I32, item: int) -> bool:
    """Do so for an item; tell whether its row differed."""
    old, new = target[item], source[item]
    if old == new:
        return False
    target[item] = new
    if new != 0:
        pool.refs[new] += 1
    release_slot(pool, old)
    return True


@njit(nogil=True, **_UNCOUNTED)
def pack_rows(rows: Any, size: Any, packed: Any) -> None:
    """Write the first size[i] values of each row i one after the other into `packed`."""
    place = 0
    for row in range(len(size)):
        for j in range(size[row]):
            packed[place] = rows[row, j]
            place += 1


@njit(nogil=True, **_UNCOUNTED)
def unpack_rows(packed: Any, size: Any, rows: Any) -> None:
    """Undo `pack_rows`."""
    place = 0
    for row in range(len(size)):
        for j in range(size[row]):
            rows[row, j] = packed[place]
            place += 1


# -- personal state ---------------------------------------------------------------------------


@kernel
def whole(number: Any) -> Any:
    """Return a number of few bits as one to reckon with, of 64."""
    return np.int64(number)


@kernel
def cell_of(item: int, generation: I32, item_bits: int) -> Any:
    """Return what stands in a cell for a live item: its number, from 1 on, and the low bits of its
    generation.
    """
    return ((whole(generation[item]) << item_bits) | (item + 1)) & CELL_MASK


@kernel
def item_of(cell: Any, generation: I32, item_bits: int) -> int:
    """Return the index of a cell's item, or MISS if that is gone."""
    item = (whole(cell) & ((1 << item_bits) - 1)) - 1
    if 0 <= item < len(generation) and cell_of(item, generation, item_bits) == cell:
        return item
    return MISS


@kernel
def width_of(rows: U32) -> int:
    """Return how many cells a row has."""
    return (rows.shape[1] - 1) // 3


@kernel
def time_of(rows: U32, row: int, at: int, width: int) -> int:
    """Return the time of a cell, in ms: 48 bits, which is beyond the year 9999."""
    high = whole(rows[row, 1 + 2 * width + at]) >> 16
    return (high << 32) | whole(rows[row, 1 + width + at])


@kernel
def low_of(rows: U32, row: int, at: int, width: int) -> int:
    """Return what is left of a cell: kind and `is_first` of an event, the type of an item."""
    return whole(rows[row, 1 + 2 * width + at]) & 0xFFFF


@kernel
def write_cell(rows: U32, row: int, at: int, width: int, cell: int, time_ms: int, low: int) -> None:
    """Write a cell."""
    rows[row, 1 + at] = cell
    rows[row, 1 + width + at] = time_ms & CELL_MASK
    rows[row, 1 + 2 * width + at] = (time_ms >> 32) << 16 | low


@kernel
def take_row(rows: U32, marks: I64) -> int:
    """Return a row that nobody has: one that was given back, or the next of those never used."""
    row = marks[0]
    if row != 0:
        marks[0] = rows[row, 0]
        rows[row, 0] = 0
        return row
    marks[1] += 1
    return marks[1] - 1


@kernel
def give_row(rows: U32, marks: I64, row: int) -> int:
    """Give a row back with nothing left in it; return the one that followed it."""
    following = whole(rows[row, 0])
    rows[row] = 0
    rows[row, 0] = marks[0]
    marks[0] = row
    return following


@kernel
def kind_of(personal: Any, type_index: int, reward: float) -> int:
    """Return the number of a type and a reward; over KINDS, where the reward needs its own place.

    Rewards are few: those of the settings, and one for each low rating. Pairs keep their numbers.
    """
    rewards, bits, types_ = personal.kind_reward, personal.kind_bits, personal.kind_type
    rewards[KINDS] = reward
    wanted = bits[KINDS]
    home = ((whole(wanted) * 2_654_435_761 + type_index * 40_503_001) & CELL_MASK) >> 18
    for probe in range(8):
        kind = (home + probe) & (KINDS - 1)
        if types_[kind] == 0:
            types_[kind] = type_index + 1
            rewards[kind] = reward
            return kind
        if types_[kind] == type_index + 1 and bits[kind] == wanted:
            return kind
    return KINDS + type_index


@kernel
def type_of(personal: Any, low: int) -> int:
    """Return the index of an event's type."""
    kind = low >> 1
    return whole(personal.kind_type[kind]) - 1 if kind < KINDS else kind - KINDS


@kernel
def reward_of(personal: Any, own: F32, row: int, at: int, low: int) -> Any:
    """Return the reward of an event."""
    kind = low >> 1
    return personal.kind_reward[kind] if kind < KINDS else own[row, at]


@kernel
def previous(rows: U32, row: int, at: int, width: int) -> tuple[int, int]:
    """Return where the event before one is."""
    if at > 0:
        return row, at - 1
    return whole(rows[row, 0]), width - 1


@kernel
def newest_event(personal: Any, user: int) -> tuple[int, int]:
    """Return where a user's last event is; the first in a row has a multiple of CHUNK as number."""
    return whole(personal.ring_newest[user]), (personal.n_events[user] - 1) % CHUNK


@kernel
def ring_write(personal: Any, user: int, cell: int, time_ms: int, reward: float) -> None:
    """Write a user's next event, over the one that is too old for the ring by now."""
    ring, number, length = personal.ring, personal.n_events[user], personal.history_length
    row, at = whole(personal.ring_newest[user]), number % CHUNK
    if row == 0 or at == 0:
        row = ring_grow(ring, personal.ring_marks, row, number, length)
        personal.ring_newest[user] = row
    write_cell(ring, row, at, CHUNK, cell, time_ms, 0)
    write_kind(personal, row, at, reward, 0, False)
    personal.n_events[user] = number + 1


@kernel
def ring_grow(ring: U32, marks: I64, newest: int, number: int, length: int) -> int:
    """Return another row for the event of a number; give back one that is too old, if there is."""
    first = row = take_row(ring, marks)
    ring[row, 0] = newest
    if number >= length:
        for _ in range(number // CHUNK - (number - length + 1) // CHUNK):
            row = whole(ring[row, 0])
        unused = whole(ring[row, 0])
        ring[row, 0] = 0
        if unused != 0:
            give_row(ring, marks, unused)
    return first


@kernel
def write_kind(
    personal: Any, row: int, at: int, reward: float, type_index: int, is_first: bool
) -> None:
    """Write an event's reward; if it stands for its item in the had-set, say so, and of which type
    the last event on that was. The others have type 0: who loads a ring need not know more.
    """
    kind, where = kind_of(personal, type_index, reward), 1 + 2 * CHUNK + at
    high = whole(personal.ring[row, where]) >> 16 << 16
    personal.ring[row, where] = high | kind << 1 | is_first
    if kind >= KINDS:
        personal.ring_reward[row, at] = reward


@kernel
def set_first(personal: Any, row: int, at: int, type_index: int, is_first: bool) -> None:
    """Say whether an event of a ring stands for its item in the had-set (see `write_kind`)."""
    low = low_of(personal.ring, row, at, CHUNK)
    reward = reward_of(personal, personal.ring_reward, row, at, low)
    write_kind(personal, row, at, reward, type_index, is_first)


@kernel
def ring_event(personal: Any, user: int, back: int) -> tuple[int, int]:
    """Return where the event is that so many came after."""
    row, at = newest_event(personal, user)
    at -= back
    while at < 0:
        row = whole(personal.ring[row, 0])
        at += CHUNK
    return row, at


@kernel
def last_on(personal: Any, user: int, cell: int) -> tuple[int, int]:
    """Return where the user's last event on an item is; row 0: not in the ring."""
    row, at = newest_event(personal, user)
    for _ in range(min(personal.n_events[user], personal.history_length)):
        if personal.ring[row, 1 + at] == cell:
            return row, at
        row, at = previous(personal.ring, row, at, CHUNK)
    return 0, 0


@kernel
def last_like(personal: Any, user: int, row: int, at: int) -> tuple[int, int]:
    """Return where the last event is on the item that an event of the ring stands for."""
    n_first = whole(personal.had_count[user]) - whole(personal.past_count[user])
    if n_first == min(personal.n_events[user], personal.history_length):
        return row, at  # each event stands for an item of its own
    return last_on(personal, user, whole(personal.ring[row, 1 + at]))


@kernel
def ring_leave(personal: Any, user: int) -> None:
    """Keep apart what the user's oldest event stands for: the next one takes its place."""
    ring = personal.ring
    row, at = ring_event(personal, user, personal.history_length - 1)
    low = low_of(ring, row, at, CHUNK)
    if low & 1:
        cell = whole(ring[row, 1 + at])
        row, at = last_like(personal, user, row, at)
        cell = cell_or_gone(personal, item_of(cell, personal.generation, personal.item_bits))
        past_push(personal, user, cell, time_of(ring, row, at, CHUNK), type_of(personal, low))


@kernel
def past_push(personal: Any, user: int, cell: int, time_ms: int, type_index: int) -> None:
    """Add an item to those that a user had, and whose first event is in the ring no more."""
    past = personal.past
    end = whole(personal.past_start[user]) + whole(personal.past_count[user])
    at = end % BLOCK
    if at == 0:
        row = take_row(past, personal.past_marks)
        if end == 0:
            personal.past_oldest[user] = row
        else:
            past[personal.past_newest[user], 0] = row
        personal.past_newest[user] = row
    write_cell(past, personal.past_newest[user], at, BLOCK, cell, time_ms, type_index)
    personal.past_count[user] += 1


@kernel
def had_drop(personal: Any, user: int) -> None:
    """Forget the item that a user had first."""
    if personal.past_count[user] > 0:
        personal.past_count[user] -= 1
        personal.past_start[user] += 1
        if personal.past_start[user] == BLOCK or personal.past_count[user] == 0:
            row, marks = whole(personal.past_oldest[user]), personal.past_marks
            personal.past_oldest[user] = give_row(personal.past, marks, row)
            personal.past_start[user] = 0
        return
    for back in range(min(personal.n_events[user], personal.history_length) - 1, -1, -1):
        row, at = ring_event(personal, user, back)
        if low_of(personal.ring, row, at, CHUNK) & 1:
            set_first(personal, row, at, 0, False)
            return


@kernel
def personal_clear(personal: Any, user: int) -> None:
    """Give back all that a user has, with nothing left in it that tells whose it was."""
    row = whole(personal.ring_newest[user])
    while row != 0:
        row = give_row(personal.ring, personal.ring_marks, row)
    row = whole(personal.past_oldest[user])
    while row != 0:
        row = give_row(personal.past, personal.past_marks, row)
    personal.ring_newest[user] = personal.past_oldest[user] = personal.past_newest[user] = 0
    personal.past_start[user] = personal.past_count[user] = 0
    personal.n_events[user] = personal.had_start[user] = personal.had_count[user] = 0


@kernel
def profile_of(
    personal: Any,
    ring: U32,
    own: F32,
    row: int,
    at: int,
    n_events: int,
    items: I32,
    weights: F64,
    times: I64,
    refused: I32,
) -> tuple[int, int]:
    """Write the last positive items (newest first), weights 1/recency rank, and times; and the last
    refused ones, but for those had again since. Return how many of each.

    Of so many events, the last of which is at `row` and `at`.
    """
    n = n_refused = 0
    width, generation, item_bits = width_of(ring), personal.generation, personal.item_bits
    for _ in range(n_events):
        item = item_of(ring[row, 1 + at], generation, item_bits)
        low = low_of(ring, row, at, width)
        reward = reward_of(personal, own, row, at, low)
        if item == MISS:
            pass
        elif reward > 0.0 and n < len(items):
            items[n] = item
            weights[n] = 1.0 / (n + 1)
            times[n] = time_of(ring, row, at, width)
            n += 1
        elif reward < 0.0 and n_refused < len(refused):
            is_forgiven = False
            for newer in range(n):
                is_forgiven = is_forgiven or items[newer] == item
            if not is_forgiven:
                refused[n_refused] = item
                n_refused += 1
        row, at = previous(ring, row, at, width)
    return n, n_refused


@kernel
def user_profile(
    personal: Any, user: int, items: I32, weights: F64, times: I64, refused: I32
) -> tuple[int, int]:
    """Write the profile that a user has now."""
    row, at = newest_event(personal, user)
    n_events = min(personal.n_events[user], personal.history_length)
    ring, own = personal.ring, personal.ring_reward
    return profile_of(personal, ring, own, row, at, n_events, items, weights, times, refused)


@njit(cache=True)
def profile_before(
    seq: int,
    oldest: int,
    capacity: int,
    nth: I64,
    before: I64,
    window_items: I64,
    window_rewards: F32,
    window_times: I64,
    personal: Any,
    user: int,
    items: I32,
    weights: F64,
    times: I64,
    refused: I32,
) -> tuple[int, int]:
    """Write the profile that a user had before an event of the window (see `profile_of`).

    The events before it come from the window, linked by `before`; those that have left it, or
    never taught, from the ring, as far as that goes back.
    """
    length, n_events = personal.history_length, personal.n_events[user]
    cells, own = np.zeros((1, 1 + 3 * length), np.uint32), np.zeros((1, length), np.float32)
    row, at = newest_event(personal, user)
    known = n_events - 1  # the number of what is there
    wanted = nth[seq % capacity]
    link = before[seq % capacity]
    found = 0
    for back in range(min(wanted, length)):
        number, place = wanted - 1 - back, length - 1 - back
        while link >= oldest and nth[link % capacity] > number:
            link = before[link % capacity]
        if link >= oldest and nth[link % capacity] == number:
            from_window = link % capacity
            handle, cell = window_items[from_window], GONE
            if is_live(handle, personal.generation):
                index = handle & INDEX_MASK
                cell = cell_of(index, personal.generation, personal.item_bits)
            own[0, place] = window_rewards[from_window]
            time_ms = window_times[from_window]
        elif number >= n_events - length:
            while known > number:
                row, at = previous(personal.ring, row, at, CHUNK)
                known -= 1
            cell = whole(personal.ring[row, 1 + at])
            low = low_of(personal.ring, row, at, CHUNK)
            own[0, place] = reward_of(personal, personal.ring_reward, row, at, low)
            time_ms = time_of(personal.ring, row, at, CHUNK)
        else:
            break
        write_cell(cells, 0, place, length, cell, time_ms, KINDS << 1)
        found += 1
    return profile_of(personal, cells, own, 0, length - 1, found, items, weights, times, refused)


@kernel
def past_place(personal: Any, user: int, cell: int) -> tuple[int, int]:
    """Return where an item is among those whose first event has left the ring; row 0: nowhere."""
    row, at = oldest_past(personal, user)
    for _ in range(personal.past_count[user]):
        if personal.past[row, 1 + at] == cell:
            return row, at
        row, at = next_past(personal.past, row, at)
    return 0, 0


@kernel
def first_on(personal: Any, user: int, cell: int) -> tuple[int, int]:
    """Return where the event is that stands for an item in the had-set; row 0: not in the ring."""
    row, at = newest_event(personal, user)
    for _ in range(min(personal.n_events[user], personal.history_length)):
        if personal.ring[row, 1 + at] == cell and low_of(personal.ring, row, at, CHUNK) & 1:
            return row, at
        row, at = previous(personal.ring, row, at, CHUNK)
    return 0, 0


@kernel
def had_type(personal: Any, user: int, cell: int) -> int:
    """Return the type of the last event on an item that a user had, or MISS if they had it not."""
    row, at = first_on(personal, user, cell)
    if row != 0:
        return type_of(personal, low_of(personal.ring, row, at, CHUNK))
    row, at = past_place(personal, user, cell)
    return low_of(personal.past, row, at, BLOCK) if row != 0 else MISS


@kernel
def has_had(personal: Any, user: int, item: int) -> bool:
    """Tell whether an item is in a user's had-set (both by index)."""
    return had_type(personal, user, cell_of(item, personal.generation, personal.item_bits)) != MISS


@kernel
def is_repeat(personal: Any, user: int, item: int, type_index: int, reward: float) -> bool:
    """Tell whether a user's last event on an item was of the same type, and said the same.

    Once it has left the ring, an event that may go either way is taken for another.
    """
    cell = cell_of(item, personal.generation, personal.item_bits)
    if had_type(personal, user, cell) != type_index:
        return False
    row, at = last_on(personal, user, cell)
    if row == 0:
        return reward > 0.0
    low = low_of(personal.ring, row, at, CHUNK)
    return (reward_of(personal, personal.ring_reward, row, at, low) > 0.0) == (reward > 0.0)


@kernel
def append_event(
    personal: Any,
    user: int,
    item: int,
    time_ms: int,
    reward: float,
    type_index: int,
    had_length: int,
) -> bool:
    """Write an event into a user's ring and, if there is room at hand, its item into the had-set.

    Return whether there was: else the oldest has to go, or room to be made (see `had_add`).
    """
    cell = cell_of(item, personal.generation, personal.item_bits)
    if personal.n_events[user] >= personal.history_length:
        ring_leave(personal, user)
    ring_write(personal, user, cell, time_ms, reward)
    if personal.since[item] == NO_EVENT:
        personal.since[item] = time_ms
    row, at = first_on(personal, user, cell)
    if row != 0:
        set_first(personal, row, at, type_index, True)
        return True
    row, at = past_place(personal, user, cell)
    if row != 0:
        write_cell(personal.past, row, at, BLOCK, cell, time_ms, type_index)
        return True
    if personal.had_count[user] >= had_length or needs_room(personal, user):
        return False
    had_add(personal, user, type_index)
    return True


@kernel
def needs_room(personal: Any, user: int) -> bool:
    """Tell whether one more item takes another place of the pool, each for ROOM of them."""
    count = whole(personal.had_count[user])
    return count == 0 or (whole(personal.had_start[user]) + count) % ROOM == 0


@kernel
def had_add(personal: Any, user: int, type_index: int) -> None:
    """Let a user's last event stand for its item in the had-set."""
    row, at = newest_event(personal, user)
    set_first(personal, row, at, type_index, True)
    personal.had_count[user] += 1


@kernel
def next_past(past: U32, row: int, at: int) -> tuple[int, int]:
    """Return where the item after one is, of those that have left the ring."""
    if at + 1 < BLOCK:
        return row, at + 1
    return whole(past[row, 0]), 0


@kernel
def oldest_past(personal: Any, user: int) -> tuple[int, int]:
    """Return where the first item is of those that have left the ring."""
    return whole(personal.past_oldest[user]), whole(personal.past_start[user])


@kernel
def first_from(ring: U32, row: int, at: int) -> tuple[int, int]:
    """Return where the last event is, from one on backwards, that stands for its item."""
    while not low_of(ring, row, at, CHUNK) & 1:
        row, at = previous(ring, row, at, CHUNK)
    return row, at


@kernel
def mark_had(personal: Any, user: int, n_had: int, mark: I64, tick: int) -> None:
    """Exclude every live item among the first of a user's had-set from the request `tick`."""
    ring, past, generation = personal.ring, personal.past, personal.generation
    n_past = whole(personal.past_count[user])
    row, at = oldest_past(personal, user)
    for _ in range(min(n_past, n_had)):
        item = item_of(past[row, 1 + at], generation, personal.item_bits)
        if item != MISS:
            mark[item] = tick
        row, at = next_past(past, row, at)
    row, at = newest_event(personal, user)
    for number in range(whole(personal.had_count[user]) - 1, n_past - 1, -1):
        row, at = first_from(ring, row, at)
        item = item_of(ring[row, 1 + at], generation, personal.item_bits)
        if item != MISS and number < n_had:
            mark[item] = tick
        row, at = previous(ring, row, at, CHUNK)


@kernel
def mark_kept(
    personal: Any, user: int, n_had: int, mark: I64, tick: int, returns_ms: I64, now_ms: int
) -> None:
    """Exclude the first items of a user's had-set like `mark_had`, but for what may be shown again.

    That is what lies back over `returns_ms` of its type; never, for a type that has none.
    """
    if len(returns_ms) == 0:
        mark_had(personal, user, n_had, mark, tick)
        return
    ring, past, generation = personal.ring, personal.past, personal.generation
    n_past = whole(personal.past_count[user])
    row, at = oldest_past(personal, user)
    for _ in range(min(n_past, n_had)):
        item = item_of(past[row, 1 + at], generation, personal.item_bits)
        kind, time_ms = low_of(past, row, at, BLOCK), time_of(past, row, at, BLOCK)
        if item != MISS and is_kept(returns_ms, kind, now_ms - time_ms):
            mark[item] = tick
        row, at = next_past(past, row, at)
    row, at = newest_event(personal, user)
    for number in range(whole(personal.had_count[user]) - 1, n_past - 1, -1):
        row, at = first_from(ring, row, at)
        item = item_of(ring[row, 1 + at], generation, personal.item_bits)
        if item != MISS and number < n_had:
            last = last_like(personal, user, row, at)
            kind = type_of(personal, low_of(ring, row, at, CHUNK))
            if is_kept(returns_ms, kind, now_ms - time_of(ring, last[0], last[1], CHUNK)):
                mark[item] = tick
        row, at = previous(ring, row, at, CHUNK)


@kernel
def is_kept(returns_ms: I64, kind: int, age_ms: int) -> bool:
    """Tell whether an item is not to be shown again yet, so long after an event of a type."""
    wait_ms = returns_ms[kind] if kind < len(returns_ms) else MISS
    return wait_ms == MISS or age_ms <= wait_ms


@kernel
def meet_user(
    personal: Any,
    user: int,
    exclude_had: bool,
    returns_ms: I64,
    now_ms: int,
    mark: I64,
    tick: int,
    items: I32,
    weights: F64,
    times: I64,
    refused: I32,
) -> tuple[int, int]:
    """Write the profile that a user has now, and exclude what they refused, and what they had, like
    `mark_kept`, if that is wanted. Return what `user_profile` does.
    """
    n, n_refused = user_profile(personal, user, items, weights, times, refused)
    if exclude_had:
        mark_kept(personal, user, personal.had_count[user], mark, tick, returns_ms, now_ms)
    for r in range(n_refused):
        mark[refused[r]] = tick
    return n, n_refused


# -- personal state, to be read and written as lists ---------------------------------------------
# Oldest first; an item that is gone is MISS.


@kernel
def read_ring(
    personal: Any,
    ring: U32,
    own: F32,
    row: int,
    at: int,
    start: int,
    end: int,
    items: I32,
    times: I64,
    rewards: F32,
) -> None:
    """Write the events of a ring, the last of which is at `row` and `at`, between two places."""
    width = width_of(ring)
    for n in range(end - 1, start - 1, -1):
        items[n] = item_of(ring[row, 1 + at], personal.generation, personal.item_bits)
        times[n] = time_of(ring, row, at, width)
        rewards[n] = reward_of(personal, own, row, at, low_of(ring, row, at, width))
        row, at = previous(ring, row, at, width)


@kernel
def read_had(personal: Any, user: int, start: int, items: I32, times: I64, kinds: U16) -> None:
    """Write a user's had-set from a place on; times and types are those of the last events."""
    ring, past, n_past = personal.ring, personal.past, whole(personal.past_count[user])
    row, at = oldest_past(personal, user)
    for n in range(start, start + n_past):
        items[n] = item_of(past[row, 1 + at], personal.generation, personal.item_bits)
        times[n], kinds[n] = time_of(past, row, at, BLOCK), low_of(past, row, at, BLOCK)
        row, at = next_past(past, row, at)
    row, at = newest_event(personal, user)
    end = start + whole(personal.had_count[user])
    for n in range(end - 1, start + n_past - 1, -1):
        row, at = first_from(ring, row, at)
        last = last_like(personal, user, row, at)
        items[n] = item_of(ring[row, 1 + at], personal.generation, personal.item_bits)
        times[n] = time_of(ring, last[0], last[1], CHUNK)
        kinds[n] = type_of(personal, low_of(ring, row, at, CHUNK))
        row, at = previous(ring, row, at, CHUNK)
    for n in range(start, end):
        if items[n] == MISS:
            times[n] = kinds[n] = 0


@njit(nogil=True, **_UNCOUNTED)
def pack_rings(
    personal: Any,
    ring: U32,
    own: F32,
    newest: I32,
    n_events: I64,
    first: int,
    sizes: Any,
    items: I32,
    times: I64,
    rewards: F32,
) -> None:
    """Write the rings of some users from `first` on, one after the other."""
    n, width = 0, width_of(ring)
    for i in range(len(sizes)):
        row, at = whole(newest[first + i]), (n_events[first + i] - 1) % width
        read_ring(personal, ring, own, row, at, n, n + sizes[i], items, times, rewards)
        n += sizes[i]


@njit(nogil=True, **_UNCOUNTED)
def pack_had(personal: Any, first: int, n_users: int, items: I32, times: I64, kinds: U16) -> None:
    """Write the had-sets of some users from `first` on, one after the other."""
    n = 0
    for user in range(first, first + n_users):
        read_had(personal, user, n, items, times, kinds)
        n += whole(personal.had_count[user])


@kernel
def cell_or_gone(personal: Any, item: int) -> int:
    """Return what stands in a cell for an item, which may be MISS."""
    return GONE if item == MISS else cell_of(item, personal.generation, personal.item_bits)


@njit(cache=True, nogil=True)
def write_user(
    personal: Any,
    user: int,
    ring: Any,
    start: int,
    end: int,
    had: Any,
    had_start: int,
    had_end: int,
) -> None:
    """Write a user's ring and had-set from lists; they have nothing yet but a number of events.

    As much of the had-set's end as possible is left to events of the ring that stand for it: in
    the same order, and if the last event on each item has its time.
    """
    items, times, rewards = ring
    had_items, had_times, had_kinds = had
    personal.n_events[user] -= end - start
    for n in range(start, end):
        ring_write(personal, user, cell_or_gone(personal, items[n]), times[n], rewards[n])
    n_past, last = had_end, end
    while n_past > had_start:
        item = had_items[n_past - 1]
        place = place_before(items, start, last, item)
        newest = place_before(items, start, end, item)
        if place == MISS or times[newest] != had_times[n_past - 1]:
            break
        row, at = ring_event(personal, user, end - 1 - place)
        set_first(personal, row, at, whole(had_kinds[n_past - 1]), True)
        n_past, last = n_past - 1, place
    for n in range(had_start, n_past):
        cell = cell_or_gone(personal, had_items[n])
        past_push(personal, user, cell, had_times[n], whole(had_kinds[n]))
    personal.had_count[user] = had_end - had_start


@kernel
def place_before(items: I32, start: int, end: int, item: int) -> int:
    """Return the last place of an item between two places, or MISS."""
    for place in range(end - 1, start - 1, -1):
        if items[place] == item:
            return place
    return MISS


@njit(cache=True, nogil=True)
def unpack_users(personal: Any, sizes: I64, ring: Any, had_sizes: I64, had: Any) -> None:
    """Write rings and had-sets that were packed, of users from the first on."""
    n = m = 0
    for user in range(len(sizes)):
        end, had_end = n + sizes[user], m + had_sizes[user]
        write_user(personal, user, ring, n, end, had, m, had_end)
        n, m = end, had_end


@njit(cache=True, nogil=True)
def unpack_rows_of_cells(
    personal: Any,
    rows: U32,
    own: F32,
    n_events: I64,
    sizes: I64,
    items: I32,
    times: I64,
    rewards: F32,
) -> None:
    """Write rings that were packed into a table that has a row for each user (see `copy_ring`)."""
    n, width = 0, width_of(rows)
    for user in range(len(sizes)):
        rows[user, 0] = user
        for number in range(n_events[user] - sizes[user], n_events[user]):
            at, cell = number % width, cell_or_gone(personal, items[n])
            kind = kind_of(personal, 0, rewards[n])
            write_cell(rows, user, at, width, cell, times[n], kind << 1)
            if kind >= KINDS:
                own[user, at] = rewards[n]
            n += 1


@njit(cache=True)
def copy_ring(personal: Any, user: int, rows: U32, own: F32) -> None:
    """Copy a user's ring into their row of a table that has one for each user, linked to itself."""
    width = width_of(rows)
    rows[user, 0] = user
    row, at = newest_event(personal, user)
    n_events = personal.n_events[user]
    for number in range(n_events - 1, max(n_events - personal.history_length, 0) - 1, -1):
        to = number % width
        item = item_of(personal.ring[row, 1 + at], personal.generation, personal.item_bits)
        rows[user, 1 + to] = cell_or_gone(personal, item)
        for part in range(1, 3):
            rows[user, 1 + part * width + to] = personal.ring[row, 1 + part * CHUNK + at]
        if low_of(rows, user, to, width) >> 1 >= KINDS:
            own[user, to] = personal.ring_reward[row, at]
        row, at = previous(personal.ring, row, at, CHUNK)


@njit(cache=True, nogil=True)
def forget_gone(rows: U32, generation: I32, item_bits: int) -> None:
    """Let cells say GONE whose item is: generations that look like theirs are to come."""
    width = width_of(rows)
    for row in range(len(rows)):
        for at in range(width):
            cell = rows[row, 1 + at]
            if cell != 0 and item_of(cell, generation, item_bits) == MISS:
                rows[row, 1 + at] = GONE


# -- conditions -------------------------------------------------------------------------------


@kernel
def meets(clauses: F64, values: F64, columns: F64, labels: I32, item: int) -> bool:
    """Tell whether all clauses hold of an item."""
    c = 0
    while c < len(clauses):
        if clauses[c, 0] == BARRED:
            n = int(clauses[c, 1])
            if _all_hold(clauses, c + 1, n, values, columns, labels, item):
                return False
            c += n + 1
        elif _holds(clauses, c, values, columns, labels, item):
            c += 1
        else:
            return False
    return True


@kernel
def _all_hold(
    clauses: F64, first: int, n: int, values: F64, columns: F64, labels: I32, item: int
) -> bool:
    """Tell whether n clauses, none of them BARRED, hold of an item."""
    for c in range(first, first + n):
        if not _holds(clauses, c, values, columns, labels, item):
            return False
    return True


# Numbers go in here rather than parts of arrays, whose uses would be counted.
@kernel
def _holds(clauses: F64, c: int, values: F64, columns: F64, labels: I32, item: int) -> bool:
    kind, low, high = clauses[c, 0], clauses[c, 2], clauses[c, 3]
    if kind >= HAS_ANY:
        n_common = _n_common(labels, item, values, int(low), int(high))
        if kind == HAS_ALL:
            return n_common == int(high) - int(low)
        return (n_common > 0) == (kind == HAS_ANY)
    x = columns[int(clauses[c, 1]), item]
    if kind == BETWEEN:
        return low <= x <= high
    if kind == UNLESS_UNDER:
        return not x > low
    if kind == UNLESS_FROM:
        return not x <= low
    return _is_among(x, values, int(low), int(high)) == (kind == ONE_OF)


@kernel
def _n_common(labels: I32, item: int, values: F64, start: int, stop: int) -> int:
    """Return how many of some labels an item has; its own end with the first 0."""
    n = 0
    for j in range(labels.shape[1]):
        if labels[item, j] == 0:
            break
        for w in range(start, stop):
            n += labels[item, j] == values[w]
    return n


@kernel
def _is_among(x: float, values: F64, start: int, stop: int) -> bool:
    """Tell whether a value is among some that are in order; NaN never is."""
    low, high = start, stop
    while low < high:
        middle = (low + high) // 2
        if values[middle] < x:
            low = middle + 1
        else:
            high = middle
    return low < stop and values[low] == x


@njit(cache=True)
def meet(clauses: F64, values: F64, columns: F64, labels: I32, items: I32, out: U8) -> None:
    """Write for each item whether all clauses hold of it."""
    lent = _lend((clauses, values, columns, labels, items, out))
    for i in range(len(items)):
        lent[5][i] = meets(lent[0], lent[1], lent[2], lent[3], lent[4][i])


@kernel
def follow_links(after: I32, first: int, found: I32) -> None:
    """Write the items of a linked list; links are indices + 1."""
    following = first
    for place in range(len(found)):
        found[place] = following - 1
        following = after[following - 1]


@njit(cache=True)
def meet_each(clauses: F64, values: F64, ends: I64, columns: F64, labels: I32, items: I32) -> U8:
    """Return for several conditions ([conditions, items]) whether all their clauses hold.

    Those of condition i are clauses[ends[i - 1]:ends[i]], none of them BARRED.
    """
    n = len(items)
    met, first = np.ones((len(ends), n), np.uint8), 0
    for i in range(len(ends)):
        for c in range(first, ends[i]):
            if clauses[c, 0] == BETWEEN:  # the most common, and compared fastest by itself
                row, low, high = int(clauses[c, 1]), clauses[c, 2], clauses[c, 3]
                for at in range(n):
                    x = columns[row, items[at]]
                    met[i, at] &= (low <= x) & (x <= high)
            else:
                for at in range(n):
                    if met[i, at]:
                        met[i, at] = _holds(clauses, c, values, columns, labels, items[at])
        first = ends[i]
    return met


SIEVED = 4_096  # items that are looked at together: their marks stay in the processor's caches


@kernel
def _compare(column: F64, low: float, high: float, mask: U8) -> None:
    """Clear the marks of the values that are not within bounds."""
    for i in range(len(column)):
        x = column[i]
        mask[i] &= np.uint8((low <= x) & (x <= high))


@kernel
def sieve(
    clauses: F64, values: F64, columns: F64, labels: I32, first: int, n: int, mask: U8
) -> None:
    """Write for each of the n items from `first` on whether all clauses hold of it.

    A clause at a time, so that the most common kind is compared many items at once.
    """
    mask[:n] = 1
    c = 0
    while c < len(clauses):
        if clauses[c, 0] == BARRED:
            barring = int(clauses[c, 1])
            for i in range(n):
                if mask[i]:
                    mask[i] = not _all_hold(
                        clauses, c + 1, barring, values, columns, labels, first + i
                    )
            c += barring + 1
            continue
        if clauses[c, 0] == BETWEEN:
            column, low, high = columns[int(clauses[c, 1])], clauses[c, 2], clauses[c, 3]
            _compare(column[first : first + n], low, high, mask)
        else:
            for i in range(n):
                if mask[i]:
                    mask[i] = _holds(clauses, c, values, columns, labels, first + i)
        c += 1


@njit(cache=True)
def select_items(
    clauses: F64, values: F64, columns: F64, labels: I32, key: U64, n_items: int
) -> I32:
    """Return the live items of which all clauses hold, in the order of their indices."""
    found, n, mask = np.empty(n_items, np.int32), 0, np.empty(SIEVED, np.uint8)
    lent = _lend((clauses, values, columns, labels, mask))
    for first in range(0, n_items, SIEVED):
        size = min(SIEVED, n_items - first)
        sieve(lent[0], lent[1], lent[2], lent[3], first, size, lent[4])
        for i in range(size):
            if mask[i] and key[first + i]:
                found[n] = first + i
                n += 1
    return found[:n].copy()


# -- candidates -------------------------------------------------------------------------------


@kernel
def is_eligible(allowed: Filter, tick: int, item: int) -> bool:
    """Tell whether an item may be a candidate of the request `tick`."""
    is_shown = (allowed.hidden[item] == 0) & (allowed.mark[item] != tick)
    # Most requests have no conditions: handing all this on would cost more than all else.
    if len(allowed.clauses) == 0 and len(allowed.wanted) == 0:
        return is_shown
    return is_shown and _fits(allowed, item)


@kernel
def _fits(allowed: Filter, item: int) -> bool:
    """Tell whether an item meets the conditions of a request."""
    if not meets(allowed.clauses, allowed.values, allowed.columns, allowed.labels, item):
        return False
    if len(allowed.wanted) == 0:
        return True
    for j in range(allowed.labels.shape[1]):
        for w in range(len(allowed.wanted)):
            if allowed.labels[item, j] == allowed.wanted[w]:
                return True
    return False


@kernel
def nth_largest(values: F64, n: int, nth: int) -> float:
    """Return the nth largest (1 is the largest) of the first n values, which are reordered."""
    low, high, place = 0, n - 1, nth - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if place <= j:
            high = j
        elif place >= i:
            low = i
        else:
            break
    return values[place]


@kernel
def promising(value: F64, n: int, wanted: int, count: I32, sampled_from: int) -> float:
    """Return a bound that about `wanted` of the first n values reach, or 0.

    Finds it in one pass by counting in bins, eight to an octave below about the largest. From
    `sampled_from` values on it looks at every fourth.
    """
    count[:] = 0
    bits = value.view(np.int64)  # of positive floats, in their order
    step = 4 if n >= sampled_from else 1
    largest = np.int64(0)
    for c in range(0, n, step):  # near enough: what is larger still goes into the first bin
        largest = max(largest, bits[c])
    for c in range(0, n, step):
        if value[c] > 0.0:
            count[max(0, min((largest - bits[c]) >> BIN_SHIFT, len(count) - 1))] += step
    n_found = 0
    for b in range(len(count) - 1):
        n_found += count[b]
        if n_found >= wanted:
            edge = largest - (np.int64(b + 1) << BIN_SHIFT) + 1  # the least that goes into it
            return _float_of(edge, count) if edge > 0 else 0.0
    return 0.0


@kernel
def _float_of(bits: int, room: I32) -> float:
    """Return the float of 64 bits, by way of some room."""
    room.view(np.int64)[0] = bits
    return room.view(np.float64)[0]


@kernel
def _last_of_best(values: F64, n: int, nth: int, count: I32) -> tuple[float, int]:
    """Return the nth largest of the first n values, and how many level with it are among the nth.

    The values are reordered. Only what is in one bin with it has to be put in order.
    """
    edge, n_above, n_left = promising(values, n, nth, count, n + 1), 0, n
    if edge > 0.0:
        count.view(np.float64)[0] = edge
        upper, n_left = _float_of(count.view(np.int64)[0] + (np.int64(1) << BIN_SHIFT), count), 0
        for c in range(n):
            value = values[c]
            n_above += value >= upper
            values[n_left] = value
            n_left += (value >= edge) & (value < upper)
    least, n_level = nth_largest(values, n_left, nth - n_above), nth - n_above
    for c in range(n_left):
        n_level -= values[c] > least
    return least, n_level


@kernel
def _that_reach(value: F64, n: int, bound: float, kept: I32) -> int:
    """Write which of the first n values reach a bound; return how many.

    Without a branch: to guess each one wrong would cost more than to write each one down.
    """
    n_kept = 0
    for c in range(n):
        kept[n_kept] = c
        n_kept += value[c] >= bound
    return n_kept


# Where an item goes is as good as chance to the processor, and a wrong guess costs more than the
# work on several items. So what is below writes every item down, and counts those that are to stay.


@kernel
def nominate_best(
    sums: Accumulator,
    n_touched: int,
    damping: F64,
    slots: I32,
    largest: float,
    allowed: Filter,
    tick: int,
    pooled: I64,
    pool: I32,
    n: int,
    most: int,
) -> int:
    """Add a source's `most` best eligible items to the pool; return the pool's new size.

    An item's score is its sum times damping[its slot], which is never above `largest`; where that
    is 0, its sum alone. Of items level with the last one, those touched first go in.
    """
    value, touched, work, kept = sums.value, sums.touched, sums.work, sums.kept
    # Whether an item is eligible, and its damping, cost cache misses: ask some of the best first.
    # What the least of them has to show, others may not be able to reach.
    bound, least = promising(value, n_touched, 2 * most, sums.bins, FEW_ENOUGH), 0.0
    if bound > 0.0:
        n_found, n_kept = 0, _that_reach(value, n_touched, bound, kept)
        for i in range(n_kept):
            _prefetch_item(allowed, slots, pooled, touched[kept[i]])
        for i in range(n_kept):
            _prefetch_one(damping, slots[touched[kept[i]]])
        for i in range(n_kept):
            item = touched[kept[i]]
            is_in, known = is_eligible(allowed, tick, item), pooled[item]
            # Known to be eligible: conditions are not tested again.
            pooled[item] = -tick if is_in & (known != tick) else known
            work[n_found] = _damped(value[kept[i]], damping, slots, largest, item)
            n_found += is_in
        n_found = min(n_found, SAMPLED_FROM - 1)  # so that so many really reach it
        least = promising(work, n_found, most, sums.bins, SAMPLED_FROM)
        bound = least * 0.999999  # whatever is lost by rounding
        bound = bound / largest if largest > 0.0 else bound
    n_good, n_kept = 0, _that_reach(value, n_touched, bound, kept)
    if largest > 0.0:
        for i in range(n_kept):
            _prefetch_one(slots, touched[kept[i]])
        for i in range(n_kept):
            _prefetch_one(damping, slots[touched[kept[i]]])
    for i in range(n_kept):
        place = kept[i]
        score = _damped(value[place], damping, slots, largest, touched[place])
        kept[n_good] = place
        n_good += (score >= least) & (score > 0.0)
    n_eligible = 0
    for i in range(n_good):
        place = kept[i]
        item = touched[place]
        is_in = (pooled[item] == -tick) or is_eligible(allowed, tick, item)
        kept[n_eligible] = place
        work[n_eligible] = _damped(value[place], damping, slots, largest, item)
        n_eligible += is_in
    least, n_level = 0.0, most
    if n_eligible > most:
        least, n_level = _last_of_best(work, n_eligible, most, sums.bins)
    for i in range(n_eligible):
        if n == len(pool):
            break
        item = touched[kept[i]]
        score, known = _damped(value[kept[i]], damping, slots, largest, item), pooled[item]
        n_level -= score == least
        is_in = ((score > least) | ((score == least) & (n_level >= 0))) & (known != tick)
        pooled[item] = tick if is_in else known
        pool[n] = item
        n += is_in
    return n


@kernel
def is_among_best(
    sums: Accumulator,
    n_touched: int,
    damping: F64,
    slots: I32,
    largest: float,
    allowed: Filter,
    tick: int,
    item: int,
    most: int,
) -> bool:
    """Tell whether `nominate_best` would name an item that is eligible."""
    first, own_item = sums.tick[0] << 32, np.int64(item)
    at = _find_sum(sums.key, first, own_item)
    if sums.key[at] != first | own_item:
        return False
    value, touched, kept = sums.value, sums.touched, sums.kept
    own = _damped(sums.sum[at], damping, slots, largest, item)
    if own <= 0.0:
        return False
    own_place = place_of(touched, n_touched, item)
    bound = own * 0.999999 / largest if largest > 0.0 else own  # whatever is lost by rounding
    n_better, n_kept = 0, _that_reach(value, n_touched, bound, kept)
    for i in range(n_kept):
        place = kept[i]
        score = _damped(value[place], damping, slots, largest, touched[place])
        kept[n_better] = place
        n_better += (score > own) | ((score == own) & (place < own_place))
    if n_better < most:
        return True
    n_eligible = 0
    for i in range(n_better):
        n_eligible += is_eligible(allowed, tick, touched[kept[i]])
    return n_eligible < most


@kernel
def _prefetch_item(allowed: Filter, slots: I32, pooled: I64, item: int) -> None:
    """Ask for all that says whether an item is pooled; its mark is where `pooled` is."""
    _prefetch_one(slots, item)
    _prefetch_one(pooled, item)
    _prefetch_one(allowed.hidden, item)


@kernel
def _damped(value: float, damping: F64, slots: I32, largest: float, item: Any) -> float:
    return value * damping[slots[item]] if largest > 0.0 else value


# -- neighbour lists --------------------------------------------------------------------------


@kernel
def inverse_norm(mass: float, shrink: float) -> float:
    """Return 1 / sqrt(mass + shrink), 0 where both are 0."""
    total = mass + shrink
    return 1.0 / np.sqrt(total) if total > 0.0 else 0.0


@kernel
def largest_inverse_norm(shrink: float) -> float:
    """Return what `inverse_norm` is at most."""
    return 1.0 / np.sqrt(shrink) if shrink > 0.0 else np.inf


@kernel
def inverse_mass(mass: float, shrink: float) -> float:
    """Return 1 / (mass + shrink), 0 where both are 0."""
    total = mass + shrink
    return 1.0 / total if total > 0.0 else 0.0


@kernel
def inverses(mass: F64, n_used: int, shrink: float, both_ways: bool, inverse: F64) -> None:
    """Write `inverse_norm` of each mass that is used, or `inverse_mass`; not of the empty row's."""
    for slot in range(1, n_used):
        of = mass[slot]
        inverse[slot] = inverse_norm(of, shrink) if both_ways else inverse_mass(of, shrink)


@kernel
def _own_neighbours(pool: Pool, rows: Neighbours, slots: I32, item: int, empty: float) -> int:
    """Return a slot that only this version holds; `empty` is inv_norm without any mass."""
    old, slot = own_slot(pool, slots, item)
    if old != slot:
        n = rows.size[old]
        rows.size[slot] = n
        rows.mass[slot] = rows.mass[old]
        # Not the empty row's: an item can be a neighbour before it has rewards of its own.
        rows.inv_norm[slot] = rows.inv_norm[old] if old != 0 else empty
        for j in range(n):
            rows.handle[slot, j] = rows.handle[old, j]
            rows.weight[slot, j] = rows.weight[old, j]
    return slot


@kernel
def mix(x: Any) -> Any:
    """Return 64 bits in which every bit depends on every bit of x (MurmurHash3's finaliser)."""
    x = np.uint64(x)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xFF51AFD7ED558CCD)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


@kernel
def _sketched(sketch: U16, key: Any, other: Any) -> tuple[Any, Any]:
    """Return where an ordered pair of item keys is counted."""
    mask = np.uint64(len(sketch) - 1)
    x = mix(key * np.uint64(0x9E3779B97F4A7C15) + other * np.uint64(0xC2B2AE3D27D4EB4F))
    return (x >> np.uint64(32)) & mask, x & np.uint64(0xFFFFFFFF) & mask


@kernel
def _prefetch_sketched(sketch: U16, key: Any, other: Any) -> None:
    """Ask for what `sketch_add` reads: of a large table, at places that nobody can foresee."""
    first, second = _sketched(sketch, key, other)
    _prefetch_one(sketch, first)
    _prefetch_one(sketch, second)


@kernel
def sketch_add(sketch: U16, key: Any, other: Any, units: int, at_least: int) -> int:
    """Count units for an ordered pair of item keys, conservatively; return the estimate.

    With `at_least` the estimate is raised to that.
    """
    first, second = _sketched(sketch, key, other)
    least = min(int(sketch[first]), int(sketch[second]))
    estimate = min(max(least + units, at_least), SKETCH_MAX)
    sketch[first] = max(sketch[first], estimate)
    sketch[second] = max(sketch[second], estimate)
    return estimate


@kernel
def sketch_age(sketch: U16, place: I64) -> None:
    """Halve the next few counters: all of them in the course of len / SKETCH_STRIPE events."""
    first, mask = place[0], len(sketch) - 1  # there are 2^b
    for i in range(SKETCH_STRIPE):
        sketch[(first + i) & mask] >>= 1
    place[0] = (first + SKETCH_STRIPE) & mask


@kernel
def _find_neighbour(rows: Neighbours, slot: int, handle: Any) -> int:
    """Return where in a row a handle is, or MISS."""
    # It is there once at most. All are compared, many at a time: to stop would cost a wrong guess.
    row, place = np.uint64(slot), MISS
    for j in range(rows.size[slot]):
        place = max(place, j if rows.handle[row, np.uint64(j)] == handle else MISS)
    return place


@kernel
def is_neighbour(rows: Neighbours, slots: I32, items: I32, n: int, handle: Any) -> bool:
    """Tell whether a handle is in the row of one of the first n items."""
    for r in range(n):
        if r + 1 < n:
            ahead = slots[items[r + 1]]
            _prefetch_one(rows.size, ahead)
            for j in range(0, rows.handle.shape[1], 8):
                _prefetch(rows.handle, ahead, j)
        if _find_neighbour(rows, slots[items[r]], handle) != MISS:
            return True
    return False


@kernel
def _add_neighbour(
    rows: Neighbours,
    slot: int,
    handle: Any,
    amount: float,
    generation: I32,
    key: U64,
    sketch: U16,
    item: int,
    all_live: bool,
) -> None:
    """Add to a neighbour's weight in the row of `item`.

    A full row gives up a stale neighbour (unless they are `all_live`), else the weakest, for a
    newcomer that the sketch has counted more for; the count of who leaves goes into the sketch.
    """
    n, place = rows.size[slot], _find_neighbour(rows, slot, handle)
    if place != MISS:
        rows.weight[slot, place] += np.float32(amount)
        return
    if n < rows.handle.shape[1]:
        rows.size[slot] = n + 1
        rows.handle[slot, n] = handle
        rows.weight[slot, n] = np.float32(amount)
        return
    units = max(1, int(amount * SKETCH_UNIT + 0.5))
    estimate = sketch_add(sketch, key[item], key[handle & INDEX_MASK], units, 0)
    weight = np.float32(estimate / SKETCH_UNIT)
    weakest = _weakest(rows.weight.view(np.int32), slot, n)
    least = rows.weight[slot, weakest]
    if not all_live:
        for j in range(n):
            if not is_live(rows.handle[slot, j], generation):
                weakest, least = j, np.float32(-1.0)
                break
    if weight <= least:
        return
    if least >= 0.0:
        left = rows.handle[slot, weakest] & INDEX_MASK
        sketch_add(sketch, key[item], key[left], 0, min(int(least * SKETCH_UNIT), SKETCH_MAX))
    rows.handle[slot, weakest] = handle
    rows.weight[slot, weakest] = weight


@kernel
def _weakest(weight_bits: I32, slot: int, n: int) -> int:
    """Return where in a row the least weight is first; these are bits of floats that are not below
    0, so in the order of the floats, and compared many at once.
    """
    row, least = np.uint64(slot), np.int32(2**31 - 1)
    for j in range(np.uint64(n)):
        least = min(least, weight_bits[row, j])
    # All are compared, many at a time, as in `_find_neighbour`.
    place: Any = np.int32(n)
    for j in range(np.uint64(n)):
        place = min(place, np.int32(j) if weight_bits[row, j] == least else np.int32(n))
    return int(place)


@kernel
def _count(rows: Neighbours, slot: int, amount: float, limit: float) -> None:
    """Add to the mass of a row; at the limit, halve all of the row: what came lately tells more."""
    rows.mass[slot] += amount
    if rows.mass[slot] >= limit:
        rows.mass[slot] *= 0.5
        for j in range(rows.size[slot]):
            rows.weight[slot, j] *= np.float32(0.5)


@kernel
def covisit_learn(
    pool: Pool,
    rows: Neighbours,
    slots: I32,
    generation: I32,
    key: U64,
    sketch: U16,
    place: I64,
    item: int,
    reward: float,
    items: I32,
    weights: F64,
    n: int,
    shrink: float,
    limit: float,
    all_live: bool,
) -> None:
    """Count an item together with each item of the profile, both ways, by the root of recency."""
    empty = inverse_norm(0.0, shrink)
    own = _own_neighbours(pool, rows, slots, item, empty)
    handle = (np.int64(generation[item]) << 32) | item
    for r in range(n):
        other = items[r]
        _prefetch_sketched(sketch, key[item], key[other])
        _prefetch_sketched(sketch, key[other], key[item])
    for r in range(n):
        other = items[r]
        if other == item:
            continue
        amount = reward * np.sqrt(weights[r])
        theirs = (np.int64(generation[other]) << 32) | other
        _add_neighbour(rows, own, theirs, amount, generation, key, sketch, item, all_live)
        slot = _own_neighbours(pool, rows, slots, other, empty)
        _add_neighbour(rows, slot, handle, amount, generation, key, sketch, other, all_live)
    _count(rows, own, reward, limit)
    rows.inv_norm[own] = inverse_norm(rows.mass[own], shrink)
    sketch_age(sketch, place)


@kernel
def sequence_learn(
    pool: Pool,
    rows: Neighbours,
    slots: I32,
    generation: I32,
    key: U64,
    sketch: U16,
    place: I64,
    item: int,
    reward: float,
    time_ms: int,
    items: I32,
    weights: F64,
    times: I64,
    n: int,
    shrink: float,
    limit: float,
    gap_ms: float,
    all_live: bool,
) -> None:
    """Count an item as what followed each item of the profile, less the longer ago that was."""
    handle = (np.int64(generation[item]) << 32) | item
    for r in range(n):
        _prefetch_sketched(sketch, key[items[r]], key[item])
    for r in range(n):
        other = items[r]
        if other == item:
            continue
        passed = max(0.0, float(time_ms - times[r]))
        amount = reward * weights[r] * gap_ms / (gap_ms + passed)
        slot = _own_neighbours(pool, rows, slots, other, inverse_mass(0.0, shrink))
        _add_neighbour(rows, slot, handle, amount, generation, key, sketch, other, all_live)
        _count(rows, slot, amount, limit)
        rows.inv_norm[slot] = inverse_mass(rows.mass[slot], shrink)
    sketch_age(sketch, place)


@kernel
def _find_sum(key: I64, first: Any, item: Any) -> Any:
    """Return where in an accumulator an item is, or belongs. `first`: the request's first key."""
    # Indices as they are: they lie too well apart for a hash to be better. Unsigned, so that
    # nothing has to look whether they count from the end.
    mask, wanted = np.uint64(len(key) - 1), np.uint64(first) | np.uint64(item)
    at = np.uint64(item) & mask
    # Keys of the same request differ by less than 2^32. One comparison, hardly ever true: whether
    # an item is there already would be guessed, and wrong for every third one.
    while (np.uint64(key[at]) ^ wanted) - np.uint64(1) < np.uint64(0xFFFFFFFF):
        at = (at + np.uint64(1)) & mask
    return at


@kernel
def _next_request(sums: Accumulator) -> int:
    """Begin a request, by whose number its sums are known from older ones; return its first key."""
    if sums.tick[0] == LAST_TICK:
        sums.key[:] = 0
        sums.tick[0] = 0
    sums.tick[0] += 1
    return sums.tick[0] << 32


@kernel
def neighbours_score(
    rows: Neighbours,
    slots: I32,
    generation: I32,
    all_live: bool,
    items: I32,
    weights: F64,
    n: int,
    sums: Accumulator,
) -> int:
    """Add w_h weight(h, j) inv_norm(h) to each neighbour j; return how many were touched.

    `all_live`: no item was ever removed.
    """
    key, total, place, first = sums.key, sums.sum, sums.place, _next_request(sums)
    n_touched = np.uint64(0)
    for r in range(n):
        _prefetch_one(slots, items[r])
    for r in range(n):
        slot = slots[items[r]]
        for ahead in range(r + 1 if r else 0, min(r + 2, n)):
            _prefetch_neighbours(rows, slots[items[ahead]])
        factor = weights[r] * rows.inv_norm[slot]
        for j in range(rows.size[slot]):
            handle = rows.handle[slot, j]
            if not (all_live or is_live(handle, generation)):
                continue
            wanted = first | (handle & INDEX_MASK)
            at = _find_sum(key, first, handle & INDEX_MASK)
            # Without a branch, see `nominate_best`: what is not there yet is written down as well.
            is_new, before = key[at] != wanted, total[at]
            total[at] = (0.0 if is_new else before) + factor * rows.weight[slot, j]
            key[at] = wanted
            place[n_touched] = at
            n_touched += np.uint64(is_new)
    for c in range(n_touched):
        at = np.uint64(place[c])
        sums.touched[c], sums.value[c] = key[at] & INDEX_MASK, total[at]
    found: int = np.int64(n_touched)  # type: ignore[assignment]
    return found


@kernel
def _prefetch_neighbours(rows: Neighbours, slot: int) -> None:
    """Ask for a row that is read next: so many lines of 64 bytes are not foreseen by hardware."""
    _prefetch_one(rows.size, slot)  # and inv_norm, beside it
    for j in range(0, rows.handle.shape[1], 8):
        _prefetch(rows.handle, slot, j)
    for j in range(0, rows.weight.shape[1], 16):
        _prefetch(rows.weight, slot, j)


@kernel
def read_sums(
    sums: Accumulator, damping: F64, slots: I32, largest: float, pool: I32, n: int, column: F64
) -> None:
    """Write each pooled item's score in the present request (see `nominate_best`), 0 for none."""
    first = sums.tick[0] << 32
    for c in range(n):
        item = np.int64(pool[c])
        at = _find_sum(sums.key, first, item)
        score = _damped(sums.sum[at], damping, slots, largest, item)
        column[c] = score if sums.key[at] == first | item else 0.0


@kernel
def damp_sums(sums: Accumulator, n_touched: int, damping: F64, slots: I32) -> None:
    """Multiply every sum by damping[slot of its item]."""
    for c in range(n_touched):
        sums.value[c] *= damping[slots[sums.touched[c]]]
        sums.sum[sums.place[c]] = sums.value[c]


@kernel
def neighbour_weight(rows: Neighbours, slot: int, handle: int) -> float:
    """Return the stored weight of one neighbour, 0 if it is not in the row."""
    place = _find_neighbour(rows, slot, handle)
    return rows.weight[slot, place] if place != MISS else 0.0


# -- factors ----------------------------------------------------------------------------------


@kernel
def _own_factors(pool: Pool, rows: F32, slots: I32, key: U64, item: Any) -> int:
    """Return a slot that only this version holds; a new row begins small, by hash of the id."""
    old, slot = own_slot(pool, slots, item)
    if old == 0:
        x = key[item]
        for k in range(rows.shape[1]):
            x = mix(x + np.uint64(0x9E3779B97F4A7C15))
            unit = float(np.int64(x >> np.uint64(11))) / 9007199254740992.0
            rows[slot, k] = np.float32((unit - 0.5) * FACTOR_SPREAD)
    elif old != slot:
        for k in range(rows.shape[1]):
            rows[slot, k] = rows[old, k]
    return slot


@kernel
def user_vector(
    rows: F32, slots: I32, items: I32, weights: F64, n: int, own: F32, vector: F32
) -> float:
    """Write sum_h sqrt(w_h) p_h / norm, p_h being the first half of a row, and add what is the
    user's own, if that is kept; return norm, 0 for nothing.
    """
    n_factors = len(vector)
    total = 0.0
    vector[:] = 0.0
    for r in range(n):
        slot = slots[items[r]]
        if slot == 0:
            continue
        weight = np.float32(np.sqrt(weights[r]))
        total += float(weight)
        for k in range(n_factors):
            vector[k] += weight * rows[slot, k]
    norm = np.sqrt(total)
    if norm > 0.0:
        scale = np.float32(1.0 / norm)
        for k in range(n_factors):
            vector[k] *= scale
    for k in range(len(own)):
        vector[k] += own[k]
    return norm


@kernel
def _bounded(factor: Any) -> Any:
    """Hold a factor within bounds that none reaches unless its steps are far too long."""
    return min(max(factor, np.float32(-FACTOR_BOUND)), np.float32(FACTOR_BOUND))


@kernel
def _dot(vector: F32, rows: F32, slot: int) -> Any:
    """Return the product of a user vector and the second half of a row, in four fixed strands."""
    return _multiply(vector, rows, slot)


@kernel
def factors_score(rows: F32, slots: I32, vector: F32, pool: I32, n: int, column: F64) -> None:
    """Write each pooled item's product with the user vector, 0 for an item without a row."""
    for c in range(n):
        slot = slots[pool[c]]
        column[c] = float(_dot(vector, rows, slot)) if slot != 0 else 0.0


@kernel
def put_in_order(order: I32, place: I32, counts: I64, item: int) -> None:
    """Let negatives be drawn from an item, too; counts: [events learned, items in order]."""
    if place[item] == MISS:
        order[counts[1]] = item
        place[item] = counts[1]
        counts[1] += 1


@kernel
def next_draw(order: I32, place: I32, counts: I64, seed: int, item: int) -> Any:
    """Count an event, and return what its negatives are drawn by."""
    counts[0] += 1
    put_in_order(order, place, counts, item)
    return (np.uint64(seed) << np.uint64(32)) ^ np.uint64(counts[0])


@kernel
def factors_learn(
    pool: Pool,
    rows: F32,
    slots: I32,
    key: U64,
    order: I32,
    n_order: int,
    item: int,
    reward: float,
    items: I32,
    weights: F64,
    n: int,
    own: F32,
    taught: F32,
    vector: F32,
    gradient: F32,
    rate: float,
    decay: float,
    n_negatives: int,
    draw: Any,
) -> None:
    """Take a step towards the reward for one item, and towards 0 for some drawn from `order`.

    `own` are the user's own factors, and `taught` those that learn: the same, or empty. An item
    that the version has no row for is drawn in vain. A negative reward takes one step down to 0,
    from above.
    """
    n_factors = len(vector)
    rate32, decay32, one = np.float32(rate), np.float32(decay), np.float32(1.0)
    target = _own_factors(pool, rows, slots, key, item)
    norm = user_vector(rows, slots, items, weights, n, own, vector)
    if norm == 0.0:
        return
    if reward <= 0.0:
        if _dot(vector, rows, target) <= 0.0:
            return
        n_negatives = 0
    gradient[:] = 0.0
    for sample in range(n_negatives + 1):
        slot, wanted = target, np.float32(max(reward, 0.0))
        if sample > 0:
            draw = mix(draw + np.uint64(0x9E3779B97F4A7C15))
            drawn = order[np.int64((draw >> np.uint64(32)) * np.uint64(n_order) >> np.uint64(32))]
            if drawn == item or slots[drawn] == 0:
                continue
            slot, wanted = _own_factors(pool, rows, slots, key, drawn), np.float32(0.0)
        error = wanted - _dot(vector, rows, slot)
        error = min(max(error, -one), one)  # whatever has happened, a step is bounded
        for k in range(n_factors):
            gradient[k] += error * rows[slot, n_factors + k]
            step = error * vector[k] - decay32 * rows[slot, n_factors + k]
            rows[slot, n_factors + k] = _bounded(rows[slot, n_factors + k] + rate32 * step)
    for r in range(n):
        if slots[items[r]] == 0:
            continue
        slot = _own_factors(pool, rows, slots, key, items[r])
        weight = np.float32(np.sqrt(weights[r]) / norm)
        for k in range(n_factors):
            step = weight * gradient[k] - decay32 * rows[slot, k]
            rows[slot, k] = _bounded(rows[slot, k] + rate32 * step)
    for k in range(len(taught)):
        taught[k] = _bounded(taught[k] + rate32 * (gradient[k] - decay32 * taught[k]))


@kernel
def factors_choose(
    pool: Pool,
    rows: F32,
    slots: I32,
    key: U64,
    pooled: I32,
    share: F64,
    n_pooled: int,
    chosen: int,
    items: I32,
    weights: F64,
    n: int,
    own: F32,
    taught: F32,
    vector: F32,
    gradient: F32,
    rate: float,
    least: float,
) -> None:
    """Take a step on the log-likelihood of a choice among pooled items, given their shares.

    `own` are the user's own factors by which it was made, `taught` those of now. Items that were
    expected with less than `least` are left alone.
    """
    n_factors = len(vector)
    norm = user_vector(rows, slots, items, weights, n, own, vector)
    if norm == 0.0:
        return
    gradient[:] = 0.0
    for c in range(n_pooled):
        if c != chosen and (share[c] < least or slots[pooled[c]] == 0):
            continue
        slot = _own_factors(pool, rows, slots, key, pooled[c])
        error = np.float32((1.0 if c == chosen else 0.0) - share[c])
        step = np.float32(rate) * error
        for k in range(n_factors):
            gradient[k] += error * rows[slot, n_factors + k]
            rows[slot, n_factors + k] = _bounded(rows[slot, n_factors + k] + step * vector[k])
    for r in range(n):
        if slots[items[r]] == 0:
            continue
        slot = _own_factors(pool, rows, slots, key, items[r])
        weight = np.float32(rate * np.sqrt(weights[r]) / norm)
        for k in range(n_factors):
            rows[slot, k] = _bounded(rows[slot, k] + weight * gradient[k])
    for k in range(len(taught)):
        taught[k] = _bounded(taught[k] + np.float32(rate) * gradient[k])


# -- trending ---------------------------------------------------------------------------------


@kernel
def exp2_fraction(fraction: float) -> float:
    """Return 2^fraction for a fraction in [0, 1), by linear interpolation (error under 6e-8)."""
    place = fraction * _FRACTIONS
    j = int(place)
    return _EXP2[j] + (_EXP2[j + 1] - _EXP2[j]) * (place - j)


@kernel
def shift(value: float, by: int) -> float:
    """Return value * 2^by, exactly where the result is a normal number; 0 far below."""
    if by < _MIN_SHIFT:
        return 0.0
    return value * _POW2[by - _MIN_SHIFT]


@kernel
def _decayed(rows: Decayed, slot: int, h: int, epoch: int) -> float:
    return shift(rows.weight[slot, h], rows.epoch[slot, h] - epoch)


@kernel
def trending_learn(
    pool: Pool,
    rows: Decayed,
    slots: I32,
    generation: I32,
    key: U64,
    top: I64,
    top_size: I64,
    labels: I32,
    list_pool: Pool,
    lists: Lists,
    list_slots: I32,
    item: int,
    reward: float,
    time_ms: int,
    half_lives_ms: I64,
) -> None:
    """Add one event to an item's decayed weights, and keep the sorted lists of the heaviest: one
    for each half-life, and one for each category.

    All weights decay alike, so their order changes only where one grows: the lists stay exact, but
    for a place that an evicted item left, which the next event outside of the list takes.
    """
    old, slot = own_slot(pool, slots, item)
    handle = (np.int64(generation[item]) << 32) | item
    for h in range(len(half_lives_ms)):
        epoch = time_ms // half_lives_ms[h]
        gain = reward * exp2_fraction((time_ms - epoch * half_lives_ms[h]) / half_lives_ms[h])
        row_epoch, weight = rows.epoch[old, h], rows.weight[old, h]
        if old == 0 or epoch > row_epoch:
            weight = 0.0 if old == 0 else shift(weight, row_epoch - epoch)
            row_epoch = epoch
        rows.epoch[slot, h] = row_epoch
        rows.weight[slot, h] = weight + shift(gain, epoch - row_epoch)
        top_size[h] = _place(rows, slots, key, top[h], top_size[h], h, item, handle)
    for label in labels[item]:
        if label == 0:
            break
        list_in_category(list_pool, lists, list_slots, rows, slots, key, label, item, handle)


@kernel
def list_in_category(
    pool: Pool,
    lists: Lists,
    list_slots: I32,
    rows: Decayed,
    slots: I32,
    key: U64,
    label: Any,
    item: int,
    handle: Any,
) -> None:
    """Put an item where its weight of the last half-life belongs in a category's list."""
    if label >= len(list_slots):
        return
    old, slot = own_slot(pool, list_slots, label)
    if old != slot:
        lists.size[slot] = lists.size[old]
        for j in range(lists.size[old]):
            lists.handle[slot, j] = lists.handle[old, j]
    h, n = rows.weight.shape[1] - 1, lists.size[slot]
    lists.size[slot] = _place(rows, slots, key, lists.handle[slot], n, h, item, handle)


@kernel
def _place(
    rows: Decayed, slots: I32, key: U64, top: I64, n: int, h: int, item: int, handle: Any
) -> int:
    """Put an item where its weight belongs in a list of the n heaviest, or leave it out.

    Return how many there are now.
    """
    place: Any = n
    for j in range(np.uint64(n)):  # all of them, many at a time: it is there once at most
        place = min(place, np.int64(j) if top[j] == handle else n)
    if place == n:
        if n < len(top):
            n += 1
        else:
            place = n - 1
            if not _is_heavier(rows, slots, h, key, item, top[place] & INDEX_MASK):
                return n
        top[place] = handle
    while place > 0 and _is_heavier(rows, slots, h, key, item, top[place - 1] & INDEX_MASK):
        top[place] = top[place - 1]
        place -= 1
        top[place] = handle
    return n


@kernel
def _is_heavier(rows: Decayed, slots: I32, h: int, key: U64, item: Any, other: Any) -> bool:
    epoch = max(rows.epoch[slots[item], h], rows.epoch[slots[other], h])
    mine, theirs = _decayed(rows, slots[item], h, epoch), _decayed(rows, slots[other], h, epoch)
    if mine != theirs:
        return mine > theirs
    return key[item] < key[other]


@kernel
def trending_drop(top: I64, top_size: I64, handle: int) -> None:
    """Take an item off every list of the heaviest."""
    for h in range(len(top_size)):
        kept = 0
        for place in range(top_size[h]):
            if top[h, place] != handle:
                top[h, kept] = top[h, place]
                kept += 1
        top_size[h] = kept


@kernel
def _nominate_first(
    top: I64, size: int, allowed: Filter, tick: int, pooled: I64, pool: I32, n: int, most: int
) -> int:
    """Add the first `most` eligible items of a list to the pool; return its new size."""
    n_named = 0
    for place in range(size):
        if n_named == most or n == len(pool):
            break
        item = top[place] & INDEX_MASK
        is_named, known = is_eligible(allowed, tick, item), pooled[item]
        n_named += is_named
        pooled[item] = tick if is_named else known
        pool[n] = item
        n += is_named & (known != tick)
    return n


@kernel
def is_among_first(
    top: I64, top_size: I64, allowed: Filter, tick: int, item: int, most: int
) -> bool:
    """Tell whether an item that is eligible is among the `most` first of a list."""
    for h in range(len(top_size)):
        n_before = 0
        for place in range(top_size[h]):
            other = top[h, place] & INDEX_MASK
            if other == item:
                return True
            n_before += is_eligible(allowed, tick, other)
            if n_before == most:
                break
    return False


@kernel
def trending_nominate(
    top: I64,
    top_size: I64,
    lists: Lists,
    list_slots: I32,
    allowed: Filter,
    tick: int,
    pooled: I64,
    pool: I32,
    n: int,
    most: int,
) -> int:
    """Add the `most` heaviest eligible items of each list to the pool; return its new size.

    Of the categories that a request wants, too; of more than five, fewer of each.
    """
    for h in range(len(top_size)):
        n = _nominate_first(top[h], top_size[h], allowed, tick, pooled, pool, n, most)
    each = max(1, most * 5 // max(5, len(allowed.wanted)))
    for label in allowed.wanted:
        if 0 < label < len(list_slots):
            slot = list_slots[label]
            top_of = lists.handle[slot]
            n = _nominate_first(top_of, lists.size[slot], allowed, tick, pooled, pool, n, each)
    return n


@kernel
def taste_of(labels: I32, items: I32, weights: F64, n_items: int, taste: F64) -> float:
    """Add up for each label how much of a history carries it; return how much there is in all.

    `taste` must be zero, and `forget_taste` makes it so again.
    """
    whole, is_any = 0.0, False
    for r in range(n_items):
        weight = np.sqrt(weights[r])
        whole += weight
        for label in labels[items[r]]:
            if label == 0:
                break
            if label < len(taste):
                taste[label] += weight
                is_any = True
    return whole if is_any else 0.0


@kernel
def forget_taste(labels: I32, items: I32, n_items: int, taste: F64) -> None:
    """Undo `taste_of`."""
    for r in range(n_items):
        for label in labels[items[r]]:
            if label == 0:
                break
            if label < len(taste):
                taste[label] = 0.0


@kernel
def shared_categories(labels: I32, item: int, taste: F64, whole: float) -> float:
    """Return how much of a history shares an item's categories, over the root of their number."""
    shared, n_labels = 0.0, 0
    for label in labels[item]:
        if label == 0:
            break
        n_labels += 1
        if label < len(taste):
            shared += taste[label]
    return shared / (whole * np.sqrt(n_labels)) if n_labels > 0 else 0.0


@kernel
def trending_score(
    rows: Decayed, slots: I32, top: I64, top_size: I64, pool: I32, n: int, columns: F64
) -> None:
    """Write the weights of each pooled item, in units of the epoch of each list's heaviest."""
    for h in range(len(top_size)):
        if top_size[h] == 0:
            columns[h, :n] = 0.0
            continue
        epoch = rows.epoch[slots[top[h, 0] & INDEX_MASK], h]
        for c in range(n):
            slot = slots[pool[c]]
            columns[h, c] = _decayed(rows, slot, h, epoch) if slot != 0 else 0.0


# -- blend, rank, select ----------------------------------------------------------------------


# Nothing here is divided by zero; as nobody has to look for that, the loops become vector code.
@njit(error_model="numpy", **_UNCOUNTED)
def blend_features(
    raw: F64,
    n: int,
    factors: int,
    mass: F64,
    slots: I32,
    pool: I32,
    items: I32,
    weights: F64,
    n_items: int,
    since: I64,
    now_ms: int,
    labels: I32,
    taste: F64,
    features: F64,
) -> None:
    """Write the features of each pooled item; raw: [columns, pool], features: [features, pool].

    A source's score over the largest, v, gives sqrt(v) and v / (v + 0.1): one tells the best
    apart, the other the weak. Row `factors` is a product around 0 to 1, no share of a largest.
    Then three that say how much an item has been had, and how far that is from the history's mean;
    two that say how long ago its first event was; and one for the categories that it shares.
    """
    n_columns = len(raw)
    for s in range(n_columns):
        if s == factors:
            for c in range(n):
                z = min(max(3.0 * raw[s, c], -9.0), 9.0)
                features[s, c] = z
                features[n_columns + s, c] = 0.3 * z * z if z > 0.0 else 0.0
            continue
        largest = 0.0
        for c in range(n):
            largest = max(largest, raw[s, c])
        scale = 1.0 / largest if largest > 0.0 else 0.0
        for c in range(n):
            v = raw[s, c] * scale
            features[s, c] = np.sqrt(v)
            features[n_columns + s, c] = v / (v + 0.1)
    usual = 0.0
    for r in range(n_items):
        rewards = mass[slots[items[r]]]
        usual += rewards / (rewards + 50.0) / n_items
    for c in range(n):  # what lies about is read first, so that the rest is vector code
        features[2 * n_columns, c] = mass[slots[pool[c]]]
        features[2 * n_columns + 3, c] = now_ms - min(since[pool[c]], now_ms)
    for c in range(n):
        rewards = features[2 * n_columns, c]
        often = rewards / (rewards + 50.0)
        away = often - usual if n_items > 0 else 0.0
        features[2 * n_columns, c] = often
        features[2 * n_columns + 1, c] = 1.0 / (1.0 + rewards / 3.0)
        features[2 * n_columns + 2, c] = 4.0 * away * away
        days = max(0.0, features[2 * n_columns + 3, c] / 86_400_000.0)
        features[2 * n_columns + 3, c] = 1.0 / (1.0 + days)
        features[2 * n_columns + 4, c] = 7.0 / (7.0 + days)
    whole = taste_of(labels, items, weights, n_items, taste)
    for c in range(n):
        shared = shared_categories(labels, pool[c], taste, whole) if whole > 0.0 else 0.0
        features[2 * n_columns + 5, c] = shared
    forget_taste(labels, items, n_items, taste)


@kernel
def _prefetch_slots(
    since: I64,
    labels: I32,
    slots: I32,
    pool: I32,
    n: int,
) -> None:
    """Ask for what says where the rows of pooled items are, and for what is by their indices."""
    for c in range(n):
        item = pool[c]
        _prefetch_one(slots, item)  # and those of the other sources, beside it
        _prefetch_one(since, item)
        _prefetch(labels, item, 0)


@kernel
def _prefetch_rows(
    mass: F64,
    slots: I32,
    factors: F32,
    factors_slots: I32,
    decayed: Decayed,
    trending_slots: I32,
    pool: I32,
    n: int,
) -> None:
    """Ask for the rows that pooled items are rated by."""
    n_factors = factors.shape[1]
    for c in range(n):
        item = pool[c]
        _prefetch_one(mass, slots[item])  # and inv_norm, beside it
        _prefetch(decayed.weight, trending_slots[item], 0)  # and epochs
        for k in range(n_factors // 2, n_factors, 16):
            _prefetch(factors, factors_slots[item], k)


@kernel
def blend_pool(
    personal: Any,
    shared: Any,
    buffers: Any,
    version: int,
    items: I32,
    weights: F64,
    times: I64,
    n_items: int,
    user: int,
    is_past: bool,
    all_live: bool,
    now_ms: int,
    tick: int,
    most: tuple[int, int, int],
    wanted: I32,
    given: I32,
) -> int:
    """Let every source of the blend prepare, name and rate; write features and totals; return how
    many there are.

    What the sources do by themselves, step by step, in one call: a call costs microseconds.
    `given` are pooled in any case, after what the sources name.
    """
    own = shared.own_past[user] if is_past else shared.own[user]
    touched = _add_up(personal.generation, shared, version, items, weights, n_items, all_live)
    allowed, pooled, pool = _filter_of(buffers, wanted), buffers.pooled, buffers.item
    n = _name(shared, version, touched, allowed, tick, pooled, pool, most)
    for item in given:
        if n == len(pool):
            break
        if pooled[item] != tick:
            pooled[item] = tick
            pool[n] = item
            n += 1
    _rate(personal, shared, buffers, version, items, weights, times, n_items, own, now_ms, n)
    return n


@kernel
def _add_up(
    generation: I32,
    shared: Any,
    version: int,
    items: I32,
    weights: F64,
    n_items: int,
    all_live: bool,
) -> tuple[int, int]:
    """Sum up what co-visitation and sequence say; return how many items each has touched."""
    slots, n = shared.covisit_rows.slots[version], min(n_items, shared.covisit_last)
    rows, sums = shared.covisit, shared.covisit_sums
    n_first = neighbours_score(rows, slots, generation, all_live, items, weights, n, sums)
    slots, n = shared.sequence_rows.slots[version], min(n_items, shared.sequence_last)
    rows, sums = shared.sequence, shared.sequence_sums
    n_then = neighbours_score(rows, slots, generation, all_live, items, weights, n, sums)
    return n_first, n_then


@kernel
def _name(
    shared: Any,
    version: int,
    touched: tuple[int, int],
    allowed: Filter,
    tick: int,
    pooled: I64,
    pool: I32,
    most: tuple[int, int, int],
) -> int:
    """Pool what each source names, given what has been summed up; return how many these are."""
    sums, slots, damping = _covisit_of(shared, version)
    largest = largest_inverse_norm(shared.covisit_shrink)
    n = nominate_best(
        sums, touched[0], damping, slots, largest, allowed, tick, pooled, pool, 0, most[0]
    )
    sums, slots, damping = _sequence_of(shared, version)
    n = nominate_best(
        sums, touched[1], damping, slots, 0.0, allowed, tick, pooled, pool, n, most[1]
    )
    return trending_nominate(
        shared.top[version],
        shared.top_size[version],
        shared.lists,
        shared.list_rows.slots[version],
        allowed,
        tick,
        pooled,
        pool,
        n,
        most[2],
    )


@kernel
def _names(
    generation: I32,
    shared: Any,
    version: int,
    items: I32,
    weights: F64,
    n_items: int,
    all_live: bool,
    allowed: Filter,
    tick: int,
    item: int,
    most: tuple[int, int, int],
) -> tuple[bool, tuple[int, int]]:
    """Tell whether `_name` would pool an item; if so, it has been summed up, as `_add_up` says.

    That is known sooner than what else would be pooled: mostly the item goes with nothing there is.
    """
    untouched = 0, 0
    if not is_eligible(allowed, tick, item):
        return False, untouched
    top, top_size = shared.top[version], shared.top_size[version]
    is_first = is_among_first(top, top_size, allowed, tick, item, most[2])
    if not is_first:
        handle = (np.int64(generation[item]) << 32) | item
        n, slots = min(n_items, shared.covisit_last), shared.covisit_rows.slots[version]
        goes_with = is_neighbour(shared.covisit, slots, items, n, handle)
        n, slots = min(n_items, shared.sequence_last), shared.sequence_rows.slots[version]
        if not (goes_with or is_neighbour(shared.sequence, slots, items, n, handle)):
            return False, untouched
    touched = _add_up(generation, shared, version, items, weights, n_items, all_live)
    if is_first:
        return True, touched
    sums, slots, damping = _sequence_of(shared, version)
    if is_among_best(sums, touched[1], damping, slots, 0.0, allowed, tick, item, most[1]):
        return True, touched
    sums, slots, damping = _covisit_of(shared, version)
    largest = largest_inverse_norm(shared.covisit_shrink)
    is_best = is_among_best(sums, touched[0], damping, slots, largest, allowed, tick, item, most[0])
    return is_best, touched


@kernel
def _rate(
    personal: Any,
    shared: Any,
    buffers: Any,
    version: int,
    items: I32,
    weights: F64,
    times: I64,
    n_items: int,
    own: F32,
    now_ms: int,
    n: int,
) -> None:
    """Write features and totals of the first n pooled items, given what has been summed up."""
    pool, raw, features = buffers.item, buffers.raw, buffers.features
    covisit, slots = shared.covisit, shared.covisit_rows.slots[version]
    factors, factors_slots = shared.factors, shared.factors_rows.slots[version]
    decayed, trending_slots = shared.decayed, shared.trending_rows.slots[version]
    since, labels = personal.since, personal.labels
    _prefetch_slots(since, labels, slots, pool, n)
    _prefetch_rows(
        covisit.mass,
        slots,
        factors,
        factors_slots,
        decayed,
        trending_slots,
        pool,
        n,
    )
    largest = largest_inverse_norm(shared.covisit_shrink)
    read_sums(shared.covisit_sums, covisit.inv_norm, slots, largest, pool, n, raw[0])
    sums, followed_slots, damping = _sequence_of(shared, version)
    read_sums(sums, damping, followed_slots, 0.0, pool, n, raw[1])
    user_vector(factors, factors_slots, items, weights, n_items, own, shared.vector)
    factors_score(factors, factors_slots, shared.vector, pool, n, raw[2])
    top, top_size = shared.top[version], shared.top_size[version]
    trending_score(decayed, trending_slots, top, top_size, pool, n, raw[3:])
    blend_features(
        raw,
        n,
        2,
        covisit.mass,
        slots,
        pool,
        items,
        weights,
        n_items,
        since,
        now_ms,
        labels,
        shared.taste,
        features,
    )
    write_inputs(personal.inputs, pool, n, features)
    blend_totals(
        shared.weights,
        version,
        n_items,
        times,
        now_ms,
        shared.context,
        features,
        n,
        shared.combined,
        buffers.total,
    )


@kernel
def write_inputs(inputs: F64, pool: I32, n: int, features: F64) -> None:
    """Write what is given of each pooled item into the last rows of the features."""
    first = features.shape[0] - inputs.shape[0]
    for f in range(inputs.shape[0]):
        for c in range(n):
            features[first + f, c] = inputs[f, pool[c]]


@kernel
def _covisit_of(shared: Any, version: int) -> tuple[Accumulator, I32, F64]:
    """Return sums, slots, and what each sum is multiplied by."""
    return shared.covisit_sums, shared.covisit_rows.slots[version], shared.covisit.inv_norm


@kernel
def _sequence_of(shared: Any, version: int) -> tuple[Accumulator, I32, F64]:
    """Return the same of sequence, where nothing is multiplied."""
    return shared.sequence_sums, shared.sequence_rows.slots[version], shared.sequence.inv_norm


@kernel
def _filter_of(buffers: Any, wanted: I32) -> Filter:
    return Filter(
        buffers.mark,
        buffers.hidden,
        buffers.labels,
        wanted,
        buffers.clauses[: buffers.n_clauses[0]],
        buffers.values,
        buffers.columns,
    )


@kernel
def eligible_of(buffers: Any, wanted: I32, tick: int, items: I32, found: I32) -> int:
    """Write those of some items that may be candidates of the request `tick`; return how many."""
    n, allowed = 0, _filter_of(buffers, wanted)
    for item in items:
        if is_eligible(allowed, tick, item):
            found[n] = item
            n += 1
    return n


@kernel
def blend_search(
    personal: Any,
    shared: Any,
    buffers: Any,
    version: int,
    tick: int,
    wanted: I32,
    among: I32,
    n_items: int,
    found: I32,
    weight: F64,
    mask: U8,
) -> int:
    """Write the eligible items that were had most, of some and of the first so many; return how
    many.

    What is found is a heap, its worst item at the front; `weight` and `mask` are room to work in.
    """
    allowed, key, mass = _filter_of(buffers, wanted), personal.key, shared.covisit.mass
    slots, n = shared.covisit_rows.slots[version], 0
    for item in among:
        if is_eligible(allowed, tick, item):
            n = _keep(found, weight, n, item, mass[slots[item]], key)
    for first in range(0, n_items, SIEVED):
        size = min(SIEVED, n_items - first)
        sieve(allowed.clauses, allowed.values, allowed.columns, allowed.labels, first, size, mask)
        for item in range(first, first + size):
            if mask[item - first] and key[item] and is_eligible(allowed, tick, item):
                n = _keep(found, weight, n, item, mass[slots[item]], key)
    return n


@kernel
def _keep(found: I32, weight: F64, n: int, item: int, own: float, key: U64) -> int:
    """Put an item into the heap if there is room, or in the place of a worse one; return the size.

    Of two that weigh the same, that with the larger key is worse.
    """
    if n < len(found):
        place = n
        n += 1
        while place > 0:
            parent = (place - 1) // 2
            if not _is_worse(own, key[item], weight[parent], key[found[parent]]):
                break
            found[place], weight[place] = found[parent], weight[parent]
            place = parent
    else:
        if not _is_worse(weight[0], key[found[0]], own, key[item]):
            return n
        place = 0
        while 2 * place + 1 < n:
            child = 2 * place + 1
            if child + 1 < n and _is_worse(
                weight[child + 1], key[found[child + 1]], weight[child], key[found[child]]
            ):
                child += 1
            if not _is_worse(weight[child], key[found[child]], own, key[item]):
                break
            found[place], weight[place] = found[child], weight[child]
            place = child
    found[place], weight[place] = item, own
    return n


@kernel
def _is_worse(weight: float, key: int, other: float, other_key: int) -> bool:
    return weight < other or (weight == other and key > other_key)


@kernel
def n_available(pool: Pool) -> int:
    """Return how many slots can still be taken."""
    return pool.marks[0] + len(pool.refs) - pool.marks[1]


@kernel
def blend_room(shared: Any) -> int:
    """Return for how many more events every source of the blend has rows."""
    rows = shared.rows_per_event
    return min(
        n_available(shared.covisit_rows.pool) // rows[0],
        n_available(shared.sequence_rows.pool) // rows[1],
        n_available(shared.factors_rows.pool) // rows[2],
        n_available(shared.trending_rows.pool) // rows[3],
    )


@kernel
def blend_choose(
    personal: Any,
    shared: Any,
    buffers: Any,
    version: int,
    n_pooled: int,
    item: int,
    reward: float,
    items: I32,
    weights: F64,
    n_items: int,
    user: int,
    is_past: bool,
) -> None:
    """Learn that an item was chosen (or refused) from what was pooled last, if it was pooled."""
    chosen = place_of(buffers.item, n_pooled, item)
    if chosen == MISS:
        return
    softmax(buffers.total, n_pooled, buffers.share)
    blend_learn(
        shared.weights[version],
        shared.squares[version],
        shared.context,
        buffers.features,
        buffers.share,
        n_pooled,
        chosen,
        reward,
        shared.combiner_rate,
    )
    if reward > 0.0:
        factors_choose(
            shared.factors_rows.pool,
            shared.factors,
            shared.factors_rows.slots[version],
            personal.key,
            buffers.item,
            buffers.share,
            n_pooled,
            chosen,
            items,
            weights,
            n_items,
            shared.own_past[user] if is_past else shared.own[user],
            shared.own[user],
            shared.vector,
            shared.gradient,
            shared.choice_rate,
            shared.least_share,
        )


@kernel
def blend_teach(
    personal: Any,
    shared: Any,
    version: int,
    items: I32,
    weights: F64,
    times: I64,
    n_items: int,
    user: int,
    is_again: bool,
    item: int,
    reward: float,
    time_ms: int,
    all_live: bool,
) -> None:
    """Teach every source of the blend an event; a refusal teaches the factors alone.

    What is taught again has been learned by the user's own factors.
    """
    own = shared.own[user]
    generation, key = personal.generation, personal.key
    order, counts = shared.order, shared.factors_counts
    draw = next_draw(order, shared.order_place, counts, shared.factors_seed, item)
    if reward > 0.0:
        covisit_learn(
            shared.covisit_rows.pool,
            shared.covisit,
            shared.covisit_rows.slots[version],
            generation,
            key,
            shared.covisit_sketch,
            shared.covisit_aged,
            item,
            reward,
            items,
            weights,
            min(n_items, shared.covisit_last),
            shared.covisit_shrink,
            shared.covisit_limit,
            all_live,
        )
        sequence_learn(
            shared.sequence_rows.pool,
            shared.sequence,
            shared.sequence_rows.slots[version],
            generation,
            key,
            shared.sequence_sketch,
            shared.sequence_aged,
            item,
            reward,
            time_ms,
            items,
            weights,
            times,
            min(n_items, shared.sequence_last),
            shared.sequence_shrink,
            shared.sequence_limit,
            shared.gap_ms,
            all_live,
        )
        trending_learn(
            shared.trending_rows.pool,
            shared.decayed,
            shared.trending_rows.slots[version],
            generation,
            key,
            shared.top[version],
            shared.top_size[version],
            personal.labels,
            shared.list_rows.pool,
            shared.lists,
            shared.list_rows.slots[version],
            item,
            reward,
            time_ms,
            shared.half_lives_ms,
        )
    factors_learn(
        shared.factors_rows.pool,
        shared.factors,
        shared.factors_rows.slots[version],
        key,
        order,
        counts[1],
        item,
        reward,
        items,
        weights,
        n_items,
        own,
        own[:0] if is_again else own,
        shared.vector,
        shared.gradient,
        shared.factors_rate,
        shared.factors_decay,
        shared.n_negatives,
        draw,
    )


@kernel
def exclude(
    personal: Any,
    mark: I64,
    tick: int,
    user: int,
    refused: I32,
    n_refused: int,
    exclude_had: bool,
) -> None:
    """Exclude what a user had, if that is wanted, and what was refused lately."""
    if exclude_had and user != MISS:
        mark_had(personal, user, personal.had_count[user], mark, tick)
    for r in range(n_refused):
        mark[refused[r]] = tick


@kernel
def place_of(pool: I32, n: int, item: int) -> int:
    """Return where in the pool an item is, or MISS."""
    for place in range(n):
        if pool[place] == item:
            return place
    return MISS


@kernel
def blend_ranks(
    personal: Any,
    shared: Any,
    buffers: Any,
    versions: I64,
    items: I32,
    weights: F64,
    times: I64,
    n_items: int,
    refused: I32,
    n_refused: int,
    all_live: bool,
    user: int,
    item: int,
    now_ms: int,
    exclude_had: bool,
    tick: int,
    most: tuple[int, int, int],
    nothing: I32,
    ranks: I64,
) -> int:
    """Write twice the rank that each version gives an item, or MISS; the last one's pool is there
    still. Return its size: 0 where the item is not in it.
    """
    n, pool, pooled, total = 0, buffers.item, buffers.pooled, buffers.total
    own = shared.own[user]
    exclude(personal, buffers.mark, tick, user, refused, n_refused, exclude_had)
    allowed = _filter_of(buffers, nothing)
    for v in range(len(versions)):
        version = versions[v]
        for c in range(n):  # what the version before has pooled
            pooled[pool[c]] = -tick
        n, ranks[v] = 0, MISS
        is_named, touched = _names(
            personal.generation,
            shared,
            version,
            items,
            weights,
            n_items,
            all_live,
            allowed,
            tick,
            item,
            most,
        )
        if not is_named:
            continue
        n = _name(shared, version, touched, allowed, tick, pooled, pool, most)
        _rate(personal, shared, buffers, version, items, weights, times, n_items, own, now_ms, n)
        ranks[v] = rank_of(total, n, place_of(pool, n, item))
    return n


@kernel
def blend_judge(
    personal: Any,
    shared: Any,
    buffers: Any,
    versions: I64,
    user: int,
    item: int,
    type_index: int,
    reward: float,
    time_ms: int,
    items: I32,
    weights: F64,
    times: I64,
    refused: I32,
    all_live: bool,
    is_judged: bool,
    is_taught: bool,
    exclude_had: bool,
    tick: int,
    most: tuple[int, int, int],
    nothing: I32,
    ranks: I64,
) -> tuple[int, int, int, bool, bool]:
    """Do what comes before an event is learned: write its user's profile; rank its item by all
    versions, unless the user had it; let the last one learn the choice.

    Return the items of the profile, those refused, the pooled (MISS where nothing was ranked),
    whether ranks were written, and whether the event repeats the user's last on the item.
    """
    n_items = n_refused = 0
    is_had = says_same = False
    if user != MISS:
        n_items, n_refused = user_profile(personal, user, items, weights, times, refused)
        if item != MISS:
            is_had = has_had(personal, user, item)
            says_same = is_had and is_repeat(personal, user, item, type_index, reward)
    if is_had or not is_judged:
        return n_items, n_refused, MISS, False, says_same
    ranks[:] = MISS
    if item == MISS:
        return n_items, n_refused, MISS, True, False
    n = blend_ranks(
        personal,
        shared,
        buffers,
        versions,
        items,
        weights,
        times,
        n_items,
        refused,
        n_refused,
        all_live,
        user,
        item,
        time_ms,
        exclude_had,
        tick,
        most,
        nothing,
        ranks,
    )
    if is_taught:
        last = versions[len(versions) - 1]
        blend_choose(
            personal,
            shared,
            buffers,
            last,
            n,
            item,
            reward,
            items,
            weights,
            n_items,
            user,
            False,
        )
    return n_items, n_refused, n, True, False


@kernel
def blend_take(
    personal: Any,
    shared: Any,
    version: int,
    user: int,
    item: int,
    type_index: int,
    reward: float,
    time_ms: int,
    items: I32,
    weights: F64,
    times: I64,
    n_items: int,
    is_taught: bool,
    had_length: int,
    all_live: bool,
) -> int:
    """Teach an event and append it to its user's history, if there is room for one more.

    Return NO_ROOM where there is none, and nothing was done; else what `append_event` says.
    """
    if blend_room(shared) < 1:
        return NO_ROOM
    if is_taught:
        blend_teach(
            personal,
            shared,
            version,
            items,
            weights,
            times,
            n_items,
            user,
            False,
            item,
            reward,
            time_ms,
            all_live,
        )
    return append_event(personal, user, item, time_ms, reward, type_index, had_length)


@njit(cache=True)
def blend_overlaps(
    personal: Any,
    shared: Any,
    buffers: Any,
    versions: I64,
    users: I64,
    items: I32,
    weights: F64,
    times: I64,
    refused: I32,
    all_live: bool,
    now_ms: int,
    exclude_had: bool,
    tick: int,
    most: tuple[int, int, int],
    nothing: I32,
    best: I32,
    slates: I32,
    shares: F64,
) -> None:
    """Write for each user how much of the best items two versions have in common, -1 for nothing.

    `slates` has a row for each version, of as many items as count. A user takes two ticks.
    """
    k, found = slates.shape[1], np.zeros(2, np.int64)
    for u in range(len(users)):
        user = users[u]
        n_items, n_refused = user_profile(personal, user, items, weights, times, refused)
        for v in range(2):
            exclude(personal, buffers.mark, tick, user, refused, n_refused, exclude_had)
            n = blend_pool(
                personal,
                shared,
                buffers,
                versions[v],
                items,
                weights,
                times,
                n_items,
                user,
                False,
                all_live,
                now_ms,
                tick,
                most,
                nothing,
                nothing,
            )
            tick += 1
            found[v] = select_top(buffers.total, buffers.item, n, personal.key, best, k)
            for place in range(found[v]):
                slates[v, place] = buffers.item[best[place]]
        n_common = 0
        for place in range(found[0]):
            n_common += place_of(slates[1], found[1], slates[0, place]) != MISS
        n = max(found[0], found[1])
        shares[u] = n_common / n if n > 0 else -1.0


@njit(cache=True)
def blend_assign(shared: Any, target: int, source: int, n_items: int, n_lists: int) -> int:
    """Make version `target` of every source of the blend, and of its weights, equal to `source`.

    Return how many rows differed.
    """
    shared.weights[target] = shared.weights[source]
    shared.squares[target] = shared.squares[source]
    for h in range(shared.top.shape[1]):
        n = shared.top_size[target, h] = shared.top_size[source, h]
        shared.top[target, h, :n] = shared.top[source, h, :n]
    lists, n_changed = shared.list_rows, 0
    assign_slots(lists.pool, lists.slots[target], lists.slots[source], n_lists)
    ours, theirs = shared.slots[target], shared.slots[source]
    per_item = len(ours) // shared.covisit_rows.slots.shape[1]
    for first in range(0, n_items, _ASSIGNED):
        last, differ = min(first + _ASSIGNED, n_items), np.int64(0)
        # As vector code, two slots at a time.
        for two in range(np.uint64(per_item * first), np.uint64(per_item * last)):
            differ |= ours[two] ^ theirs[two]
        if differ:
            for item in range(first, last):
                n_changed += _assign_item(shared, target, source, item)
    return n_changed


@kernel
def _assign_item(shared: Any, target: int, source: int, item: int) -> int:
    """Do so for an item's rows of all sources; return how many differed."""
    covisit, sequence = shared.covisit_rows, shared.sequence_rows
    factors, trending = shared.factors_rows, shared.trending_rows
    n_changed = 0
    n_changed += _assign_slot(covisit.pool, covisit.slots[target], covisit.slots[source], item)
    n_changed += _assign_slot(sequence.pool, sequence.slots[target], sequence.slots[source], item)
    n_changed += _assign_slot(factors.pool, factors.slots[target], factors.slots[source], item)
    n_changed += _assign_slot(trending.pool, trending.slots[target], trending.slots[source], item)
    return n_changed


@kernel
def situation_of(n_items: int, away_ms: int, context: F64) -> None:
    """Write which situations hold (1.0 or 0.0), the first of a context: see `inputs.CONTEXTS`."""
    context[0] = 1.0
    context[1] = n_items == 0
    context[2] = 0 < n_items <= 2
    context[3] = n_items >= 20
    context[4] = n_items > 0 and away_ms <= BURST_MS
    context[5] = n_items > 0 and VISIT_MS < away_ms <= DAY_MS
    context[6] = n_items > 0 and away_ms > DAY_MS


@kernel
def blend_totals(
    weights: F64,
    version: int,
    n_items: int,
    times: I64,
    now_ms: int,
    context: F64,
    features: F64,
    n: int,
    combined: F64,
    total: F64,
) -> None:
    """Write sum_f w_f x_f for each pooled item, with w = context . weights (in `combined`)."""
    situation_of(n_items, now_ms - times[0], context)
    weigh(weights[version], context, features, n, combined, total)


@kernel
def weigh(weights: F64, context: F64, features: F64, n: int, combined: F64, total: F64) -> None:
    """Do that for a context that is there."""
    total[:n] = 0.0
    for f in range(weights.shape[1]):
        weight = 0.0
        for q in range(len(context)):
            if context[q] != 0.0:
                weight += context[q] * weights[q, f]
        combined[f] = weight
        for c in range(n):
            total[c] += weight * features[f, c]


@kernel
def exp(x: float) -> float:
    """Return e^x for x <= 0 (error under 1e-7 of it), the same bytes on every processor."""
    if x < -700.0:
        return 0.0
    y = x * LOG2_E
    whole = np.floor(y)
    return shift(exp2_fraction(y - whole), int(whole))


@kernel
def softmax(total: F64, n: int, share: F64) -> None:
    """Write e^total over their sum."""
    largest = total[0]
    for c in range(1, n):
        largest = max(largest, total[c])
    normaliser = 0.0
    for c in range(n):
        share[c] = exp(total[c] - largest)
        normaliser += share[c]
    for c in range(n):
        share[c] /= normaliser


@kernel
def blend_learn(
    weights: F64,
    squares: F64,
    context: F64,
    features: F64,
    share: F64,
    n: int,
    chosen: int,
    reward: float,
    rate: float,
) -> None:
    """Take an AdaGrad step on the log-likelihood of the choice among the pooled items.

    With a negative reward, the step is away from it, as far as it was expected.
    """
    scale = reward if reward > 0.0 else reward * share[chosen]
    for f in range(weights.shape[1]):
        expected = 0.0
        for c in range(n):
            expected += share[c] * features[f, c]
        gradient = scale * (features[f, chosen] - expected)
        for q in range(len(context)):
            if context[q] != 0.0:
                g = context[q] * gradient
                squares[q, f] += g * g
                weights[q, f] += rate * g / np.sqrt(squares[q, f])


@kernel
def parts_of(features: F64, combined: F64, group: I32, places: I32, n: int, parts: F64) -> None:
    """Write what each group of features adds to the total of the pooled items at some places."""
    parts[:n] = 0.0
    for i in range(n):
        for f in range(len(combined)):
            parts[i, group[f]] += combined[f] * features[f, places[i]]


@kernel
def read_places(
    pool: I32,
    total: F64,
    features: F64,
    combined: F64,
    group: I32,
    places: I32,
    n_groups: int,
    numbers: I32,
    totals: F64,
) -> None:
    """Write the items at some places of the pool, their totals, and what adds to these.

    That as a number beside the item (numbers: [2, places]): the bit 2^g stands for group g, of the
    first so many.
    """
    for i in range(len(places)):
        numbers[0, i], totals[i] = pool[places[i]], total[places[i]]
        numbers[1, i] = 0
        for g in range(n_groups):
            part = 0.0
            for f in range(len(combined)):
                if group[f] == g:
                    part += combined[f] * features[f, places[i]]
            if part > 0.0:
                numbers[1, i] |= 1 << g


@kernel
def rank_of(total: F64, n: int, chosen: int) -> int:
    """Return twice the rank of a pooled item by its total (ties half)."""
    own, doubled = total[chosen], 0
    for c in range(n):
        if c == chosen:
            continue
        if total[c] > own:
            doubled += 2
        elif total[c] == own:
            doubled += 1
    return doubled


@kernel
def select_top(total: F64, pool: I32, n_pooled: int, key: U64, best: I32, k: int) -> int:
    """Write the places of the k best pooled items, best first, ties by the id's key."""
    n = 0
    for c in range(n_pooled):
        score, item = total[c], pool[c]
        if n == k:
            worst = total[best[n - 1]]
            if score < worst or (score == worst and key[item] > key[pool[best[n - 1]]]):
                continue
            n -= 1
        place = n
        while place > 0:
            other = total[best[place - 1]]
            if other > score or (other == score and key[pool[best[place - 1]]] < key[item]):
                break
            best[place] = best[place - 1]
            place -= 1
        best[place] = c
        n += 1
    return n


@kernel
def read_best(
    total: F64,
    pool: I32,
    n_pooled: int,
    key: U64,
    best: I32,
    k: int,
    features: F64,
    combined: F64,
    group: I32,
    n_groups: int,
    numbers: I32,
    totals: F64,
) -> int:
    """Write the places of the k best like `select_top`, and what `read_places` does; return how
    many there are.
    """
    n = select_top(total, pool, n_pooled, key, best, k)
    read_places(pool, total, features, combined, group, best[:n], n_groups, numbers, totals)
    return n


def packed_rows(rows: NDArray[Any], size: NDArray[Any]) -> NDArray[Any]:
    """Return the first size[i] values of each row i in one array; other threads run meanwhile."""
    packed = np.empty(int(size.sum()), rows.dtype)
    # To numba, one size of a column lies together and more lie apart: as if of two types.
    pack_rows(rows, np.ascontiguousarray(size), packed)
    return packed


@kernel
def sigmoid(x: float) -> float:
    """Return 1 / (1 + e^-x), the same bytes on every processor."""
    if x >= 0.0:
        return 1.0 / (1.0 + exp(-x))
    small = exp(x)
    return small / (1.0 + small)


@kernel
def _squashed(score: float) -> float:
    """Return a score on a scale of -1 to 1."""
    return score / (abs(score) + 5.0)


@kernel
def _click_odds(weights: F64, place: int, score: float) -> float:
    """Return the log-odds of a click; weights of all, of the score, of each place."""
    return weights[0] + weights[1] * _squashed(score) + weights[2 + place]


@kernel
def clicks_expected(weights: F64, scores: F64, expected: F64) -> None:
    """Write how likely a click is on each place of a slate."""
    for place in range(len(scores)):
        expected[place] = sigmoid(_click_odds(weights, place, scores[place]))


@kernel
def clicks_learn(weights: F64, scores: F64, clicked: F64, rate: float) -> None:
    """Take a step on the log-likelihood of each place's outcome; NaN teaches nothing."""
    for place in range(len(scores)):
        score = scores[place]
        if np.isnan(clicked[place]):
            continue
        error = clicked[place] - sigmoid(_click_odds(weights, place, score))
        weights[0] += rate * error
        weights[1] += rate * error * _squashed(score)
        weights[2 + place] += rate * error


@kernel
def count_outcomes(edges: F64, expected: F64, clicked: F64, sums: F64) -> None:
    """Add places, clicks expected and clicks that came to the bins of what was expected."""
    for place in range(len(expected)):
        bin_ = 0
        while bin_ < len(edges) and expected[place] >= edges[bin_]:
            bin_ += 1
        sums[bin_, 0] += 1.0
        sums[bin_, 1] += expected[place]
        sums[bin_, 2] += clicked[place]


@kernel
def detect(m: F64, difference: float, margin: float) -> float:
    """Take one difference into an e-detector (see `EDetector`); return its statistic."""
    x = (difference - margin) / (1.0 + margin)
    weight, total = 1.0, 0.0
    for k in range(len(m)):
        m[k] = min((m[k] + 1.0 / len(m)) * (1.0 + weight * x), 1e300)
        total += m[k]
        weight *= 0.5
    return total


@kernel
def n_below(values: F64, room: F64, threshold: float, margin: float, most: int) -> int:
    """Return how many differences it takes at least until an e-detector is at a threshold, or
    `most` where it takes more.

    `values`: its M and their sum; `room` for the former. No difference does more than one of 1.
    """
    for k in range(len(room)):
        room[k] = values[k]
    for n in range(1, most):
        if detect(room, 1.0, margin) >= threshold:
            return n
    return most


# Of ADWIN's window: how many values, their sum, and that of their squared distances to the mean;
# how many it has taken since it began, and whether the last one showed a change.
ADWIN_FIELDS = _N, _TOTAL, _SPREAD, _TAKEN, _HAS_CHANGED = range(5)
ADWIN_SUMS = 5
ADWIN_LOOKS_EACH = 32
# Parts of a window are compared from so many values on; and a window, once it has more than that.
_ADWIN_PART, _ADWIN_WINDOW = 5, 10


@kernel
def adwin_take(
    window: F64, totals: F64, spreads: F64, sizes: I64, values: F64, delta: float
) -> float:
    """Take values into ADWIN's window (see `Adwin`); return the mean before the last one if that
    showed a change, else -1.

    Level i keeps up to five `totals` and `spreads` of 2^i values each, the oldest first.
    """
    before = 0.0
    for value in values:
        if window[_HAS_CHANGED] != 0.0:
            window[:] = 0.0
            sizes[:] = 0
        before = window[_TOTAL] / window[_N] if window[_N] > 0.0 else 0.0
        _adwin_add(window, totals, spreads, sizes, value)
        window[_TAKEN] += 1.0
        if window[_TAKEN] % ADWIN_LOOKS_EACH == 0.0:
            while _adwin_has_change(window, totals, sizes, delta):
                _adwin_drop(window, totals, spreads, sizes)
                window[_HAS_CHANGED] = 1.0
    return before if window[_HAS_CHANGED] != 0.0 else -1.0


@kernel
def _adwin_add(window: F64, totals: F64, spreads: F64, sizes: I64, value: float) -> None:
    """Add a value; of six sums of a size, the two oldest become one of the next."""
    window[_N] += 1.0
    n = window[_N]
    if n > 1.0:
        off = value - window[_TOTAL] / (n - 1.0)
        window[_SPREAD] += (n - 1.0) * off * off / n
    window[_TOTAL] += value
    totals[0, sizes[0]], spreads[0, sizes[0]] = value, 0.0
    sizes[0] += 1
    level, each = 0, 1.0
    while sizes[level] > ADWIN_SUMS:
        off = totals[level, 0] / each - totals[level, 1] / each
        upper = sizes[level + 1]
        totals[level + 1, upper] = totals[level, 0] + totals[level, 1]
        spread = spreads[level, 0] + spreads[level, 1] + each * 0.5 * off * off
        spreads[level + 1, upper] = spread
        sizes[level + 1] += 1
        _adwin_shift(totals, spreads, sizes, level, 2)
        level, each = level + 1, each * 2.0


@kernel
def _adwin_shift(totals: F64, spreads: F64, sizes: I64, level: int, n: int) -> None:
    """Take the n oldest sums out of a level."""
    sizes[level] -= n
    for place in range(sizes[level]):
        totals[level, place] = totals[level, place + n]
        spreads[level, place] = spreads[level, place + n]


@kernel
def _adwin_oldest(sizes: I64) -> int:
    """Return the level of the oldest sum."""
    level = len(sizes) - 1
    while level > 0 and sizes[level] == 0:
        level -= 1
    return level


@kernel
def _adwin_has_change(window: F64, totals: F64, sizes: I64, delta: float) -> bool:
    """Tell whether the means of two parts of the window differ by more than by chance."""
    n = window[_N]
    if n <= _ADWIN_WINDOW:
        return False
    # The logarithm is the processor's library's, the only one in here: River's is, too.
    doubt = np.log(2.0 * np.log(n) / delta)
    variance = window[_SPREAD] / n
    n_old, n_new, old, new = 0.0, n, 0.0, window[_TOTAL]
    for level in range(_adwin_oldest(sizes), -1, -1):
        each = float(1 << level)
        for place in range(sizes[level]):
            n_old, n_new = n_old + each, n_new - each
            old, new = old + totals[level, place], new - totals[level, place]
            if level == 0 and place == sizes[0] - 1:
                return False
            if n_old < _ADWIN_PART or n_new < _ADWIN_PART:
                continue
            both = 1.0 / (n_old - _ADWIN_PART + 1.0) + 1.0 / (n_new - _ADWIN_PART + 1.0)
            bound = np.sqrt(2.0 * both * variance * doubt) + 2.0 / 3.0 * doubt * both
            if abs(old / n_old - new / n_new) > bound:
                return True
    return False


@kernel
def _adwin_drop(window: F64, totals: F64, spreads: F64, sizes: I64) -> None:
    """Let the oldest sum go."""
    level = _adwin_oldest(sizes)
    n, total = float(1 << level), totals[level, 0]
    window[_N] -= n
    window[_TOTAL] -= total
    off = total / n - window[_TOTAL] / window[_N]
    window[_SPREAD] -= spreads[level, 0] + n * window[_N] * off * off / (n + window[_N])
    _adwin_shift(totals, spreads, sizes, level, 1)


@kernel
def watch_outcomes(
    places: I32,
    expected: F64,
    clicked: F64,
    n_shown: I64,
    surplus: F64,
    baseline: F64,
    m: F64,
    armed: int,
    margin: float,
    statistics: F64,
) -> None:
    """Take a slate's outcomes into the detectors of the items shown, by their rows.

    An item's surplus is the sum of (outcome - expectation). What counts is what goes beyond its
    baseline, taken when it has been shown `armed` times (0 until then), and at every blessing (see
    `baselines`).
    """
    for i in range(len(places)):
        row = places[i]
        difference = clicked[i] - expected[i]
        statistics[i] = 0.0
        if n_shown[row] >= armed:
            if baseline[row] == 0.0:
                baseline[row] = baseline_of(n_shown[row], surplus[row])
            beyond = min(max(difference - baseline[row], -1.0), 1.0)
            statistics[i] = detect(m[row], beyond, margin)
        n_shown[row] += 1
        surplus[row] += difference


@kernel
def baseline_of(n_shown: int, surplus: float) -> float:
    """Return a mean surplus, and two standard errors of a yes or no on top of it."""
    return surplus / n_shown + 1.0 / np.sqrt(n_shown)


@kernel
def baselines(n_shown: I64, surplus: F64, baseline: F64, armed: int, most: int) -> None:
    """Take the baselines of the armed items anew; of the oft shown, let half be forgotten."""
    for row in range(len(n_shown)):
        if n_shown[row] >= armed:
            baseline[row] = baseline_of(n_shown[row], surplus[row])
            if n_shown[row] > most:
                n_shown[row] //= 2
                surplus[row] *= 0.5


# -- exploration ------------------------------------------------------------------------------


@kernel
def label_profile(
    of_item: I32, items: I32, weights: F64, n_items: int, labels: I32, strengths: F64
) -> int:
    """Write the labels of a history, each once, with the weight of the latest item that has it.

    `of_item` holds labels from 1 on, 0 after the last; here they count from 0.
    """
    n = 0
    for r in range(n_items):
        for number in of_item[items[r]]:
            if number == 0:
                break
            if n < len(labels) and place_of(labels, n, number - 1) == MISS:
                labels[n] = number - 1
                strengths[n] = weights[r]
                n += 1
    return n


@kernel
def labels_learn(
    pool: Pool,
    rows: Neighbours,
    slots: I32,
    generation: I32,
    key: U64,
    sketch: U16,
    place: I64,
    own_labels: I32,
    reward: float,
    labels: I32,
    strengths: F64,
    n: int,
    shrink: float,
) -> None:
    """Count an item's labels together with those of a history, also each with itself.

    Like `covisit_learn`, for every one of the item's labels. A pair of two gets its other half when
    they come in the other order; one with itself cannot, and so counts twice.
    """
    empty = inverse_norm(0.0, shrink)
    for number in own_labels:
        if number == 0:
            break
        label = number - 1
        own = _own_neighbours(pool, rows, slots, label, empty)
        handle = (np.int64(generation[label]) << 32) | label
        for r in range(n):
            other = labels[r]
            amount = reward * np.sqrt(strengths[r])
            theirs = (np.int64(generation[other]) << 32) | other
            if other == label:
                amount *= 2.0
            _add_neighbour(rows, own, theirs, amount, generation, key, sketch, label, False)
            if other != label:
                slot = _own_neighbours(pool, rows, slots, other, empty)
                _add_neighbour(rows, slot, handle, amount, generation, key, sketch, other, False)
        rows.mass[own] += reward
        rows.inv_norm[own] = inverse_norm(rows.mass[own], shrink)
    sketch_age(sketch, place)


@kernel
def drawn(seed: Any, number: int) -> float:
    """Return the number-th of many numbers from 0 to below 1 that a seed stands for."""
    step = np.uint64(0x9E3779B97F4A7C15) * np.uint64(number + 1)
    return float(mix(np.uint64(seed) + step) >> np.uint64(11)) / 9007199254740992.0  # 2^53


@kernel
def exploring(
    seed: Any,
    share: float,
    cold: I32,
    buffers: Any,
    wanted: I32,
    tick: int,
    places: I32,
    propensity: F64,
) -> int:
    """Draw which of the last slots explore, one coin each; write how likely what stands there is,
    if none does. Return how many do.

    What is at `places` of the pool, the slate, is eligible no more. The n-th slot may explore if
    there are more than n eligible cold items.
    """
    for place in places:
        buffers.mark[buffers.item[place]] = tick
    n_cold, n, allowed = 0, 0, _filter_of(buffers, wanted)
    for item in cold:
        if n_cold == len(propensity):
            break
        if is_eligible(allowed, tick, item):
            n_cold += 1
    for slot in range(len(propensity)):
        propensity[slot] = 1.0 - share if slot < n_cold else 1.0
        if slot < n_cold and drawn(seed, 2 * slot) < share:
            n += 1
    return n


@kernel
def optimism(shown: int, taken: int) -> float:
    """Return how often an item may be taken at best: two standard errors above the mean.

    Once in twenty showings is believed beforehand. Where showings are not logged, each event stands
    for `SHOWN_PER_EVENT` of them.
    """
    n = max(shown, SHOWN_PER_EVENT * taken)
    mean = (taken + 1.0) / (n + 20.0)
    return mean + 2.0 * np.sqrt(mean * (1.0 - mean) / (n + 1.0))


@kernel
def sum_labels(
    kindred: Any, version: int, all_live: bool, items: I32, weights: F64, n_items: int
) -> None:
    """Sum up what goes with the labels of a history, each sum multiplied for the label itself."""
    labels, strengths, slots = kindred.labels, kindred.strengths, kindred.slots[version]
    n = label_profile(kindred.of_item, items, weights, n_items, labels, strengths)
    rows, sums = kindred.rows, kindred.sums
    n = neighbours_score(rows, slots, kindred.generation, all_live, labels, strengths, n, sums)
    damp_sums(sums, n, rows.inv_norm, slots)


@kernel
def rate_cold(
    cold: I32,
    buffers: Any,
    wanted: I32,
    tick: int,
    shown: I32,
    taken: I32,
    kindred: Any,
    floor: float,
    rated: I32,
    value: F64,
) -> int:
    """Write the eligible cold items and what each is worth to a user; return how many.

    `kindred` has summed up what the labels of the user's history say of other labels. An item's
    affinity is the sum over its labels, over the root of their number and over the largest
    affinity; it is worth its optimism times that, and `floor` times that if nothing speaks for it.
    """
    sums, of_item, allowed = kindred.sums, kindred.of_item, _filter_of(buffers, wanted)
    n, largest, first = 0, 0.0, sums.tick[0] << 32
    for item in cold:
        if not is_eligible(allowed, tick, item):
            continue
        affinity, n_labels = 0.0, 0
        for number in of_item[item]:
            if number == 0:
                break
            n_labels += 1
            label = np.int64(number - 1)
            at = _find_sum(sums.key, first, label)
            if sums.key[at] == first | label:
                affinity += sums.sum[at]
        rated[n], value[n] = item, affinity / np.sqrt(max(n_labels, 1))
        largest = max(largest, value[n])
        n += 1
    scale = 1.0 / largest if largest > 0.0 else 0.0
    for c in range(n):
        value[c] = optimism(shown[rated[c]], taken[rated[c]]) * (floor + value[c] * scale)
    return n


@kernel
def best_cold(rated: I32, value: F64, tie: U64, n: int, most: int, key: U64, salt: Any) -> int:
    """Put the best cold items first, in order, at most so many; return how many.

    Ties are decided by a hash of item and user.
    """
    n_best = min(n, most)
    for c in range(n):
        tie[c] = mix(key[rated[c]] ^ salt)
    for place in range(n_best):
        best = place
        for c in range(place + 1, n):
            if value[c] > value[best] or (value[c] == value[best] and tie[c] < tie[best]):
                best = c
        rated[place], rated[best] = rated[best], rated[place]
        value[place], value[best] = value[best], value[place]
        tie[place], tie[best] = tie[best], tie[place]
    return n_best


@kernel
def rate_best_cold(
    cold: I32,
    buffers: Any,
    wanted: I32,
    tick: int,
    shown: I32,
    taken: I32,
    kindred: Any,
    version: int,
    all_live: bool,
    items: I32,
    weights: F64,
    n_items: int,
    floor: float,
    most: int,
    key: U64,
    salt: Any,
    rated: I32,
    value: F64,
    tie: U64,
) -> int:
    """Write the best eligible cold items for a history, best first, at most so many; return how
    many. See `sum_labels`, `rate_cold` and `best_cold`.
    """
    sum_labels(kindred, version, all_live, items, weights, n_items)
    n = rate_cold(cold, buffers, wanted, tick, shown, taken, kindred, floor, rated, value)
    return best_cold(rated, value, tie, n, most, key, salt)


@kernel
def deal_cold(
    seed: Any, share: float, rated: I32, value: F64, n_best: int, chosen: I32, propensity: F64
) -> None:
    """Write which item each slot shows, MISS where it does not explore, and how likely that was.

    The items are dealt out to the slots, best first; a slot that explores draws one of its own, by
    what they are worth.
    """
    n_slots = len(chosen)
    for slot in range(n_slots):
        chosen[slot], propensity[slot] = MISS, 1.0 - share if slot < n_best else 1.0
        if slot >= n_best or drawn(seed, 2 * slot) >= share:
            continue
        whole = 0.0
        for c in range(slot, n_best, n_slots):
            whole += value[c]
        rest = drawn(seed, 2 * slot + 1) * whole
        for c in range(slot, n_best, n_slots):
            chosen[slot], propensity[slot] = rated[c], share * value[c] / whole
            rest -= value[c]
            if rest < 0.0:
                break


# -- ignored ----------------------------------------------------------------------------------


@kernel
def ignored_add(handles: I64, times: U8, n: int, handle: int) -> int:
    """Count one more time that a handle was ignored and put it first; return how many there are.

    The last one goes where there is no room.
    """
    place, count = 0, 1
    while place < n and handles[place] != handle:
        place += 1
    if place < n:
        count = min(times[place] + 1, 255)
    else:
        n = min(n + 1, len(handles))
        place = n - 1
    for later in range(place, 0, -1):
        handles[later], times[later] = handles[later - 1], times[later - 1]
    handles[0], times[0] = handle, count
    return n


@kernel
def ignored_drop(handles: I64, times: U8, n: int, handle: int) -> int:
    """Take a handle out; return how many are left."""
    kept = 0
    for place in range(n):
        if handles[place] != handle:
            handles[kept], times[kept] = handles[place], times[place]
            kept += 1
    for place in range(kept, n):
        handles[place], times[place] = 0, 0
    return kept


@kernel
def lower_ignored(
    handles: I64,
    times: U8,
    n: int,
    generation: I32,
    weight: float,
    pooled: I64,
    tick: int,
    pool: I32,
    n_pool: int,
    total: F64,
) -> None:
    """Take from the total of each pooled item that was ignored `weight` for each time."""
    for i in range(n):
        item = handles[i] & INDEX_MASK
        if is_live(handles[i], generation) and pooled[item] == tick:
            total[place_of(pool, n_pool, item)] -= weight * times[i]


# -- events -----------------------------------------------------------------------------------

# Of `whole` and `real`, which are the same numbers: what is known of an event before it is learned.
USER, ITEM, TYPE, TIME, WATERMARK, HOW, BEFORE, REWARD = range(8)
# The bits of HOW, and of what is `found` out.
IS_JUDGED, IS_LIMITED, IS_NEW_ITEM, IS_ANSWER = 1, 2, 4, 8
IS_REPEAT, IS_COMPARED, IS_IN_TOP, ANSWERS = 1, 2, 4, 8
TOP_10_DOUBLED = 20


@kernel
def learn_events(
    personal: Any,
    shared: Any,
    buffers: Any,
    kindred: Any,
    books: Any,
    harm: F64,
    outside: F64,
    asked: F64,
    versions: I64,
    alone: I64,
    n: int,
    number: int,
    seq: int,
    tick: int,
    items: I32,
    weights: F64,
    times: I64,
    refused: I32,
    request: int,
    most: tuple[int, int, int],
    nothing: I32,
    all_live: bool,
    exclude_had: bool,
    had_length: int,
    teach_repeats: bool,
    is_compared: bool,
    asks: bool,
    asks_answers: bool,
    knows_labels: bool,
    margin: float,
) -> tuple[int, int]:
    """Judge and learn n events, one after the other, and note all that is counted of them.

    `versions` rank those with a reward above 0 if it `is_compared`, else `alone` does, which is the
    last of them, and taught. `number`, `seq` (see `keep_event`) and `tick` are the first event's,
    and `request` is what it is ranked as. There must be room for all of them. Of what is compared,
    the detectors of harm are told, and the one of ASK if it `asks`; the rest is in `books`. Return
    how many taught with a reward above 0, and how many more places of the pool had-sets take.
    """
    n_learned = n_rooms = 0
    taught, last = alone[0], len(harm) - 1
    for i in range(n):
        user, item, type_index = books.whole[i, USER], books.whole[i, ITEM], books.whole[i, TYPE]
        time_ms, reward, how = books.whole[i, TIME], books.real[i, REWARD], books.whole[i, HOW]
        compared = versions if is_compared and reward > 0.0 else alone
        ranks = books.ranks[i, : len(compared)]
        is_limited, is_new = how & IS_LIMITED != 0, how & IS_NEW_ITEM != 0
        n_items, _, _, is_ranked, is_repeat = blend_judge(
            personal,
            shared,
            buffers,
            compared,
            user,
            MISS if is_new else item,
            type_index,
            reward,
            time_ms,
            items,
            weights,
            times,
            refused,
            all_live,
            how & IS_JUDGED != 0,
            not is_limited,
            exclude_had,
            request + i,
            most,
            nothing,
            ranks,
        )
        found = 0
        if is_repeat and not teach_repeats:
            found = IS_REPEAT
        is_taught = not (is_limited or found)
        if is_ranked and reward > 0.0:
            found |= note_ranks(books, i, ranks, reward, how & IS_ANSWER != 0)
        if found & IS_COMPARED:
            champion, shadow, anchor = books.losses[i, 0], books.losses[i, 1], books.losses[i, 2]
            harm[last] = detect(harm[:last], champion - anchor, margin)
            if not found & IS_IN_TOP:
                outside[last] = detect(outside[:last], champion - anchor, margin)
            if asks and (asks_answers or not found & ANSWERS):
                asked[last] = detect(asked[:last], shadow - champion, margin)
        books.found[i] = found
        renew(books.users_older, books.users_newer, user + 1)
        renew(books.items_older, books.items_newer, item + 1)
        books.users_touched[user] = books.items_touched[item] = tick + i
        if personal.n_events[user] == 0:
            books.user_since[user] = number + i
        keep_event(
            books.kept,
            seq + i,
            books.whole[i, BEFORE],
            number + i if is_taught else -(number + i),
            personal,
            books.users_generation,
            user,
            item,
            reward,
            time_ms,
        )
        if is_taught:
            if knows_labels and reward > 0.0 and kindred.of_item[item, 0] != 0:
                learn_labels(kindred, taught, items, weights, n_items, item, reward)
            blend_teach(
                personal,
                shared,
                taught,
                items,
                weights,
                times,
                n_items,
                user,
                False,
                item,
                reward,
                time_ms,
                all_live,
            )
            count_taught(books.taught, item, books.whole[i, WATERMARK])
            n_learned += reward > 0.0
        if not append_event(personal, user, item, time_ms, reward, type_index, had_length):
            n_rooms += add_had(personal, user, type_index, had_length)
    return n_learned, n_rooms


@kernel
def note_ranks(books: Any, i: int, ranks: I64, reward: float, is_answer: bool) -> int:
    """Add ranks to the figures of the versions (champion, shadow, anchor), and write their losses,
    if there are three; return what is found of the event.
    """
    champion, shadow = ranks[0], ranks[len(ranks) - 1]
    note_rank(books.champion, books.discounts, champion, reward)
    note_rank(books.shadow, books.discounts, shadow, reward)
    if len(ranks) < 3:
        return 0
    anchor = ranks[1]
    note_rank(books.anchor, books.discounts, anchor, reward)
    books.losses[i, 0] = loss_of(books.discounts, champion)
    books.losses[i, 1] = loss_of(books.discounts, shadow)
    books.losses[i, 2] = loss_of(books.discounts, anchor)
    by_champion, by_shadow = 0 <= champion < TOP_10_DOUBLED, 0 <= shadow < TOP_10_DOUBLED
    found = IS_COMPARED
    if by_champion or 0 <= anchor < TOP_10_DOUBLED:
        found |= IS_IN_TOP
    if is_answer and (by_champion or by_shadow):
        found |= ANSWERS
    return found


@kernel
def note_rank(figures: Figures, discounts: F64, doubled_rank: int, reward: float) -> None:
    """Take the rank of one judged event: see `Prequential`."""
    counts, sums = figures.counts, figures.sums
    place = counts[0] % len(figures.recent)
    figures.recent[place], figures.recent_reward[place] = doubled_rank, reward
    counts[0] += 1
    if doubled_rank != MISS and doubled_rank < 2 * TOP_10_DOUBLED:
        if doubled_rank < TOP_10_DOUBLED:
            counts[1] += 1
            sums[2] += reward
        counts[2] += 1
        sums[0] += 2.0 / (doubled_rank + 2.0)
        sums[1] += discounts[doubled_rank]


@kernel
def loss_of(discounts: F64, doubled_rank: int) -> float:
    """Return 1 less the discount of a rank, or 1 beyond the deepest."""
    is_far = doubled_rank == MISS or doubled_rank >= len(discounts)
    return 1.0 if is_far else 1.0 - discounts[doubled_rank]


@kernel
def renew(older: I32, newer: I32, number: int) -> None:
    """Make an id the last touched: see `IdIndex`."""
    before, after = older[number], newer[number]
    newer[before], older[after] = after, before
    last = older[0]
    newer[last] = older[0] = number
    older[number], newer[number] = last, 0


@kernel
def keep_event(
    kept: Kept,
    seq: int,
    before: int,
    number: int,
    personal: Any,
    users_generation: I32,
    user: int,
    item: int,
    reward: float,
    time_ms: int,
) -> None:
    """Keep the seq-th event, which is about to enter its user's history, if any are kept."""
    capacity = len(kept.number)
    if capacity == 0:
        return
    place = seq % capacity
    kept.number[place], kept.before[place] = number, before
    kept.user[place] = (np.int64(users_generation[user]) << 32) | user
    kept.item[place] = (np.int64(personal.generation[item]) << 32) | item
    kept.time_ms[place], kept.reward[place] = time_ms, reward
    kept.nth[place] = personal.n_events[user]


@kernel
def count_taught(taught: Taught, item: int, time_ms: int) -> None:
    """Take note that an item has taught. Time never goes back."""
    if taught.first_ms[0] == MISS:
        taught.first_ms[0] = time_ms
    day = time_ms // DAY_MS
    if day != taught.day[item]:
        taught.before[item] += taught.today[item]
        taught.today[item], taught.day[item] = 0, day
    taught.today[item] += 1


@kernel
def learn_labels(
    kindred: Any, version: int, items: I32, weights: F64, n_items: int, item: int, reward: float
) -> None:
    """Teach the labels of an item what they came after: see `Labels`."""
    of_item, labels, strengths = kindred.of_item, kindred.labels, kindred.strengths
    n = label_profile(of_item, items, weights, n_items, labels, strengths)
    labels_learn(
        kindred.pool,
        kindred.rows,
        kindred.slots[version],
        kindred.generation,
        kindred.key,
        kindred.sketch,
        kindred.aged,
        of_item[item],
        reward,
        labels,
        strengths,
        n,
        kindred.shrink,
    )


@kernel
def add_had(personal: Any, user: int, type_index: int, had_length: int) -> int:
    """Add the item of a user's last event to their had-set; return what more of the pool it takes.

    Where the set is full, the oldest goes. There has to be a place in the pool.
    """
    n_rooms = 0
    if personal.had_count[user] >= had_length:
        n_rooms -= rooms_of(personal, user)
        had_drop(personal, user)
        personal.had_count[user] -= 1
        is_any = personal.had_count[user] > 0
        personal.had_start[user] = (whole(personal.had_start[user]) + 1) % ROOM if is_any else 0
        n_rooms += rooms_of(personal, user)
    n_rooms += needs_room(personal, user)
    had_add(personal, user, type_index)
    return n_rooms


@kernel
def rooms_of(personal: Any, user: int) -> int:
    """Return how many places of the pool a had-set takes, each for ROOM items."""
    count = whole(personal.had_count[user])
    return (whole(personal.had_start[user]) + count - 1) // ROOM + 1 if count > 0 else 0
