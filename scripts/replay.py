"""`sluice replay`: stream a data set through the engine, or through a running service, and judge.

Prequential: each event is ranked before it is learned. The figures are the judge's own sums. The
stream may also be the service's own log, as far as some moment of its past.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import typer
from rich.console import Console
from rich.table import Table

from app.engine import Engine
from app.errors import InvalidRequest, SluiceError
from app.events import Configure, Entry, Feedback, format_time, parse_time
from app.settings import SEMANTICS, EngineSettings, load_settings
from app.store import BEGINNING
from scripts.bad_lines import shown
from scripts.datasets import DataSet, read, total_bytes
from scripts.formats import Columns
from scripts.outputs import check_outputs
from scripts.rebuild import Moment, progress_bar, rebuild
from scripts.serve import fail
from scripts.service import ask, connected

console = Console(stderr=True)
METRICS = {"hr_10": "HR@10", "hr_20": "HR@20", "mrr_20": "MRR@20", "dcg_20": "DCG@20"}


def replay(
    data: Annotated[
        Path | None, typer.Argument(help="a file, or a folder with one data set")
    ] = None,
    min_rating: Annotated[
        float | None, typer.Option(help="leave out ratings below this; 4 for MovieLens")
    ] = None,
    gate: Annotated[
        Literal["on", "off"] | None, typer.Option(help="off: the shadow serves (SLUICE_GATE)")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="stop after so many events")] = None,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="events per log entry")] = 500,
    http: Annotated[
        str | None, typer.Option(metavar="URL", help="send the stream to a running service")
    ] = None,
    retry_s: Annotated[
        float, typer.Option(min=0, help="with --http: seconds to keep trying one batch")
    ] = 60.0,
    json: Annotated[Path | None, typer.Option(help="write the result to a file")] = None,
    from_log: Annotated[
        bool,
        typer.Option("--from-log", help="the service's own log; with DATA, that of an archive"),
    ] = False,
    until: Annotated[
        str | None,
        typer.Option(metavar="CURSOR|TIME", help="with --from-log: as it was then (RFC 3339)"),
    ] = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="with --from-log: use no snapshot")
    ] = False,
    user: Annotated[str | None, typer.Option(help="column of the user")] = None,
    item: Annotated[str | None, typer.Option(help="column of the item")] = None,
    time_: Annotated[str | None, typer.Option("--time", help="column of the time")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="column of the type")] = None,
    value: Annotated[str | None, typer.Option(help="column of the value")] = None,
) -> None:
    """Stream a data set through the engine and print HR, MRR and DCG of champion and shadow.

    With --from-log the stream is the service's own log: all as it was at some moment.
    """
    given = {"user": user, "item": item, "time": time_, "type": type_, "value": value}
    named = {name: column for name, column in given.items() if column is not None}
    try:
        check_outputs(json)
        if from_log:
            moment = Moment(until, from_beginning=from_beginning, archive=data)
            _finish(_replayed(moment), json)
            return
        if data is None or until is not None or from_beginning:
            raise InvalidRequest(
                "name a data set; or the service's own log, with --from-log, to which --until and"
                " --from-beginning belong"
            )
        stream = read_stream(data, Columns(**named) if named else None, min_rating, limit)
        if http is not None:
            result = _send(stream, http.rstrip("/"), batch, retry_s)
        else:
            changes = {} if gate is None else {"gate": gate}
            result = _run(stream, load_settings(**changes).engine(), batch)
    except SluiceError as error:
        fail(error)
    _finish(result, json)


def _finish(result: dict[str, Any], json: Path | None) -> None:
    _show(result)
    if json is not None:
        json.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))


def read_stream(
    path: Path, columns: Columns | None, min_rating: float | None, limit: int | None
) -> DataSet:
    """Read a data set with a progress bar, and say what could not be read."""
    with progress_bar("{task.percentage:>3.0f} %") as progress:
        task = progress.add_task("reading", total=total_bytes(path))
        stream = read(
            path,
            columns=columns,
            min_rating=min_rating,
            limit=limit,
            on_bad=shown(console),
            on_progress=lambda n: progress.advance(task, n),
        )
    if stream.n_bad:
        console.print(f"{stream.n_bad} bad lines of {stream.n_lines} skipped", style="yellow")
    if not len(stream):
        raise InvalidRequest(f"{path} holds no events")
    return stream


def _batches(stream: DataSet, size: int) -> Iterator[list[Feedback]]:
    events = iter(stream)
    while batch := list(islice(events, size)):
        yield batch


# -- through the engine -----------------------------------------------------------------------


def _run(stream: DataSet, settings: EngineSettings, size: int) -> dict[str, Any]:
    engine = Engine(settings)
    engine.apply(Entry([Configure(SEMANTICS, settings.model_dump())]), "0-1")
    kinds: Counter[str] = Counter()
    begin = time.perf_counter()
    with progress_bar("{task.completed}/{task.total}", "{task.fields[rate]}") as progress:
        task = progress.add_task("learning", total=len(stream), rate="")
        for number, batch in enumerate(_batches(stream, size), start=1):
            outcome = engine.apply(Entry(list(batch)), f"1-{number}")
            kinds.update(decision.kind for decision in outcome.decisions)
            rate = engine.n_events / (time.perf_counter() - begin)
            progress.update(task, advance=len(batch), rate=f"{rate:,.0f} events/s")
    seconds = time.perf_counter() - begin
    return _result(engine.describe() | engine.hashes(), len(stream), seconds, dict(kinds))


def _result(
    model: dict[str, Any], n_events: int, seconds: float, decisions: dict[str, int]
) -> dict[str, Any]:
    return {
        "events": n_events,
        "seconds": seconds,
        "events_per_s": n_events / seconds,
        "counts": model["events"]["counts"],
        "versions": {name: v["prequential"] for name, v in model["versions"].items()},
        "calibration": model["calibration"],
        "gate": model["gate"],
        "decisions": decisions,
        "model_hash": model["model_hash"],
        "state_hash": model["state_hash"],
    }


# -- through the log --------------------------------------------------------------------------


def _replayed(moment: Moment) -> dict[str, Any]:
    """Return the figures of the state as it was at a moment."""
    begin = time.perf_counter()
    rebuilt = rebuild(moment)
    engine, seconds = rebuilt.engine, time.perf_counter() - begin
    decisions = Counter(decision.kind for decision in engine.gate.decisions)
    result = _result(engine.describe() | engine.hashes(), engine.n_events, seconds, dict(decisions))
    return result | {
        "events_per_s": rebuilt.n_replayed / seconds,
        "replayed": rebuilt.n_replayed,
        "from": rebuilt.begun_at,
        "at": engine.cursor,
    }


# -- through a service ------------------------------------------------------------------------


def _send(stream: DataSet, url: str, size: int, retry_s: float) -> dict[str, Any]:
    with connected(url) as client:
        model = ask(client, "GET", "/v1/model", retry_s)
        watermark_ms, start_ms = parse_time(model["events"]["watermark"]), stream.start_ms or 0
        if model["events"]["admitted"] and watermark_ms > start_ms:
            raise InvalidRequest(
                f"the service has seen events up to {format_time(watermark_ms)}, and the stream"
                f" begins at {format_time(start_ms)}: use a service with an empty log"
            )
        begin = time.perf_counter()
        with progress_bar("{task.completed}/{task.total}", "{task.fields[rate]}") as progress:
            task = progress.add_task("sending", total=len(stream), rate="")
            for batch in _batches(stream, size):
                body = {"events": [_wire(event) for event in batch]}
                ask(client, "POST", "/v1/feedback", retry_s, body)
                progress.advance(task, len(batch))
                rate = progress.tasks[task].completed / (time.perf_counter() - begin)
                progress.update(task, rate=f"{rate:,.0f} events/s")
        seconds = time.perf_counter() - begin
        model = ask(client, "GET", "/v1/model?hash=true", retry_s)
    return _result(model, len(stream), seconds, {})


def _wire(event: Feedback) -> dict[str, Any]:
    time_s = None if event.time_ms is None else event.time_ms / 1_000
    wire: dict[str, Any] = {
        "event_id": event.event_id,
        "user_id": event.user_id,
        "item_id": event.item_id,
        "type": event.type,
        "timestamp": time_s,
    }
    return wire if event.value is None else wire | {"value": event.value}


# -- the table --------------------------------------------------------------------------------


def _show(result: dict[str, Any]) -> None:
    table = Table(title=f"prequential, {result['events']:,} events")
    table.add_column("version")
    for name in ("judged", *METRICS.values()):
        table.add_column(name, justify="right")
    for version, figures in result["versions"].items():
        if figures["judged"]:
            row = [f"{figures[metric]:.4f}" for metric in METRICS]
            table.add_row(version, f"{figures['judged']:,}", *row)
    out = Console()
    out.print(table)
    counts = ", ".join(f"{name} {count:,}" for name, count in result["counts"].items())
    out.print(f"{counts}; {result['seconds']:.1f} s, {result['events_per_s']:,.0f} events/s")
    if result["decisions"]:
        out.print("gate: " + ", ".join(f"{k} {n:,}" for k, n in result["decisions"].items()))
    errors = {name: found["error"] for name, found in result["calibration"].items()}
    shown = ", ".join(f"{name} {error:.4f}" for name, error in errors.items() if error is not None)
    if shown:
        out.print(f"calibration error of clicks on the last slates: {shown}", highlight=False)
    if "at" in result:
        begun = "the beginning" if result["from"] == BEGINNING else f"snapshot {result['from']}"
        out.print(f"as of {result['at']}, from {begun}; {result['replayed']:,} events replayed")
        out.print(f"gate: {result['gate']['state']}, {result['gate']['mode']}")
    for name in ("model_hash", "state_hash"):
        out.print(f"{name} {result[name]}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(replay)
