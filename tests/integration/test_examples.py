"""Every example of README and docs is run, against a real service, and answered as it says."""

from __future__ import annotations

import importlib
import json
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from app.events import Feedback, format_time
from tests.factories import sessions
from tests.integration.examples import Example, differences, examples_of
from tests.integration.service import ROOT, Service, environment, small, until

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = {page: examples_of(page) for page in PAGES}
# Pages whose examples go on where those of the README end, in the order of its list of pages.
GUIDE = [ROOT / "README.md", ROOT / "docs/shop.md", ROOT / "docs/operating.md"]
# What is run against one service, page after page.
COURSES = [GUIDE, *([page] for page in PAGES if page not in GUIDE)]

# What is not run, by how it begins, and why.
SKIPPED = {
    "make run": "installs, and serves on port 8000 until it is stopped; that `sluice serve` does",
    "make test": "runs these tests",
    "make bench": "measures for minutes; CI runs it by itself",
    ".venv/bin/python -m scripts.bench": "measures for minutes, and `make bench` begins with it",
    ".venv/bin/python -m scripts.overload": "wants both cores, and keeps its process on one",
    "SLUICE_NAMESPACE=monday make run": "as `make run`",
}
# What is added to an example, so that it takes seconds, or is about the service of this test.
ADDED = {
    ".venv/bin/sluice drill": ["--list"],  # test_drill.py plays what can be played
    ".venv/bin/python -m scripts.latency": ["--seconds", "1", "--users", "5"],
    ".venv/bin/python -m scripts.visible": ["--seconds", "1"],
    ".venv/bin/sluice import-items": ["--url", "{url}"],
    ".venv/bin/sluice export-items": ["--url", "{url}"],
    # Nothing is to be installed here, however old what is installed looks.
    "make demo": ["-C", str(ROOT), "-o", ".venv/.runtime", "URL={url}"],
    ".venv/bin/sluice import-features": ["--url", "{url}", "--store", "{store}"],
}
# What this service has to refuse, and why it does.
REFUSED = {"curl localhost:8000/v1/upgrade": "its log is of the newest version already"}

SETTINGS: dict[str, Any] = {
    "tokens": "check",
    "token_keys": "a-key-for-the-examples",
    "snapshots_keep": 10,
    "explore_share": 0.5,
    "impression_wait_s": 0.1,
    "features": {
        "device": {"of": "context", "values": ["mobile", "desktop"]},
        "age": {"of": "user", "min": 0, "max": 100, "max_age_s": 2_592_000},
        "format": {"of": "item", "values": ["short", "long"]},
    },
}


LOGGED = 'sluice_impressions_total{outcome="appended"}'


