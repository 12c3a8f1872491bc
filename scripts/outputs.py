"""Files that a command writes when its work is done."""

from __future__ import annotations

from pathlib import Path

from app.errors import InvalidRequest


def check_outputs(json: Path | None, pictures: Path | None = None) -> None:
    """Raise InvalidRequest unless a file and a folder can be written: before the work, not after.

    They are there from then on, the file as it was, or empty.
    """
    try:
        if json is not None:
            json.open("ab").close()
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"cannot write {error.filename}: {error.strerror}") from None
