"""The examples of a page: what it says to run, and what it says will be answered."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HERE = re.compile(r"<<'?(\w+)'?")
# What is free in its form: another decision has other evidence.
OPEN = {"evidence"}


class Example(NamedTuple):
    """One command (or block of Python) of a page, and the JSON shown as its answer, if any."""

    page: Path
    line: int
    text: str
    is_python: bool = False
    answer: Any = None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}: {self.text}"


def examples_of(page: Path) -> list[Example]:
    """Return all commands and blocks of Python of a page, in order.

    Commands are the indented blocks; JSON in a fence behind a command is its answer.
    """
    lines = page.read_text().split("\n")
    found: list[Example] = []
    at, since = 0, 0
    while at < len(lines):
        if lines[at].startswith("```"):
            end = lines.index("```", at + 1)
            body = "\n".join(lines[at + 1 : end])
            if lines[at] == "```python":
                found.append(Example(page, at + 1, body, is_python=True))
            elif lines[at] == "```json" and not any(line.strip() for line in lines[since:at]):
                found[-1] = found[-1]._replace(answer=json.loads(body))
            at = end + 1
        elif lines[at].startswith("    ") and (at == 0 or not lines[at - 1].strip()):
            end = at
            while end < len(lines) and _goes_on(lines[at:end], lines[end]):
                end += 1
            found += [Example(page, at + 1 + n, text) for n, text in _commands(lines[at:end])]
            at = since = end
        else:
            at += 1
    return found


def _goes_on(block: list[str], line: str) -> bool:
    """Tell whether a line belongs to a block: in a here-document, a blank one does, too."""
    return line.startswith("    ") or (not line and _is_open("\n".join(block)))


def _is_open(text: str) -> bool:
    """Tell whether a here-document has begun in a text, and not ended."""
    begun = list(_HERE.finditer(text))
    return bool(begun) and not re.search(rf"^ *{begun[-1][1]}$", text[begun[-1].end() :], re.M)


def _commands(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yield the commands of a block with the numbers of their first lines."""
    begin, text = 0, ""
    for number, line in enumerate(lines):
        text += line.removeprefix("    ") + "\n"
        if _is_whole(text):
            yield begin, text.strip()
            begin, text = number + 1, ""
    assert not text, f"a command without an end: {text}"


def _is_whole(text: str) -> bool:
    if _HERE.search(text):
        return not _is_open(text)
    try:
        shlex.split(text, comments=True)
    except ValueError:  # a quotation is open
        return False
    return not text.rstrip().endswith(("\\", "|"))


def differences(shown: Any, real: Any, where: str = "") -> Iterator[str]:
    """Yield in what the shape of an answer that is shown differs from that of a real one.

    Shapes are keys, and kinds of values; null may stand for anything.
    """
    if isinstance(shown, dict) and isinstance(real, dict):
        for name in sorted(shown.keys() ^ real.keys()):
            yield f"{where}.{name} is {'not answered' if name in shown else 'not shown'}"
        for name in sorted(shown.keys() & real.keys() - OPEN):
            yield from differences(shown[name], real[name], f"{where}.{name}")
    elif isinstance(shown, list) and isinstance(real, list):
        if shown and real:
            yield from differences(_merged(shown), _merged(real), f"{where}[]")
    elif None not in (shown, real) and _kind(shown) != _kind(real):
        yield f"{where} is shown as {_kind(shown)} and is {_kind(real)}"


def _merged(values: list[Any]) -> Any:
    """Return one value with all that any of some values have."""
    if not all(isinstance(value, dict) for value in values):
        return next((value for value in values if value is not None), None)
    names = {name: None for value in values for name in value}
    return {
        name: _merged([value[name] for value in values if name in value])
        if any(value.get(name) is not None for value in values)
        else None
        for name in names
    }


def _kind(value: Any) -> str:
    return (
        "number"
        if isinstance(value, int | float) and not isinstance(value, bool)
        else type(value).__name__
    )
