"""The page's files and its login, without a browser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Request, Response

from app.api.sessions import LIFE_S, Sessions
from app.settings import Settings
from tests.integration.service import Service, error_of, small

API, ADMIN = "the-api-key", "the-admin-key"
WEB = Path(__file__).parents[2] / "app" / "web"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with both keys."""
    service = small(tmp_path_factory.mktemp("page"), api_key=API, admin_key=ADMIN).start()
    yield service
    service.close()


@pytest.fixture
def browser(guarded: Service) -> Iterator[httpx.Client]:
    """A client that keeps cookies and says where its page is from, and is not logged in."""
    headers = {"Origin": guarded.url}
    with httpx.Client(base_url=guarded.url, trust_env=False, headers=headers) as client:
        yield client


def log_in(browser: httpx.Client, key: str = ADMIN) -> httpx.Response:
    """Give the key."""
    return browser.post("/v1/session", json={"key": key})


# -- files ------------------------------------------------------------------------------------


def test_the_page_is_served_whole(guarded: Service) -> None:
    """Every file of the page is served as it is, typed, to anybody: it shows nothing by itself."""
    client = guarded.client
    types = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg"}
    for path in WEB.iterdir():
        url = "/dashboard" if path.name == "index.html" else f"/dashboard/{path.name}"
        answer = client.get(url)
        assert answer.content == path.read_bytes()
        assert answer.headers["content-type"].startswith(types[path.suffix[1:]])
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = client.get(url, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_the_page_may_load_from_here_alone(guarded: Service) -> None:
    """Its policy allows scripts, styles and data of this service, none inline, and no frame."""
    policy = guarded.client.get("/dashboard").headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    for name in ("script-src", "style-src", "connect-src", "img-src"):
        assert rules[name] == "'self'"
    assert rules["frame-ancestors"] == "'none'"


@pytest.mark.parametrize("name", ["none.js", "..%2fmain.py", "%2e%2e", "main.js%00"])
def test_nothing_else_is_served(guarded: Service, name: str) -> None:
    """There is no way out of the page's folder."""
    error_of(guarded.client.get(f"/dashboard/{name}"), 404)


def test_a_slash_at_the_end_leads_to_the_page(guarded: Service) -> None:
    """/dashboard/ leads to /dashboard, wherever a proxy has put it."""
    answer = guarded.client.get("/dashboard/", follow_redirects=True)
    assert answer.url.path == "/dashboard"
    assert answer.status_code == 200


# -- the session ------------------------------------------------------------------------------


def test_a_login_opens_what_operators_may_see(browser: httpx.Client) -> None:
    """The admin key, given once, is worth a cookie that opens what the key does, and no more."""
    assert browser.get("/v1/session").json() == {"needs_key": True, "is_open": False}
    error_of(browser.get("/v1/model"), 401)
    assert log_in(browser).json() == {"needs_key": True, "is_open": True}
    assert browser.get("/v1/session").json() == {"needs_key": True, "is_open": True}
    for path in (
        "/v1/model",
        "/v1/quarantine",
        "/v1/trending",
        "/v1/recommendations/u",
        "/v1/users",
    ):
        assert browser.get(path).status_code == 200
    with browser.stream("GET", "/v1/stream") as answer:
        assert answer.status_code == 200


@pytest.mark.parametrize("key", [API, "another-key", "the-admin-ke", " "])
def test_no_other_key_logs_in(guarded: Service, browser: httpx.Client, key: str) -> None:
    """Neither another key nor that to read and post is worth a cookie; the log says who tried."""
    n_before = guarded.log.count("a login to the dashboard failed, from 127.0.0.1")
    error_of(log_in(browser, key), 401)
    assert not browser.cookies
    assert guarded.log.count("a login to the dashboard failed, from 127.0.0.1") == n_before + 1
    assert ADMIN not in guarded.log


def test_the_cookie_is_kept_from_scripts_and_other_sites(browser: httpx.Client) -> None:
    """It is HttpOnly and SameSite=Strict, ends by itself, and does not have the key in it."""
    cookie = log_in(browser).headers["set-cookie"]
    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "samesite=strict", f"max-age={LIFE_S}", "path=/"} <= attributes
    assert "secure" not in attributes  # or plain HTTP on this machine could not log in
    assert ADMIN not in cookie


def test_a_proxy_that_speaks_https_makes_it_secure(guarded: Service) -> None:
    """Behind TLS the cookie never goes over a plain connection."""
    headers = {"X-Forwarded-Proto": "https"}
    answer = guarded.client.post("/v1/session", json={"key": ADMIN}, headers=headers)
    guarded.client.cookies.clear()
    assert "secure" in answer.headers["set-cookie"].lower()


