"""The tiers over HTTP, and `sluice freshness` from a file to a report."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.events import Feedback
from scripts.shop import POPULARITY_ONLY, stream_of
from tests.factories import START_MS, click, sessions
from tests.integration.service import ROOT, Service, batches, environment, sluice, until, wire

StartService = Callable[..., Service]
SMALL_SHOP: dict[str, Any] = {"n_items": 60, "view_ms": 240_000.0}


def shown(service: Service, user: str) -> list[str]:
    """Return what a user is shown."""
    answer = service.get(f"/v1/recommendations/{user}?k=10")
    return [item["item_id"] for item in answer["items"]]


def learn(service: Service, events: list[Feedback]) -> None:
    """Post events, some at a time."""
    for batch in batches(events, 100):
        service.learn(batch)


def test_micro_batch_waits_as_long_as_its_settings_say(make_service: StartService) -> None:
    """A click shows with the first event of the next minute, and a kill in between loses nothing.

    Shared state is promoted with the first event of each five minutes, and with no other.
    """
    service = make_service(
        freshness="micro_batch", freshness_personal_s=60, freshness_shared_s=300
    ).start()
    learn(service, sessions(400))
    assert service.get("/v1/model")["freshness"] == {
        "tier": "micro_batch",
        "personal_s": 60,
        "shared_s": 300,
    }
    before, version = shown(service, "somebody"), service.get("/v1/model")["model"]["version"]
    learn(service, [click("somebody", "g00i1", at_s=441), click("somebody", "g00i2", at_s=450)])
    assert shown(service, "somebody") == before
    hashes = service.hashes()
    service.kill()
    service.start()
    assert service.hashes() == hashes
    assert shown(service, "somebody") == before
    learn(service, [click("another", "g09i1", at_s=499.999)])
    assert shown(service, "somebody") == before
    assert service.get("/v1/model")["model"]["version"] == version
    assert START_MS % 300_000 == 100_000  # so that both batches end after 500 s
    learn(service, [click("another", "g09i2", at_s=500)])
    assert shown(service, "somebody")[0].startswith("g00")
    assert service.get("/v1/model")["model"]["version"] == version + 1


def test_two_tier_is_live_for_the_user_alone(make_service: StartService) -> None:
    """In two_tier a list follows its user's last click; shared state waits, and survives a kill."""
    service = make_service(freshness="two_tier", freshness_shared_s=300).start()
    learn(service, sessions(400))
    version = service.get("/v1/model")["model"]["version"]
    learn(service, [click("somebody", "g00i1", at_s=450)])
    assert shown(service, "somebody")[0].startswith("g00")
    learn(service, sessions(40, start=455))
    assert service.get("/v1/model")["model"]["version"] == version
    before = service.hashes()
    service.kill()
    service.start()
    assert service.hashes() == before
    assert shown(service, "somebody")[0].startswith("g00")
    learn(service, [click("another", "g09i2", at_s=501)])
    assert service.get("/v1/model")["model"]["version"] == version + 1


def test_a_replica_serves_the_same_batch(make_service: StartService) -> None:
    """What is posted in one entry or in many is served alike: batches end where events do."""
    settings: dict[str, Any] = {"freshness": "micro_batch", "freshness_personal_s": 30}
    one, two = (make_service(name, **settings).start() for name in ("one", "two"))
    events = sessions(600, n_users=30)
    for batch in batches(events, 200):
        one.post("/v1/feedback", wire(batch))
    for batch in batches(events, 37):
        two.post("/v1/feedback", wire(batch))
    assert one.hashes() == two.hashes()
    assert [shown(one, f"u{n}") for n in range(30)] == [shown(two, f"u{n}") for n in range(30)]


def write_csv(path: Path, n_events: int, **options: Any) -> Path:
    """Write a simulated shop's stream."""
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["user_id", "item_id", "timestamp"])
        for user, item, time_ms in stream_of(1, n_events, **(SMALL_SHOP | options)):
            out.writerow([user, item, time_ms / 1_000])
    return path


