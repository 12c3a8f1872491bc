"""What stops a start, and what it says then."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.service import ROOT, Service, environment, sluice, until

StartService = Callable[..., Service]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"port": 99_999}, "SLUICE_PORT"),
        ({"port": "http"}, "SLUICE_PORT='http'"),
        ({"fsync": "sometimes"}, "SLUICE_FSYNC='sometimes'"),
        ({"namespace": "a b"}, "SLUICE_NAMESPACE='a b'"),
        ({"promote_events": 0}, "SLUICE_PROMOTE_EVENTS"),
        ({"promote_event": 5}, "SLUICE_PROMOTE_EVENT"),
        ({"rewards": "{"}, "rewards"),
        ({"rewards": '{"click": 7}'}, "click=7"),
        ({"host": "0.0.0.0"}, "SLUICE_API_KEY"),
        ({"config": "/nowhere/sluice.toml"}, "/nowhere/sluice.toml"),
        ({"api_key": "short"}, "SLUICE_API_KEY"),
    ],
)
def test_a_bad_setting_is_named(settings: dict[str, object], said: str, tmp_path: Path) -> None:
    """An unknown name or a bad value stops the start with a message that names it."""
    env: dict[str, Any] = {"data_dir": str(tmp_path / "data"), **settings}
    result = sluice("serve", **env)
    assert result.exit_code == 2
    assert said in result.output
    assert "short" not in result.output
    assert not (tmp_path / "data").exists()


def test_a_port_that_is_taken_is_said(make_service: StartService) -> None:
    """When somebody listens there already, the start stops, says where, and frees the folder."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service = make_service(port=port)
        service.launch()
        assert service.wait() not in (0, None)
        assert "address already in use" in service.log
        assert str(port) in service.log
    service.settings["port"] = 0
    service.start()


def test_a_second_service_on_a_folder_is_refused(make_service: StartService) -> None:
    """The folder has one owner: a second one stops, and says who and what to do."""
    first = make_service().start()
    second = make_service("second", data_dir=first.settings["data_dir"])
    second.launch()
    assert second.wait() not in (0, None)
    assert "another Sluice is using" in second.log
    assert f"process {first.pid}" in second.log
    assert "SLUICE_DATA_DIR" in second.log
    assert "Traceback" not in second.log
    assert first.get("/readyz")["status"] == "ready"


def test_a_store_that_is_not_there_is_said(make_service: StartService, tmp_path: Path) -> None:
    """With SLUICE_REDIS_URL naming nobody, the start stops, and says where it looked."""
    service = make_service(redis_url=f"unix://{tmp_path}/nobody")
    service.launch()
    assert service.wait() not in (0, None)
    assert f"{tmp_path}/nobody" in service.log
    assert "Traceback" not in service.log


def test_from_the_command_line(tmp_path: Path) -> None:
    """`python -m scripts.cli serve` says where it listens, and ends by SIGTERM."""
    settings = {"data_dir": str(tmp_path / "data"), "port": 0}
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "scripts.cli", "serve"],
            cwd=ROOT,
            env=environment(**settings),
            stdout=out,
            stderr=out,
        )
    try:
        until(lambda: "Sluice listens on http://127.0.0.1:" in log.read_text(), within_s=60)
    finally:
        process.terminate()
        process.wait(30)
    assert not (tmp_path / "data/store/socket").exists()
