from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.main import get_group
from typer.testing import CliRunner

from app.engine import TUNABLE
from app.settings import NOT_FIELDS, PREFIX, EngineSettings, Settings, load_settings
from scripts.cli import app

ROOT = Path(__file__).parents[2]
SETTINGS = (ROOT / "docs" / "settings.md").read_text()
GUIDE = "".join(
    (ROOT / page).read_text() for page in ("README.md", "docs/shop.md", "docs/operating.md")
)
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
RECORDS = sorted((ROOT / "docs" / "decisions").glob("*.md"))

ROW = re.compile(r"^\| `(SLUICE_[A-Z0-9_]+)` \|(.*)\|$", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


class Row(NamedTuple):
    """One row of a settings table; `log` is empty where the table has no such column."""

    default: str
    log: str
    meaning: str


def settings_rows() -> dict[str, Row]:
    """Return the settings that are documented, by name."""
    rows = {}
    for name, rest in ROW.findall(SETTINGS):
        cells = [cell.strip() for cell in rest.split("|")]
        assert name not in rows, f"{name} is there twice"
        rows[name] = Row(*cells) if len(cells) == 3 else Row(cells[0], "", cells[1])
    return rows


def test_every_setting_is_documented() -> None:
    """The settings tables name exactly the fields of Settings, each with a meaning."""
    rows = settings_rows()
    assert set(rows) == {PREFIX + name.upper() for name in Settings.model_fields}
    assert all(row.meaning for row in rows.values())


def test_the_defaults_that_are_documented_are_the_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A service told every default that is documented is a service told nothing."""
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    told_nothing = load_settings()
    for name, row in settings_rows().items():
        if row.default in ("empty", "none"):
            field = name.removeprefix(PREFIX).lower()
            assert getattr(told_nothing, field) == {"empty": "", "none": None}[row.default]
        else:
            monkeypatch.setenv(name, row.default.strip("`"))
    assert load_settings() == told_nothing


def test_it_is_documented_what_a_log_fixes() -> None:
    """The column `log` says which settings are in the log, and which of them can change there."""
    for name, row in settings_rows().items():
        field = name.removeprefix(PREFIX).lower()
        in_log = "`change`" if field in TUNABLE else "`fixed`"
        assert row.log == (in_log if field in EngineSettings.model_fields else ""), name


def test_every_name_that_looks_like_a_setting_is_one() -> None:
    """No page names a SLUICE_ setting that the service would refuse."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | NOT_FIELDS
    for page in PAGES:
        named = set(re.findall(r"SLUICE_[A-Z0-9_]*[A-Z0-9]", page.read_text()))
        assert named <= known, page.name


def anchors(page: Path) -> set[str]:
    """Return the anchors that a page's headings make."""
    text = FENCE.sub("", page.read_text())
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text)]
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    """Every relative link leads to a file or folder of the project, and to a heading in it."""
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert found.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(found), target


def commands() -> set[str]:
    """Return what can follow `sluice`, with the commands of restore-snapshot."""
    found: dict[str, Any] = dict(get_group(app).commands)
    inner = found["restore-snapshot"].commands
    return set(found) | {f"restore-snapshot {name}" for name in inner}


def test_the_commands_that_are_documented_exist() -> None:
    """Each `sluice COMMAND` of the guide is one that `sluice --help` lists, and all are there."""
    named = set(re.findall(r"(?<!from )sluice (restore-snapshot [a-z]+|[a-z][a-z-]+)", GUIDE))
    assert named - {"demo"} <= commands()
    assert {"serve", "replay", "restore-snapshot restore"} <= named
    shown = CliRunner().invoke(app, ["--help"]).output
    for name in ("serve", "replay", "demo", "restore-snapshot"):
        assert name in shown


def test_the_make_targets_in_the_docs_exist() -> None:
    """Each `make TARGET` of a page is one of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = page.read_text()
        named = re.findall(r"`make ([a-z]+)", text) + re.findall(r"^    make ([a-z]+)", text, re.M)
        assert set(named) <= targets, page.name


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_decision_records_have_one_form(record: Path) -> None:
    """A record is numbered, at most a page, and has the four headings that all of them have."""
    assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", record.name)
    text = record.read_text()
    assert text.startswith(f"# {int(record.name[:4])}. ")
    wanted = ["Context", "Decision", "Consequences", "Alternatives"]
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == wanted
    assert len(text.split()) <= 650


def test_decision_records_are_numbered_without_gaps() -> None:
    """Records are counted from 1, each number once."""
    assert [int(record.name[:4]) for record in RECORDS] == list(range(1, len(RECORDS) + 1))
