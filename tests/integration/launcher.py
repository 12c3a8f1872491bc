"""Run as a process: forks a `sluice` for each order, after importing all of it only once.

Starting Python and importing NumPy, Numba and River takes seconds; forking takes none. What runs in
the child is the command line's own `main`. Orders and answers are lines of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn


def main() -> None:
    """Obey orders until there are no more: {"start": ...} -> pid, {"poll": pid} -> exit code."""
    import uvicorn.loops.auto
    import uvicorn.protocols.http.auto  # noqa: F401  what a start would import

    from app.main import create_app
    from app.settings import Settings
    from app.warm_up import warm_up
    from scripts.cli import app  # noqa: F401  so would this

    warm_up()
    create_app(Settings())
    for line in sys.stdin:
        order = json.loads(line)
        answer = _start(**order["start"]) if "start" in order else _poll(order["poll"])
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


def _start(arguments: list[str], env: dict[str, str], folder: str, log: str) -> int:
    pid = os.fork()
    if pid == 0:
        _become(arguments, env, folder, log)
    return pid


def _become(arguments: list[str], env: dict[str, str], folder: str, log: str) -> NoReturn:
    code: Any = 1
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (out, 1), (out, 2)):
            os.dup2(source, target)
        os.chdir(Path(folder))
        os.environ.clear()
        os.environ.update(env)
        from scripts.cli import app

        app(arguments)
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def _poll(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


if __name__ == "__main__":
    main()
