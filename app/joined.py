"""Several conditions on items at once: each answered for the same items, or all of them barred."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from app.columns import Columns
from app.conditions import Condition
from learners import kernels
from learners.candidates import ALWAYS, Program
from learners.kernels import F64, I32, I64, U8


class Joined(NamedTuple):
    """Programs one after the other. That of condition i is `clauses[ends[i - 1] : ends[i]]`."""

    clauses: F64  # [clauses, 4]
    values: F64
    ends: I64


def join(columns: Columns, conditions: Sequence[Condition]) -> Joined:
    """Return some conditions as kernels test them. It holds until `columns.names` changes."""
    return chain([columns.program(condition) for condition in conditions])


def chain(programs: Sequence[Program]) -> Joined:
    """Return programs one after the other."""
    clauses, values = [ALWAYS.clauses], [ALWAYS.values]
    n_values, ends = 0, []
    for program in programs:
        clauses.append(_behind(n_values, program.clauses))
        values.append(program.values)
        n_values += len(program.values)
        ends.append(len(program.clauses))
    return Joined(np.concatenate(clauses), np.concatenate(values), np.cumsum(ends, dtype=np.int64))


def matches_each(columns: Columns, joined: Joined, items: I32) -> U8:
    """Return for each condition 1 for each of some items that meets it, else 0."""
    labels = columns.history.categories.labels
    met: U8 = kernels.meet_each(*joined, columns.values, labels, items)
    return met


def barring(joined: Joined) -> Program:
    """Return what holds of the items that meet none of some conditions."""
    parts, begin = [ALWAYS.clauses], 0
    for end in joined.ends.tolist():
        parts += [np.array([[kernels.BARRED, end - begin, 0.0, 0.0]]), joined.clauses[begin:end]]
        begin = end
    return Program(np.concatenate(parts), joined.values)


def both(one: Program, other: Program) -> Program:
    """Return what holds of the items that meet two programs."""
    clauses = _behind(len(one.values), other.clauses)
    return Program(
        np.concatenate([one.clauses, clauses]), np.concatenate([one.values, other.values])
    )


def _behind(n_values: int, clauses: F64) -> F64:
    """Return clauses for values that so many others come before."""
    if not n_values:
        return clauses
    moved = clauses.copy()
    names = (moved[:, 0] >= kernels.ONE_OF) & (moved[:, 0] != kernels.BARRED)
    moved[names, 2:] += n_values
    return moved