@pytest.fixture(scope="module")
def popular(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A shop where popularity is all there is, the folder of the run, and its report."""
    folder = tmp_path_factory.mktemp("freshness")
    data = write_csv(folder / "popular.csv", 2_500, **POPULARITY_ONLY)
    return data, folder, run(data, folder, "first")


def run(data: Path, folder: Path, name: str, *options: object) -> dict[str, Any]:
    """Run `sluice freshness` and return its report."""
    out = folder / f"{name}.json"
    given = ("--folder", folder / "cells", "--json", out, "--jobs", 2, "--worth", 0.05)
    result = sluice("freshness", data, *given, *options)
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(out.read_text())
    assert report["headline"] in " ".join(result.stdout.split())
    return report


def test_without_a_personal_signal_real_time_is_not_worth_it(
    popular: tuple[Path, Path, dict[str, Any]],
) -> None:
    """Where all buy what is popular, the report says that there is no need of real time."""
    _, _, report = popular
    assert report["headline"].startswith("You do not need real time")
    assert report["verdicts"]["personal"]["delay"] not in (0, 10, 60)


def test_a_second_run_takes_up_what_is_done(popular: tuple[Path, Path, dict[str, Any]]) -> None:
    """What was run once is kept; the report made of it is the same, and draws itself."""
    data, folder, first = popular
    (cell, *_) = sorted((folder / "cells").glob("*.npz"))
    cell.unlink()
    page = folder / "report.html"
    again = run(data, folder, "again", "--html", page, "--pictures", folder / "pictures")
    for report in (first, again):
        for row in report["cells"]:
            del row["cost"]
        del report["frontier"]
    assert again == first
    html = page.read_text()
    assert html.count("<svg") == len(list((folder / "pictures").glob("*.svg"))) == 4
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", html)
    assert first["headline"] in html


def test_what_cannot_be_read_or_written_is_named(
    popular: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    """A place that cannot be written to, or a damaged file of a run, is an error of one line."""
    data, folder, _ = popular
    cells, file = tmp_path / "cells", tmp_path / "file"
    shutil.copytree(folder / "cells", cells)
    file.touch()

    def error(*options: object, into: Path = cells) -> str:
        result = sluice("freshness", data, "--folder", into, *options)
        assert result.exit_code == 2
        return " ".join(result.stderr.split())

    for options in (("--json", file / "x"), ("--html", file / "x"), ("--pictures", file)):
        assert f"cannot write {options[1]}: " in error(*options)
    assert f"cannot write {file}: " in error(into=file)
    (cell, *_) = sorted(cells.glob("*.npz"))
    cell.write_bytes(cell.read_bytes()[:100])
    assert f"{cell} is damaged" in error()


def test_a_run_that_is_killed_ends_all(tmp_path: Path) -> None:
    """When the system kills one of the runs, the command says so and ends; it does not wait."""
    data = write_csv(tmp_path / "shop.csv", 4_000)
    command = (sys.executable, "-m", "scripts.cli", "freshness", data, "--folder", tmp_path / "x")
    process = subprocess.Popen(
        [*map(str, command), "--jobs", "1"], cwd=ROOT, env=environment(), stderr=subprocess.PIPE
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    os.kill(int(until(lambda: children.read_text().split(), within_s=60)[0]), signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "ended with -9 before it was done" in " ".join(stderr.decode().split())


def test_too_few_events_are_refused(tmp_path: Path) -> None:
    """A stream of which nothing can be said is refused with the number that is needed."""
    result = sluice("freshness", write_csv(tmp_path / "few.csv", 50), "--folder", tmp_path / "x")
    assert result.exit_code == 2
    assert "50 events: 1,000 are the least" in " ".join(result.stderr.split())


def test_the_log_of_the_service_is_judged_as_it_is(
    make_service: StartService, tmp_path: Path
) -> None:
    """With --from-log the stream is what was posted, in the order in which it came."""
    service = make_service().start()
    events = sessions(1_100, n_users=40)
    for batch in batches([*events, *events[-10:]], 100):
        service.post("/v1/feedback", wire(batch))
    out = tmp_path / "report.json"
    given = ("--from-log", "--folder", tmp_path / "cells", "--json", out)
    result = sluice("freshness", *given, redis_url=service.store_url)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert report["events"] == 1_110
    assert report["mess"]["duplicates"]["same_event"] == 10
    assert report["mess"]["order"]["late"] == 9
