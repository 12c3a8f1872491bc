"""Rules over HTTP, on the command line, and on every replica."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import StartService
from tests.integration.service import Service, answer_of, error_of, sluice, until

RULES = """
[[rules]]
name = "sold-out"
kind = "hide"
where.stock = 0

[[rules]]
name = "tea-first"
kind = "boost"
where.categories = "tea"
by = 1

[[rules]]
name = "hero"
kind = "pin"
item = "spade"
position = 2

[[rules]]
name = "nothing"
kind = "bury"
where.brand = "unheard-of"
by = 0.5
"""
TOML = {"Content-Type": "application/toml"}
ADMIN = {"X-API-Key": "an-admin-key"}


def stock(service: Service) -> None:
    """Fill a shop: pots are popular, tea is not, and a spade is neither."""
    items: list[dict[str, Any]] = [
        {"item_id": "pot1", "categories": ["pots"], "attributes": {"stock": 5}},
        {"item_id": "pot2", "categories": ["pots"], "attributes": {"stock": 0}},
        {"item_id": "tea1", "categories": ["tea"], "attributes": {"stock": 3}},
        {"item_id": "spade", "attributes": {"stock": 1}},
    ]
    service.client.headers.update(ADMIN)
    service.post("/v1/items", items)
    popular = [("pot1", 5), ("pot2", 4), ("tea1", 2)]
    service.post(
        "/v1/feedback",
        [
            {"user_id": f"u{u}", "item_id": item, "type": "click", "event_id": f"{item}{u}"}
            for item, n in popular
            for u in range(n)
        ],
    )


def shown(service: Service, user: str = "new") -> list[str]:
    """Return the items that a user is shown."""
    items = service.get(f"/v1/recommendations/{user}")["items"]
    return [item["item_id"] for item in items]


def test_rules_from_the_file_to_every_replica(make_service: StartService, tmp_path: Path) -> None:
    """A file is checked, tried, which changes nothing, and put: then all replicas obey it.

    So they do after a restart; who has no admin key may not even look.
    """
    keys = {"api_key": "an-api-key", "admin_key": ADMIN["X-API-Key"]}
    service = make_service(**keys).start()
    replica = make_service("replica", redis_url=service.store_url, **keys).start()
    replica.client.headers.update(ADMIN)
    stock(service)
    file = tmp_path / "rules.toml"
    file.write_text(RULES)
    assert "4 rules, all well-formed" in sluice("rules", file, "--check").output
    assert shown(service) == ["pot1", "pot2", "tea1", "spade"]

    tried = service.sluice("rules", file, "--dry-run", "--user", "new", "--url", service.url)
    assert tried.exit_code == 0, tried.output
    assert "nothing (bury) matches no item" in tried.output
    [slate] = answer_of(
        service.client.post("/v1/rules/dry-run?user=new&k=3", content=RULES, headers=TOML)
    )["slates"]
    assert slate["before"] == ["pot1", "pot2", "tea1"]
    assert [(one["item_id"], one["was"]) for one in slate["after"]] == [
        ("tea1", 3),
        ("spade", None),
        ("pot1", 1),
    ]
    assert slate["gone"] == ["pot2"]
    assert slate["did"] == {"sold-out": 1, "tea-first": 1, "hero": 1}
    assert shown(service) == ["pot1", "pot2", "tea1", "spade"]
    assert service.get("/v1/rules")["rules"] == []

    assert service.sluice("rules", file, "--put", "--url", service.url).exit_code == 0
    after = ["tea1", "spade", "pot1"]
    assert shown(service) == after
    until(lambda: shown(replica) == after)
    view = service.get("/v1/rules")
    assert [(one["rule"]["name"], one["items"]) for one in view["rules"]] == [
        ("sold-out", 1),
        ("tea-first", 1),
        ("hero", 1),
        ("nothing", 0),
    ]
    assert [warning["rules"] for warning in view["warnings"]] == [["nothing"]]
    assert "hero" in service.sluice("rules", "--url", service.url).output
    until(lambda: "rules: nothing (bury) matches no item" in replica.log)
    assert service.log.count("nothing (bury)") == 1
    assert service.counter('sluice_rule_slates_total{kind="pin",rule="hero"}') == 1
    assert service.counter("sluice_rule_warnings") == 1
    decision = service.get("/v1/decisions")["decisions"][0]
    assert (decision["kind"], len(decision["evidence"]["added"])) == ("rules", 4)
    assert service.hashes() == replica.hashes()

    for method, path in (("GET", "/v1/rules"), ("PUT", "/v1/rules"), ("POST", "/v1/rules/dry-run")):
        answer = service.client.request(method, path, headers={"X-API-Key": keys["api_key"]})
        error_of(answer, 403)
    service.stop()
    service.start()
    service.client.headers.update(ADMIN)
    assert shown(service) == after
    emptied = answer_of(service.client.put("/v1/rules", json={"rules": []}))
    assert emptied["rules"] == []
    assert shown(service) == ["pot1", "pot2", "tea1", "spade"]


@pytest.mark.parametrize(
    ("content", "headers", "words"),
    [
        (b"", {}, "no JSON"),
        (b"{", {}, "no JSON"),
        (RULES.encode(), {}, "Content-Type: application/toml"),
        (b"[[rules]", TOML, "no TOML"),
        (b'{"rules": [{"name": "a", "kind": "boost"}]}', {}, "rule 1 ('a')"),
        (b"[]", {}, "give {"),
    ],
)
def test_what_is_no_rule_is_refused(
    api: Service, content: bytes, headers: dict[str, str], words: str
) -> None:
    """A body that cannot be read is 422 and says why; nothing of it is in force."""
    for method, path in (("PUT", "/v1/rules"), ("POST", "/v1/rules/dry-run")):
        answer = api.client.request(method, path, content=content, headers=headers)
        assert words in error_of(answer, 422)["message"]
    assert api.get("/v1/rules")["rules"] == []


def test_too_much_is_refused(api: Service) -> None:
    """A body over the limit is 413, before anything of it is read."""
    error_of(api.client.put("/v1/rules", content=b"#" * 70_000, headers=TOML), 413)


def test_the_command_says_what_it_wants(tmp_path: Path) -> None:
    """Without a file that can be read, or without saying what for, the command tells how."""
    file = tmp_path / "rules.toml"
    file.write_text("[[rules]]\nname = 'a'\nkind = 'boost'\n")
    for arguments, words in (
        ([file], "one of --check"),
        (["--check"], "one of --check"),
        ([file, "--check", "--put"], "one of --check"),
        ([file, "--check"], "rule 1 ('a')"),
        ([tmp_path / "missing", "--check"], "cannot be read"),
        ([file, "--put", "--url", "http://127.0.0.1:9"], "no answer"),
    ):
        result = sluice("rules", *arguments)
        assert result.exit_code != 0
        assert words in result.output.replace("\n", " ")