class Bench:
    """One page's service, a shell beside it, and what stands for the page's made-up names."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.folder = service.folder
        self.names: dict[str, str] = {}
        (self.folder / ".venv").symlink_to(ROOT / ".venv")
        self.point()
        self._shell = subprocess.Popen(
            ["bash"],
            cwd=self.folder,
            env=environment() | {"CURL_HOME": str(self.folder), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def point(self) -> None:
        """Let curl find the service where the pages say that it is."""
        port = self.service.url.rpartition(":")[2]
        (self.folder / ".curlrc").write_text(
            f'silent\nshow-error\nfail-with-body\nconnect-to = "localhost:8000:127.0.0.1:{port}"\n'
        )

    @property
    def _store(self) -> str:
        """Return a store in which there is nothing about items: the service's own."""
        return self.service.store_url

    def close(self) -> None:
        """End the shell."""
        self._shell.communicate(timeout=10)

    # -- running ------------------------------------------------------------------------------

    def run(self, example: Example) -> str:
        """Run an example; return what it said. Fail where it fails."""
        text = example.text
        for name, value in self.names.items():
            text = text.replace(name, value)
        if example.is_python:
            exec(text.replace("http://localhost:8000", self.service.url), {})
            return ""
        added = next((more for begin, more in ADDED.items() if text.startswith(begin)), [])
        added = [word.format(url=self.service.url, store=self._store) for word in added]
        if "<<" in text:  # a here-document, which is no list of words
            return self._bash(example, text)
        words = [*shlex.split(text, comments=True), *added]
        env = {word.partition("=")[0]: word.partition("=")[2] for word in _assigned(words)}
        command = words[len(env) :]
        if command[:1] in ([".venv/bin/sluice"], ["sluice"]):
            return self._sluice(example, command[1:], env)
        if command[:2] == [".venv/bin/python", "-m"]:
            return self._module(example, command[2], command[3:])
        return self._bash(example, " ".join([text.partition("#")[0], *added]) if added else text)

    def _bash(self, example: Example, text: str) -> str:
        assert self._shell.stdin
        assert self._shell.stdout
        script = f"{{ {text}\n}} </dev/null; printf '\\036%d\\036\\n' $?\n"
        # The shell would wait for the end of what has none.
        checked = subprocess.run(
            ["bash", "-n"], input=script, text=True, capture_output=True, check=False
        )
        assert not checked.stderr, f"{example}\n{checked.stderr}"
        self._shell.stdin.write(script)
        self._shell.stdin.flush()
        said = ""
        while "\036" not in said:
            line = self._shell.stdout.readline()
            assert line, f"the shell has ended at {example}"
            said += line
        out, code, _ = said.split("\036")
        is_refused = any(text.startswith(begin) for begin in REFUSED)
        assert (code != "0") == is_refused, f"{example}\nended with {code}:\n{out}"
        return out

    def _sluice(self, example: Example, words: list[str], env: dict[str, str]) -> str:
        if words[:1] == ["serve"]:
            return self._serve(env)
        settings = {name.removeprefix("SLUICE_").lower(): value for name, value in env.items()}
        settings["port"] = self.service.url.rpartition(":")[2]
        with _inside(self.folder):
            return _whole(example, self.service.sluice(*words, answers="y\n", **settings))

    def _module(self, example: Example, name: str, words: list[str]) -> str:
        function = getattr(importlib.import_module(name), name.rpartition(".")[2])
        app = Typer()
        app.command()(function)
        with _inside(self.folder):
            return _whole(example, CliRunner().invoke(app, words))

    def _serve(self, env: dict[str, str]) -> str:
        settings = {name.removeprefix("SLUICE_").lower(): value for name, value in env.items()}
        other = small(self.folder / "other", **settings).start()
        try:
            assert other.get("/readyz")
        finally:
            other.close()
        return ""


def _assigned(words: list[str]) -> Iterator[str]:
    """Yield the assignments that a command begins with."""
    for word in words:
        if not word.startswith("SLUICE_"):
            return
        yield word


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def _whole(example: Example, result: Result) -> str:
    assert result.exit_code == 0, f"{example}\nended with {result.exit_code}:\n{result.output}"
    return result.output


# -- what must be there before an example -----------------------------------------------------


def write_data(bench: Bench) -> None:
    """Write the files that pages speak of: a shop's items and clicks, ratings as of MovieLens."""
    items = [f"i{n},garden|{'red' if n % 2 else 'blue'},{n / 2},acme" for n in range(17)]
    (bench.folder / "catalogue.csv").write_text(
        "\n".join(["item_id,categories,price,brand", *items])
    )
    lines = ["who,what,when,user_id,item_id,timestamp"]
    for n in range(1_000):
        user, item = n * 7 % 31, n * 11 % 17
        lines.append(f"u{user},i{item},{n},u{user},i{item},{n}")
    for name in ("clicks.csv", "events.csv"):
        (bench.folder / name).write_text("\n".join(lines))
    (bench.folder / "ml-100k").mkdir()
    ratings = [f"{n % 31}\t{n * 11 % 17}\t{1 + n % 5}\t{n}" for n in range(400)]
    (bench.folder / "ml-100k" / "u.data").write_text("\n".join(ratings))