def test_another_site_cannot_act_with_it(browser: httpx.Client) -> None:
    """With the cookie alone, a change needs the Origin of this very host."""
    log_in(browser)
    body = {"reason": "a test asks"}
    for origin in ("http://evil.example", "null", browser.base_url.host, ""):
        answer = browser.post("/v1/model/freeze", json=body, headers={"Origin": origin})
        assert error_of(answer, 403)["code"] == "forbidden"
    assert browser.post("/v1/model/freeze", json=body).status_code == 200
    assert browser.post("/v1/model/resume", json=body).status_code == 200


def test_another_site_cannot_log_in(browser: httpx.Client) -> None:
    """A page elsewhere cannot put somebody into a session of its own choice."""
    answer = browser.post(
        "/v1/session", json={"key": ADMIN}, headers={"Origin": "http://evil.example"}
    )
    error_of(answer, 403)
    assert not browser.cookies


def test_a_logout_ends_it_in_this_browser(browser: httpx.Client) -> None:
    """After logging out the browser has no cookie any more."""
    log_in(browser)
    assert browser.cookies
    assert browser.delete("/v1/session").json() == {"needs_key": True, "is_open": False}
    assert not browser.cookies
    error_of(browser.get("/v1/model"), 401)


def test_a_key_in_the_headers_comes_first(browser: httpx.Client) -> None:
    """Who gives a key is judged by it, whatever session there is."""
    log_in(browser)
    error_of(browser.get("/v1/model", headers={"X-API-Key": API}), 403)
    error_of(browser.get("/v1/model", headers={"X-API-Key": "another-key"}), 401)


def test_without_keys_there_is_nothing_to_log_in_to(api: Service) -> None:
    """An open service is open to the page, too, and gives nobody a cookie."""
    assert api.get("/v1/session") == {"needs_key": False, "is_open": True}
    answer = api.client.post("/v1/session", json={"key": "whatever"})
    assert answer.json() == {"needs_key": False, "is_open": True}
    assert "set-cookie" not in answer.headers


# -- cookies by themselves --------------------------------------------------------------------


def request_with(cookie: str) -> Request:
    """Return a GET with a cookie."""
    headers = [(b"cookie", cookie.encode()), (b"host", b"here")]
    return Request({"type": "http", "method": "GET", "path": "/", "headers": headers})


def cookie_of(sessions: Sessions, now_s: int) -> str:
    """Return a cookie as a browser sends it."""
    response = Response()
    sessions.begin(response, now_s, is_https=False)
    return response.headers["set-cookie"].partition(";")[0]


def test_a_cookie_is_good_for_every_process_with_the_key() -> None:
    """A restart, or another replica, takes it; one with another key does not, nor after a day."""
    now_s = int(time.time())
    settings: dict[str, Any] = {"api_key": API, "admin_key": ADMIN}
    cookie = cookie_of(Sessions(Settings(**settings)), now_s)
    twin = Sessions(Settings(**settings))
    assert twin.key_of(request_with(cookie), now_s) == ADMIN
    assert twin.key_of(request_with(cookie), now_s + LIFE_S - 1) == ADMIN
    assert twin.key_of(request_with(cookie), now_s + LIFE_S) is None
    stranger = Sessions(Settings(api_key=API, admin_key="another-admin-key"))
    name, _, value = cookie.partition("=")
    assert stranger.key_of(request_with(f"{stranger.cookie}={value}"), now_s) is None
    assert name != stranger.cookie


@pytest.mark.parametrize("made", ["", ".", "x.y", "99999999999.", "99999999999.00ff", "é.é"])
def test_a_made_up_cookie_is_none(made: str) -> None:
    """What this service did not sign opens nothing, and breaks nothing."""
    sessions = Sessions(Settings(api_key=API))
    assert sessions.key_of(request_with(f"{sessions.cookie}={made}"), 0) is None


def test_a_later_end_cannot_be_written_into_it() -> None:
    """The signature is over the time that the cookie ends at."""
    sessions = Sessions(Settings(api_key=API))
    name, _, value = cookie_of(sessions, 1_000).partition("=")
    expires, _, signature = value.partition(".")
    longer = f"{name}={int(expires) + 1}.{signature}"
    assert sessions.key_of(request_with(f"{name}={value}"), 1_000) == API
    assert sessions.key_of(request_with(longer), 1_000) is None
