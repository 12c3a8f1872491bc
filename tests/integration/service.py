"""A real service in a process of its own, for tests: start, kill, stop, start again, ask."""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import redis
from typer.testing import CliRunner, Result

from app.events import Feedback
from app.settings import PREFIX
from tests.factories import SMALL

ROOT = Path(__file__).parents[2]
_LISTENS = re.compile(r"Sluice listens on (http://\S+)")
T = TypeVar("T")


def until(condition: Callable[[], T], *, within_s: float = 20) -> T:
    """Return the first true value of a condition; fail if none comes in time."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s"
        time.sleep(0.01)
    return value


def environment(**settings: object) -> dict[str, str]:
    """Return an environment with these settings and no others of ours."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    for name, value in settings.items():
        env[f"{PREFIX}{name.upper()}"] = value if isinstance(value, str) else json.dumps(value)
    return env


def sluice(*arguments: object, answers: str = "", **settings: object) -> Result:
    """Run a command of `sluice` in this process; `answers` is what is typed into it."""
    from scripts.cli import app

    hidden = {name: None for name in os.environ if name.startswith(PREFIX)}
    env = {n: v for n, v in environment(**settings).items() if n.startswith(PREFIX)}
    wide = {"COLUMNS": "200", "TERMINAL_WIDTH": "200"}
    return CliRunner().invoke(
        app, [str(a) for a in arguments], answers, env={**hidden, **env, **wide}
    )


class Launcher:
    """The process that services are forked from (see `launcher`)."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.launcher"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        atexit.register(self.close)

    def ask(self, **order: Any) -> Any:
        """Give an order and return the answer."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{json.dumps(order)}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=10)


launcher = functools.cache(Launcher)


class Service:
    """One `sluice serve` on a port of its own, with its data in `folder`."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.settings: dict[str, object] = {
            "data_dir": str(folder / "data"),
            "port": 0,
            "store_timeout_s": 1.0,
            **settings,
        }
        self.pid: int | None = None
        self.exit_code: int | None = None
        self.client = httpx.Client(trust_env=False)
        self._others: list[Service] = []
        self._n_starts = 0

    # -- life ---------------------------------------------------------------------------------

    def start(self, *options: str) -> Service:
        """Start it and wait until it is ready."""
        self.launch(*options)
        until(self.is_ready, within_s=120)
        return self

    def launch(self, *options: str) -> None:
        """Start it, and do not wait."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._n_starts += 1
        self.exit_code = None
        self._log_path.unlink(missing_ok=True)
        self.pid = launcher().ask(
            start={
                "arguments": ["serve", *options],
                "env": environment(**self.settings),
                "folder": str(self.folder),
                "log": str(self._log_path),
            }
        )

    def is_ready(self) -> bool:
        """Tell whether it has got ready after `launch`; fail if it has ended."""
        assert self.is_running, f"it ended with {self.exit_code}:\n{self.log}"
        found = _LISTENS.search(self.log)
        if found is None:
            return False
        self.client.close()
        self.client = httpx.Client(base_url=found[1], trust_env=False, timeout=30)
        return self.client.get("/readyz").status_code == 200

    @property
    def is_running(self) -> bool:
        """Tell whether the process is there; after its end `exit_code` is known."""
        if self.pid is not None and self.exit_code is None:
            self.exit_code = launcher().ask(poll=self.pid)
        return self.pid is not None and self.exit_code is None

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to go (SIGTERM), and wait until it has."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        assert self.is_running
        assert self.pid is not None
        os.kill(self.pid, how)
        self.wait()

    def wait(self) -> int:
        """Wait until it ends; return its exit code."""
        until(lambda: not self.is_running, within_s=100)
        self.client.close()
        assert self.exit_code is not None
        return self.exit_code

    def close(self) -> None:
        """End it if it runs, and everything that belongs to it."""
        if self.is_running:
            self.kill()
        for service in (self, *self._others):
            service.client.close()

    def another(self) -> Service:
        """Return the same running service, asked over a connection of its own."""
        other = Service(self.folder, **self.settings)
        other.client = httpx.Client(base_url=self.url, trust_env=False, timeout=30)
        self._others.append(other)
        return other

    @property
    def _log_path(self) -> Path:
        return self.folder / f"log.{self._n_starts}"

    @property
    def log(self) -> str:
        """What it has said since its last start."""
        return self._log_path.read_text() if self._log_path.exists() else ""

    @property
    def url(self) -> str:
        """Where it listens."""
        return str(self.client.base_url)

    # -- the store ----------------------------------------------------------------------------

    @property
    def store_url(self) -> str:
        """The URL of its embedded store."""
        return f"unix://{(self.folder / 'data/store/socket').read_text().strip()}"

    def store(self) -> redis.Redis:
        """Return a plain client of its embedded store."""
        return redis.Redis.from_url(self.store_url)

    def store_pid(self) -> int:
        """Return the process id of its embedded store."""
        with self.store() as store:
            info: Any = store.info("server")
        return int(info["process_id"])

    def sluice(self, *arguments: object, answers: str = "", **settings: object) -> Result:
        """Run a command of `sluice` with this service's settings."""
        return sluice(*arguments, answers=answers, **(self.settings | settings))

    # -- requests -----------------------------------------------------------------------------

    def get(self, path: str, **params: Any) -> Any:
        """Return the JSON answer to a GET that must succeed."""
        return answer_of(self.client.get(path, params=params))

    def post(self, path: str, body: Any = None, **params: Any) -> Any:
        """Return the JSON answer to a POST that must succeed."""
        return answer_of(self.client.post(path, json=body, params=params))

    def learn(self, events: Iterable[Feedback]) -> Any:
        """Post events, and return the answer."""
        return self.post("/v1/feedback", wire(events))

    def hashes(self) -> dict[str, str]:
        """Return the two hashes."""
        model = self.get("/v1/model", hash="true")
        return {name: model[name] for name in ("model_hash", "state_hash")}

    def counter(self, name: str) -> float:
        """Return a number of /metrics, by its name with labels; 0 if it is not there."""
        text = self.client.get("/metrics").text
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0


def small(folder: Path, **settings: object) -> Service:
    """Return a service with small capacities and short cadences, as `make_engine` has them."""
    return Service(folder, **(SMALL | settings))


def answer_of(response: httpx.Response) -> Any:
    """Return the JSON of a success."""
    assert response.is_success, f"{response.status_code} {response.text[:500]}"
    return response.json()


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """Return the error of an answer, which must have this status and the one form."""
    assert response.status_code == status, f"{response.status_code} {response.text[:500]}"
    content = response.json()
    assert list(content) == ["error"]
    error: dict[str, Any] = content["error"]
    assert set(error) == {"code", "message", "details"}
    assert re.fullmatch("[a-z_]+", error["code"])
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["details"], list)
    return error


def wire(events: Iterable[Feedback]) -> list[dict[str, Any]]:
    """Return events as a client sends them."""
    return [
        {
            "event_id": event.event_id,
            "user_id": event.user_id,
            "item_id": event.item_id,
            "type": event.type,
            "value": event.value,
            "timestamp": None if event.time_ms is None else event.time_ms / 1_000,
        }
        for event in events
    ]


def batches(events: Sequence[Feedback], size: int) -> list[list[Feedback]]:
    """Cut events into batches."""
    return [list(events[start : start + size]) for start in range(0, len(events), size)]
