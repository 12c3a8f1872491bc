"""`sluice serve`: run the service."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from typing import Annotated

import orjson
import typer
import uvicorn
from rich.logging import RichHandler

from app.api.protocol import SluiceProtocol
from app.errors import SettingsError, SluiceError
from app.events import format_time
from app.main import create_app
from app.settings import Settings, load_settings


def serve(
    host: Annotated[str | None, typer.Option(help="address to bind (SLUICE_HOST)")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port (SLUICE_PORT)")] = None,
    reconfigure: Annotated[
        bool,
        typer.Option("--reconfigure", help="change the log's settings to the ones given here"),
    ] = False,
) -> None:
    """Serve recommendations and learn from feedback; settings: SLUICE_* and sluice.toml."""
    given = {"host": host, "port": port}
    try:
        settings = load_settings(**{name: v for name, v in given.items() if v is not None})
    except SettingsError as error:
        fail(error)
    set_up_logging(settings)
    app = create_app(settings, reconfigure=reconfigure)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        log_config=None,
        access_log=False,
        server_header=False,
        http=SluiceProtocol,
        timeout_graceful_shutdown=10,
    )
    server = _Server(config, app.state.stopping)
    server.run()
    if not server.started:
        raise SystemExit(1)


class _Server(uvicorn.Server):
    """uvicorn, which says where it listens once it does, and ends streams when it stops."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            logging.getLogger("sluice").info(
                "Sluice listens on http://%s:%d (try /docs)", self.config.host, port
            )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping.set()
        await super().shutdown(sockets)


def set_up_logging(settings: Settings) -> None:
    """Log to stderr: readable on a terminal, plain lines elsewhere, or JSON."""
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    if settings.log_format == "json":
        handler.setFormatter(JsonLines())
    elif sys.stderr.isatty():
        handler = RichHandler(show_path=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("httpx").setLevel(logging.WARNING)  # else a line for each read of features


class JsonLines(logging.Formatter):
    """A JSON object a line; a decision of the gate is in it as an object, too."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": format_time(round(record.created * 1_000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        if decision := getattr(record, "decision", None):
            line["decision"] = decision
        return orjson.dumps(line, default=str).decode()


def fail(error: SluiceError) -> None:
    """Say what is wrong, and stop."""
    typer.secho(f"sluice: {error.message}", fg=typer.colors.RED, err=True)
    raise SystemExit(2)


if __name__ == "__main__":
    typer.run(serve)
