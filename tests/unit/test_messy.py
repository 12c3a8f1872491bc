from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.datasets import read
from scripts.messy import examine, remarks
from tests.factories import make_settings


def examined(path: Path, rows: list[tuple[str, str, float]], **changes: Any) -> dict[str, Any]:
    """Return what is found in a CSV file of (user, item, seconds), in the order given."""
    lines = ["user_id,item_id,timestamp", *(f"{u},{i},{1_000_000_000 + t}" for u, i, t in rows)]
    file = path / "events.csv"
    file.write_text("\n".join(lines) + "\n")
    return examine(read(file), make_settings(**changes))


def plain(n: int, every_s: float = 10.0) -> list[tuple[str, str, float]]:
    """Return events of many users with nothing wrong."""
    return [(f"u{n % 40}", f"i{n % 30}", n * every_s) for n in range(n)]


def test_a_clean_stream_is_called_clean(tmp_path: Path) -> None:
    """Nothing is found where nothing is wrong."""
    found = examined(tmp_path, plain(600))
    said = remarks(found)
    assert said[0] == "No event came after a newer one."
    assert said[-1] == "The gate's door would have let everything in."
    assert found["users"]["bots"] == found["floods"]["minutes"] == found["gaps"]["gaps"] == 0


def test_lateness_has_a_distribution(tmp_path: Path) -> None:
    """Events behind a newer one are counted, by how far they are behind."""
    rows = plain(400)
    rows[200] = ("late", "i1", 0.0)
    rows[300] = ("late", "i2", 2_900.0)
    order = examined(tmp_path, rows)["order"]
    assert order["late"] == 2
    assert order["most_s"] == 1_990
    assert order["by_s"]["over 60 s"] == 2
    assert order["by_s"]["over 600 s"] == 1


def test_a_shuffled_file_is_not_judged_by_its_order(tmp_path: Path) -> None:
    """Where half of the file is out of order, that is its order, and no lateness."""
    rows = sorted(plain(500), key=lambda row: row[2] * 7_919 % 5_000)
    found = examined(tmp_path, rows)
    assert found["order"]["is_shuffled"]
    assert "not in the order" in remarks(found)[0]
    assert "late" not in found["admission"]["counts"]


def test_a_file_by_session_is_not_judged_by_its_order(tmp_path: Path) -> None:
    """Sessions one after the other, each in order, are another order than the events came in."""
    sessions = [(f"u{n}", f"i{k}", n * 7_919.0 % 5_000 + k) for n in range(100) for k in range(5)]
    assert examined(tmp_path, sessions)["order"]["is_shuffled"]


def test_one_clock_that_is_ahead_makes_the_rest_late(tmp_path: Path) -> None:
    """A single event from the future is no other order: what comes after it is late."""
    rows = plain(400)
    rows[100] = ("early", "i1", 10_000.0)
    order = examined(tmp_path, rows)["order"]
    assert not order["is_shuffled"]
    assert order["late"] == 299


def test_bots_and_floods_are_found(tmp_path: Path) -> None:
    """Somebody with five events a second is no person, and their minute is a flood."""
    rows = plain(600)
    rows[300:300] = [("robot", f"i{n % 30}", 2_990 + n / 5) for n in range(300)]
    found = examined(tmp_path, rows)
    assert [bot["user"] for bot in found["users"]["examples"]] == ["robot"]
    assert found["floods"]["minutes"] >= 1
    assert any("as no person does" in remark for remark in remarks(found))


def test_gaps_are_found_where_the_rate_does_not_explain_them(tmp_path: Path) -> None:
    """Five hours of silence in a stream of six events a minute are one gap, with its place."""
    rows = [(u, i, t + (18_000 if t > 3_000 else 0)) for u, i, t in plain(600)]
    gaps = examined(tmp_path, rows)["gaps"]
    assert gaps["gaps"] == 1
    assert gaps["examples"][0]["seconds"] == 18_010


def test_duplicates_and_placeholders_are_counted(tmp_path: Path) -> None:
    """An event that is there twice is a duplicate; `null` is nobody."""
    rows = plain(600)
    rows += [rows[-1], ("null", "i1", 6_000.0), ("null", "i1", 6_001.0)]
    found = examined(tmp_path, rows)
    assert found["duplicates"]["same_event"] == 1
    assert found["admission"]["counts"]["duplicate"] == 1
    assert found["unknown"]["placeholder_users"] == {"null": 2}


def test_what_the_door_would_have_kept_out_is_told_with_its_reason(tmp_path: Path) -> None:
    """Events that are too late, or past a cap, are counted by why, with an example each."""
    rows = plain(600, every_s=600)
    rows.append(("late", "i1", 0.0))
    rows += [("eager", "i1", 360_000 + n) for n in range(60)]
    found = examined(tmp_path, rows, cap_user_item=50)
    counts, examples = found["admission"]["counts"], found["admission"]["examples"]
    assert counts["late:late"] == 1
    assert counts["quarantined:cap_user_item"] == 10
    assert "50 events in 3600 s" in examples["cap_user_item"]
    assert "late 1, cap_user_item 10" in remarks(found)[-1]
