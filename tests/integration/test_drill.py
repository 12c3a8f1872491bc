"""`sluice drill`, with the real engine, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.integration.service import sluice

# As few steps as it takes: the gate's cadences are made to fit.
QUICK: dict[str, Any] = {"warmup_events": 500, "candidate_min_events": 500, "hold_quiet": 300}


def drilled(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    """Run a drill; return its report."""
    report = tmp_path / "drill.json"
    result = sluice("drill", *arguments, "--json", report, **QUICK)
    assert result.exit_code == 0, result.output
    assert "exact faults" in result.output
    loaded: dict[str, Any] = json.loads(report.read_text())
    return loaded


def test_a_shop_is_drilled(tmp_path: Path) -> None:
    """Flipped outcomes lead to HOLD, a shadow that was lost is not promoted, pictures are drawn."""
    report = drilled(
        tmp_path,
        *("--events", 8_000, "--fault", "flip-100", "--fault", "wipe", "--pictures", tmp_path),
    )
    assert all(check["is_passed"] for check in report["exact"])
    rows = {row["fault"]: row for row in report["faults"]}
    assert set(rows) == {"clean", "flip-100", "wipe"}
    assert "alarm" not in rows["clean"]["kinds"]
    assert rows["flip-100"]["caught_by"] == ["clicks_over"]
    assert rows["flip-100"]["caught_after"] < 1_000
    assert rows["flip-100"]["bad_served"] < 0.3 * rows["flip-100"]["bad_served_unguarded"]
    assert rows["wipe"]["caught_by"] == ["overlap"]
    for name in rows:
        picture = (tmp_path / f"{name}.svg").read_text()
        assert picture.startswith("<?xml")
        assert "<!-- guarded -->" in picture


def test_a_drill_is_a_function_of_its_seed(tmp_path: Path) -> None:
    """Two drills of the same seed report the same, whatever runs beside what."""
    arguments = ("--events", 4_000, "--before", 2_500, "--fault", "spam-10")
    one = drilled(tmp_path, *arguments, "--jobs", 1)
    two = drilled(tmp_path, *arguments, "--jobs", 2)
    for report in (one, two):
        del report["seconds"]
    assert one == two
    assert one["plan"] == {"before": 2_500, "during": 1_000, "after": 1_000}


def test_a_data_set_is_drilled(tmp_path: Path) -> None:
    """What can be played into somebody's own events is; what they do not say is left out."""
    lines = ["user_id,item_id,timestamp"]
    for n in range(6_000):
        user, kind = n * 7 % 211, n * 7 % 211 % 5
        lines.append(f"u{user},i{kind}-{n * 31 % 17},{1_700_000_000 + 60 * n}")
    data = tmp_path / "events.csv"
    data.write_text("\n".join(lines))
    report = drilled(tmp_path, "--data", data, "--fault", "permute")
    assert [row["fault"] for row in report["faults"]] == ["clean", "permute"]
    assert report["faults"][1]["caught_by"] == ["overlap"]


def test_a_drill_with_low_caps_ends(tmp_path: Path) -> None:
    """Where users may do little in an hour, the checks bring more users, and come to an end."""
    lines = [f"u{n * 7 % 211},i{n * 31 % 17},{1_700_000_000 + 60 * n}" for n in range(4_000)]
    data, report = tmp_path / "events.csv", tmp_path / "drill.json"
    data.write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    arguments = ("--data", data, "--fault", "clean", "--json", report)
    result = sluice("drill", *arguments, cap_user=5, **QUICK)
    assert result.exit_code == 0, result.output
    checks = {check["name"]: check for check in json.loads(report.read_text())["exact"]}
    assert checks["flood-user"]["is_passed"]
    assert "cap_user" in checks["ids-collapse"]["seen"]


def test_a_data_set_of_one_item_is_drilled(tmp_path: Path) -> None:
    """Where there is one bestseller alone, fakes push beside it; nothing is to be caught."""
    lines = [f"u{n * 7 % 211},i,{1_700_000_000 + 60 * n}" for n in range(4_000)]
    data = tmp_path / "events.csv"
    data.write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    report = drilled(tmp_path, "--data", data, "--fault", "push-5")
    assert [row["fault"] for row in report["faults"]] == ["clean", "push-5"]


def test_what_cannot_be_drilled_is_said(tmp_path: Path) -> None:
    """An unknown fault, too few events, and a fault that needs a shop end with a sentence."""
    small = tmp_path / "small.csv"
    small.write_text("user_id,item_id,timestamp\nu,i,1700000000\n")
    for arguments, said in (
        (("--fault", "nonsense"), "there is no fault nonsense"),
        (("--data", small), "4,000 are the least"),
        (("--data", tmp_path / "none.csv"), "none.csv"),
        (("--data", small, "--before", 5_000), "--before is for the shop"),
        (("--seed", -1), "--seed"),
    ):
        result = sluice("drill", *arguments)
        assert result.exit_code == 2
        assert said in result.output
    result = sluice("drill", rewards='{"purchase": 1}')
    assert result.exit_code == 2
    assert "SLUICE_REWARDS" in result.output
    listed = sluice("drill", "--list")
    assert listed.exit_code == 0
    assert "flip-20" in listed.output
    assert "ids-collapse" in listed.output


def test_what_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    """A report, or pictures, that would find no place end a command at once, not in the end."""
    (tmp_path / "file").touch()
    nowhere = tmp_path / "none" / "report.json"
    for arguments in (
        ("drill", "--json", nowhere),
        ("drill", "--json", tmp_path),
        ("drill", "--pictures", tmp_path / "file"),
        ("replay", tmp_path / "file", "--json", nowhere),
        ("evaluate", tmp_path / "file", "--json", nowhere),
    ):
        result = sluice(*arguments)
        assert result.exit_code == 2
        assert f"cannot write {arguments[-1]}" in result.output
