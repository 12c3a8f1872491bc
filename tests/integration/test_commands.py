"""Commands that ask a running service once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.integration.service import sluice

ASKS = (("requeue", "--reason", "it was sound"), ("rules",))


class LoginPage(BaseHTTPRequestHandler):
    """What a proxy answers who has no session there."""

    def do_GET(self) -> None:
        """Answer with a page."""
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"<html>")

    def do_POST(self) -> None:
        """Answer with a page."""
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def proxy() -> Iterator[str]:
    """Return the URL of something that is no service of ours."""
    server = HTTPServer(("127.0.0.1", 0), LoginPage)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    serving.join()
    server.server_close()


@pytest.mark.parametrize("command", ASKS)
def test_who_does_not_answer_as_we_do_is_named(command: tuple[str, ...], proxy: str) -> None:
    """A URL that is none, and one of something else, end in a sentence."""
    for url, said in ((proxy, "is no Sluice"), ("http://[::1", "no answer from http://[::1")):
        result = sluice(*command, "--url", url)
        assert result.exit_code == 2
        assert said in result.output


@pytest.mark.parametrize("command", ASKS)
def test_a_service_at_an_ipv6_address_is_asked_there(command: tuple[str, ...]) -> None:
    """`SLUICE_HOST` may be one: in a URL it stands in brackets."""
    result = sluice(*command, host="::1", port=9)
    assert result.exit_code == 2
    assert "no answer from http://[::1]:9:" in result.output
