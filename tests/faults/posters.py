"""Clients as they should be: each sends its events again, with the same ids, until it is told that
they are there.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.integration.service import error_of, until

PAUSE_S = 0.02
RETRY_S = 0.1
# Enough that no user or item is near a cap, and no more than a small engine holds.
N_USERS = N_ITEMS = 150


class Poster(threading.Thread):
    """Posts a few events at a time, and asks for recommendations in between.

    `acknowledged` has when each event was answered 200, by its id. `problems` are answers that
    nobody should get: a client may meet a dead connection, or a 503 that says when to come again.
    """

    codes = frozenset({"store_unavailable"})

    def __init__(self, url: str, name: str, *, seed: int) -> None:
        super().__init__(daemon=True, name=name)
        self.acknowledged: dict[str, float] = {}
        self.problems: list[str] = []
        self.n_refused = self.n_broken = self.n_read = self.n_degraded = 0
        self.is_over = threading.Event()
        self._chance = random.Random(f"{name}/{seed}")
        self._n = 0
        self._client = httpx.Client(base_url=url, trust_env=False, timeout=60)

    def run(self) -> None:
        """Post and read until told to stop."""
        with self._client:
            while not self.is_over.is_set():
                batch = self._next_batch()
                while not self._post(batch) and not self.is_over.wait(RETRY_S):
                    self._read()
                self._read()
                self.is_over.wait(PAUSE_S)

    def _next_batch(self) -> list[dict[str, Any]]:
        batch = []
        for _ in range(self._chance.choice([1, 1, 1, 2, 5])):
            self._n += 1
            batch.append(
                {
                    "event_id": f"{self.name}-{self._n}",
                    "user_id": f"u{self._chance.randrange(N_USERS)}",
                    "item_id": f"i{self._chance.randrange(N_ITEMS)}",
                    "type": self._chance.choice(["click", "view", "skip"]),
                }
            )
        return batch

    def _post(self, batch: list[dict[str, Any]]) -> bool:
        """Post once; return whether it was acknowledged."""
        answer = self._ask("POST", "/v1/feedback", json=batch)
        if answer is None:
            return False
        if answer.status_code == 200:
            now = time.monotonic()
            for result in answer.json()["results"]:
                self.acknowledged[result["event_id"]] = now
                if result["status"] not in ("learned", "duplicate"):
                    self.problems.append(f"{result}")
            return True
        self.n_refused += 1
        try:
            assert error_of(answer, 503)["code"] in self.codes
            assert int(answer.headers["Retry-After"]) >= 1
        except (AssertionError, KeyError) as error:
            self.problems.append(f"{error!r}: {answer.text[:300]}")
        return False

    def _read(self) -> None:
        answer = self._ask("GET", f"/v1/recommendations/u{self._chance.randrange(N_USERS)}")
        if answer is None:
            return
        self.n_read += 1
        if answer.status_code == 200:
            self.n_degraded += answer.json()["degraded"] is not None
        else:
            self.problems.append(f"GET {answer.status_code} {answer.text[:300]}")

    def _ask(self, method: str, path: str, **body: Any) -> httpx.Response | None:
        try:
            return self._client.request(method, path, **body)
        except httpx.TransportError:
            self.n_broken += 1
            return None


class Posters(list[Poster]):
    """Some of them."""

    @property
    def acknowledged(self) -> dict[str, float]:
        """When each event was acknowledged."""
        return {key: when for poster in self for key, when in poster.acknowledged.copy().items()}

    def total(self, name: str) -> int:
        """Return the sum of a count."""
        return sum(getattr(poster, name) for poster in self)

    def wait_until_heard(self, *, n: int = 5, within_s: float = 60) -> None:
        """Wait until each has been acknowledged some more."""
        wanted = [len(poster.acknowledged) + n for poster in self]
        until(
            lambda: all(len(p.acknowledged) >= most for p, most in zip(self, wanted)),
            within_s=within_s,
        )

    def wait_until_refused(self, *, n: int = 2, within_s: float = 60) -> None:
        """Wait until each has been refused some more, and read as often."""
        wanted = [(poster.n_refused + n, poster.n_read + n) for poster in self]
        until(
            lambda: all(
                p.n_refused >= refused and p.n_read >= read
                for p, (refused, read) in zip(self, wanted)
            ),
            within_s=within_s,
        )

    def stop(self) -> None:
        """Let each finish its request, and hold that none met what it should not."""
        for poster in self:
            poster.is_over.set()
        for poster in self:
            poster.join(60)
            assert not poster.is_alive()
        problems = [problem for poster in self for problem in poster.problems]
        assert problems == [], problems[:5]


@contextmanager
def posting(url: str, n: int, *, seed: int = 1, name: str = "p") -> Iterator[Posters]:
    """Post and read from n clients at a time, whose events' ids begin with `name`."""
    with at_work(Poster(url, f"{name}{i}", seed=seed) for i in range(n)) as posters:
        yield posters


@contextmanager
def at_work(each: Iterable[Poster]) -> Iterator[Posters]:
    """Let posters post and read; in the end hold that none met what it should not."""
    posters = Posters(each)
    for poster in posters:
        poster.start()
    try:
        yield posters
    finally:
        for poster in posters:
            poster.is_over.set()
    posters.stop()
