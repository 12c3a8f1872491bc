"""A real browser, and services for it to look at."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.factories import sessions
from tests.integration.service import Service, small

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
N_REFUSED = 130
ADMIN = "the-admin-key"

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; without it, what needs it is skipped.

    Not for longer than a module: its event loop would be in the way of other tests' own.
    """
    if not (found := shutil.which("chromium")):
        pytest.skip("no chromium on PATH (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Open the page of a service, as a browser with these options has it.

    After the test: it asked no other host for anything, and nothing went wrong in its scripts.
    """
    with ExitStack() as stack:
        wrong: list[str] = []

        def open_(service: Service, view: str = "overview", **options: Any) -> Page:
            context: BrowserContext = browser.new_context(**options)
            stack.callback(context.close)
            context.set_default_timeout(15_000)
            page = context.new_page()
            host = urlsplit(service.url).netloc
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("console", lambda m: wrong.append(m.text) if "Policy" in m.text else None)
            page.on(
                "request",
                lambda r: wrong.append(r.url) if urlsplit(r.url).netloc != host else None,
            )
            page.goto(f"{service.url}/dashboard#{view}")
            return page

        yield open_
        assert wrong == []


def fill(service: Service) -> Service:
    """Let a service learn a shop, warm up, promote, and refuse some events."""
    events = [msgspec.structs.replace(event, time_ms=None) for event in sessions(600, n_users=40)]
    for start in range(0, len(events), 100):
        service.learn(events[start : start + 100])
    bad = {"user_id": "clumsy", "item_id": "i1"}
    refused = [bad | {"event_id": f"bad-{n}", "type": "stare"} for n in range(N_REFUSED)]
    late = bad | {"event_id": "too-late", "type": "click", "timestamp": 1_000_000_000}
    service.post("/v1/feedback", [*refused, late])
    return service


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service without keys that has something to show; tests share it."""
    service = small(tmp_path_factory.mktemp("shop"), id_share=1.0).start()
    yield fill(service)
    service.close()


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that wants a key, and knows nothing yet."""
    service = small(tmp_path_factory.mktemp("guarded"), api_key="the-api-key", admin_key=ADMIN)
    yield service.start()
    service.close()


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens at, just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