def know_the_present(bench: Bench) -> None:
    """Let a snapshot's id, a cursor and a time of the pages be those of this service."""
    snapshot = bench.service.post("/v1/snapshots")["id"]
    model = bench.service.get("/v1/model")
    bench.names |= {
        " ID": f" {snapshot}",
        "1795471264720-0": model["cursor"],
        "2026-11-23T18:00:00Z": format_time(time.time_ns() // 1_000_000 - 1),
        "--url URL": f"--url {bench.service.url}",
    }


def stop(bench: Bench) -> None:
    """Stop the service: what follows is done without it."""
    bench.service.stop()


def start(bench: Bench) -> None:
    """Start the service again, if it is stopped."""
    if not bench.service.is_running:
        bench.service.start()
        bench.point()


def decide(bench: Bench) -> None:
    """Let the gate's record have a decision."""
    bench.service.post("/v1/model/freeze", {"reason": "an example"})


def show_lists(bench: Bench) -> None:
    """Show lists of which places explore, after what a challenger needs to be warm; click some."""
    service = bench.service
    events = sessions(300, n_users=40, n_groups=6)
    service.learn(
        Feedback(event.event_id, event.user_id, event.item_id, "click") for event in events
    )
    users = sorted({event.user_id for event in events})
    n_before = service.counter(LOGGED)
    for n in range(60):
        user = users[n % len(users)]
        shown = service.get(f"/v1/recommendations/{user}", k=8, deadline_ms=60_000)
        answer = {"user_id": user, "type": "click", "recommendation_id": shown["recommendation_id"]}
        clicked = shown["items"][n % 3 : 8 : 3]
        service.post("/v1/feedback", [answer | {"item_id": item["item_id"]} for item in clicked])
    until(lambda: service.counter(LOGGED) >= n_before + 60)


def sign_a_list(bench: Bench) -> None:
    """Let a made-up list be one that this service made, for somebody."""
    shown = bench.service.get("/v1/recommendations/gil", k=1)
    made_up = '"9cbe81984856aa12bfa4444a", "user_id": "dora"'
    bench.names[made_up] = f'"{shown["recommendation_id"]}", "user_id": "gil"'
    bench.names['"item_id": "kettle", "position": 1'] = (
        f'"item_id": "{shown["items"][0]["item_id"]}", "position": 1'
    )


BEFORE: dict[str, Callable[[Bench], None]] = {
    ".venv/bin/sluice restore-snapshot list": know_the_present,
    ".venv/bin/sluice restore-snapshot restore ID --whole": stop,
    ".venv/bin/sluice replay --from-log": start,
    ".venv/bin/sluice evaluate --from-log --policy challenger": show_lists,
    "curl localhost:8000/v1/impressions": sign_a_list,
    ".venv/bin/python -m scripts.latency": know_the_present,
    "curl localhost:8000/v1/decisions": decide,
}


# -- the tests --------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl on PATH (apt-get install curl)")
@pytest.mark.parametrize("pages", COURSES, ids=lambda pages: pages[-1].name)
def test_every_example_runs(pages: list[Path], tmp_path: Path) -> None:
    """Each example of a page succeeds, in their order, and answers in the shape that is shown."""
    all_of_them = [example for page in pages for example in EXAMPLES[page]]
    examples = [e for e in all_of_them if not e.text.startswith(tuple(SKIPPED))]
    if not examples:
        return
    service = small(tmp_path / "service", **SETTINGS).start()
    bench = Bench(service)
    try:
        write_data(bench)
        for example in examples:
            for begin, prepare in BEFORE.items():
                if example.text.startswith(begin):
                    prepare(bench)
            said = bench.run(example)
            if example.answer is not None:
                differing = list(differences(example.answer, json.loads(said)))
                assert not differing, f"{example}\n{differing}"
    finally:
        bench.close()
        service.close()


def test_nothing_is_skipped_in_vain() -> None:
    """Each name in the lists of what is skipped, added to, refused or prepared is an example's."""
    texts = [example.text for examples in EXAMPLES.values() for example in examples]
    for listed in (SKIPPED, ADDED, REFUSED, BEFORE):
        for begin in listed:
            assert any(text.startswith(begin) for text in texts), begin


def test_shapes_are_compared() -> None:
    """A key too many or too few, at any depth, and a value of another kind are found."""
    shown = {"a": 1, "b": [{"c": "x"}, {"d": None}], "evidence": {"n": 1}}
    assert not list(differences(shown, {"a": 2.5, "b": [{"c": "y", "d": 3}], "evidence": {}}))
    assert list(differences(shown, {"a": 1, "evidence": {}})) == [".b is not answered"]
    assert list(differences({"b": [{"c": 1}]}, {"b": [{"c": 1, "d": 1}]})) == [
        ".b[].d is not shown"
    ]
    assert list(differences({"a": "1"}, {"a": 1})) == [".a is shown as str and is number"]
