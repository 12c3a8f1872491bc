"""Lines of a file that cannot be read: each is named and skipped, and too many of them stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from app.errors import InvalidRequest

MAX_BAD_SHARE = 0.01
# Below this many lines a share says little; it is then tested at the end of the data only.
MIN_LINES_FOR_SHARE = 1_000
SHOWN = 20


class BadLine(NamedTuple):
    """A line that was skipped. `line` counts from 1; in a Parquet file it is the row."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


class BadLines:
    """Counts lines and those that were skipped; `n_lines` is its user's to count."""

    def __init__(self, on_bad: Callable[[BadLine], None] = lambda _: None) -> None:
        self.n_lines = self.n_bad = 0
        self._on_bad = on_bad
        self._first: BadLine | None = None

    def report(self, path: Path, line: int, message: str) -> None:
        """Count and tell of a line that is skipped; raise InvalidRequest if these are too many."""
        bad = BadLine(path, line, message)
        self.n_bad += 1
        self._first = self._first or bad
        self._on_bad(bad)
        if self.n_lines >= MIN_LINES_FOR_SHARE:
            self.check_share()

    def check_share(self) -> None:
        """Raise InvalidRequest if more than 1 % of the lines so far are bad."""
        if self.n_bad > MAX_BAD_SHARE * self.n_lines:
            raise InvalidRequest(
                f"{self.n_bad} of {self.n_lines} lines cannot be read, more than"
                f" {MAX_BAD_SHARE:.0%} of them; the first: {self._first}"
            )


def shown(console: Console) -> Callable[[BadLine], None]:
    """Return what prints the first of the lines that it is told of."""
    n_shown = 0

    def show(line: BadLine) -> None:
        nonlocal n_shown
        n_shown += 1
        if n_shown <= SHOWN:
            console.print(
                f"skipped {line}", style="yellow", highlight=False, markup=False, soft_wrap=True
            )

    return show
