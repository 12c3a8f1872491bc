"""`sluice evaluate`: estimates from logs whose truth is known, and from the Open Bandit format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio.to_thread
import numpy as np
import pytest
from typer.testing import Result

from app import events
from app.engine import Engine
from app.events import VALID, Entry, Impression
from app.store import Store
from scripts.slates import ranked
from tests.factories import START_MS, click, configure, make_engine, make_settings
from tests.integration.conftest import OpenStore
from tests.integration.service import sluice

pytestmark = pytest.mark.anyio

K, N_ITEMS, N_USERS, N_SLATES = 3, 8, 60, 700
SETTINGS: dict[str, Any] = {"exclude_had": False, "tokens": "check", "promote_events": 200}
CHANGES: dict[str, Any] = {"trending_half_lives_s": [60], "n_factors": 4, "promote_events": 20}
LOOKS = 1.0 / (1.0 + 0.3 * np.arange(K))
# Slates that are served before one is logged.
LAG = 20


class Shop:
    """Two kinds of users with items of their own, and an engine that shows a place by chance.

    `entries` are the log; `worth` has for each slate the clicks that each policy's list would have
    got: the truth.
    """

    def __init__(self, *, explored: float = 0.75) -> None:
        self.chance = np.random.default_rng(7)
        self.engine = make_engine(**SETTINGS)
        self.other = make_engine(**(SETTINGS | CHANGES))
        self.explored = explored
        self.liking = np.full((2, N_ITEMS), 0.08)
        self.liking[0, [1, 3, 5]] = self.liking[1, [0, 2, 4]] = 0.4
        self.entries = [Entry([configure(make_settings(**SETTINGS))])]
        self.worth: dict[str, list[float]] = {"served": [], "shadow": [], "other": []}
        self.shown: list[Impression] = []
        first = [click(f"u{user}", f"i{user % N_ITEMS}", at_s=-1) for user in range(N_USERS)]
        self.log(Entry(list(first), START_MS - 500))

    def log(self, entry: Entry) -> None:
        """Append an entry, and let both engines learn from it."""
        self.entries.append(entry)
        for engine in (self.engine, self.other):
            engine.apply(entry, f"{len(self.entries)}-0")

    def run(self, n: int) -> Shop:
        """Show n slates, each answered at once and logged a while later."""
        for number in range(n):
            served_ms = START_MS + number * 1_000
            user = int(self.chance.integers(N_USERS))
            liking = self.liking[user % 2]
            items = self.list_for(user, liking)
            items, propensities = self.explore(items)
            looked = self.chance.random(K) < liking[items] * LOOKS
            clicks = [
                click(
                    f"u{user}",
                    f"i{items[place]}",
                    at_s=number + place / 10,
                    token=VALID,
                    recommendation_id=f"s{number}",
                )
                for place in np.flatnonzero(looked)
            ]
            self.shown.append(
                Impression(
                    f"s{number}",
                    f"u{user}",
                    [f"i{item}" for item in items],
                    [1.0] * K,
                    served_ms,
                    propensities,
                )
            )
            if clicks:
                self.log(Entry(list(clicks), served_ms + 400))
            if len(self.shown) > LAG:
                self.log(Entry([self.shown.pop(0)], served_ms + 900))
        for shown in self.shown:
            self.log(Entry([shown], START_MS + (n + LAG) * 1_000))
        return self

    def list_for(self, user: int, liking: np.ndarray[Any, Any]) -> list[int]:
        """Return what is served to a user, and note what every policy's list is worth."""
        asked: dict[str, tuple[Engine, str]] = {
            "served": (self.engine, "served"),
            "shadow": (self.engine, "shadow"),
            "other": (self.other, "served"),
        }
        lists = {}
        for name, (engine, policy) in asked.items():
            ids = ranked(engine, policy, f"u{user}", K) or []
            lists[name] = [int(id_[1:]) for id_ in ids]
            self.worth[name].append(float(liking[lists[name]] @ LOOKS[: len(ids)]))
        return lists["served"]

    def explore(self, items: list[int]) -> tuple[list[int], list[float]]:
        """Let one place of some slates have any other item, each with the same chance.

        If that one is in the list, the two change places: so each item has a chance at each place.
        """
        once = self.explored / K / (N_ITEMS - 1)
        propensities = [1.0 - once * (N_ITEMS - 1) - once * (K - 1)] * K
        if self.chance.random() >= self.explored:
            return items, propensities
        items, place = [*items], int(self.chance.integers(K))
        others = [item for item in range(N_ITEMS) if item != items[place]]
        chosen = others[int(self.chance.integers(len(others)))]
        propensities[place] = once
        if chosen in items:
            other = items.index(chosen)
            items[other] = items[place]
            propensities[place] = propensities[other] = 2 * once
        items[place] = chosen
        return items, propensities


async def logged(open_store: OpenStore, url: str, shop: Shop) -> Store:
    """Write a shop's log into a store."""
    store = await open_store(url)
    payloads = [(events.encode(entry), "") for entry in shop.entries]
    for start in range(0, len(payloads), 100):
        await store.append(payloads[start : start + 100])
    return store


async def evaluate(store_url: str, *arguments: object) -> Result:
    """Run the command on a log."""

    def run() -> Result:
        return sluice("evaluate", *arguments, namespace="test", redis_url=store_url)

    return await anyio.to_thread.run_sync(run)


async def test_a_policy_is_worth_what_it_would_have_got(
    server: Any, open_store: OpenStore, tmp_path: Path
) -> None:
    """Of versions and of other settings, replayed along the log, the interval holds the truth."""
    shop = Shop().run(N_SLATES)
    await logged(open_store, server.url, shop)
    out = tmp_path / "out.json"
    policies = {
        "served": ("--policy", "served"),
        "shadow": ("--policy", "shadow"),
        "other": ("--policy", "served", "--settings", json.dumps(CHANGES)),
    }
    for name, arguments in policies.items():
        result = await evaluate(server.url, "--from-log", "--json", out, *arguments)
        assert result.exit_code == 0, result.output
        found = json.loads(out.read_bytes())
        assert found["n_slates"] == N_SLATES
        truth = float(np.mean(shop.worth[name]))
        for estimate in found["estimates"].values():
            assert abs(estimate["value"] - truth) <= estimate["within"], (name, truth, found)
        # Each item had a chance at each place: all that a policy shows could have been shown.
        support = found["support"]
        assert abs(support["value"] - 1.0) <= support["within"]
        assert "could not have been shown" not in result.output
        if name != "served":
            gain = truth - float(np.mean(shop.worth["served"]))
            for difference in found["differences"].values():
                assert abs(difference["value"] - gain) <= difference["within"]
    assert "clicks per slate would be" in " ".join(result.output.split())


async def test_without_exploration_nothing_can_be_said(server: Any, open_store: OpenStore) -> None:
    """Where nothing was left to chance, it refuses, and says what to turn on."""
    shop = Shop(explored=0.0).run(40)
    await logged(open_store, server.url, shop)
    result = await evaluate(server.url, "--from-log", "--policy", "shadow")
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert "in none of 40 slates was anything left to chance" in said
    assert "SLUICE_EXPLORE_SHARE" in said


async def test_what_cannot_be_used_is_counted(
    server: Any, open_store: OpenStore, tmp_path: Path
) -> None:
    """Slates without a chance, undeclared ones, and those without the policy are left out, told."""
    shop = Shop().run(60)
    shop.log(Entry([Impression("x", "u1", ["i1"], [1.0], START_MS)], START_MS + 100_000))
    unheard = Impression("y", "u1", ["i1"], [1.0], START_MS, [0.5], [], False)
    shop.log(Entry([unheard], START_MS + 100_001))
    await logged(open_store, server.url, shop)
    out = tmp_path / "out.json"
    result = await evaluate(server.url, "--from-log", "--policy", "random", "--json", out)
    assert result.exit_code == 0, result.output
    unusable = json.loads(out.read_bytes())["unusable"]
    assert sorted(unusable.values()) == [1, 1]
    assert "too little to go by" in result.output
    nobody = await evaluate(server.url, "--from-log", "--policy", "challenger")
    assert nobody.exit_code == 2
    assert "no challenger that could be asked" in " ".join(nobody.output.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from-log", "--policy", "best"], "no policy 'best'"),
        (["--from-log", "--settings", "{"], "is no JSON"),
        (["--from-log", "--settings", '{"colour": 1}', "--policy", "served"], "cannot be"),
        (["--policy", "random"], "name an Open Bandit log"),
        (["nowhere.csv", "--policy", "random"], "there is no file nowhere.csv"),
    ],
)
async def test_what_cannot_be_evaluated_is_said(
    server: Any, open_store: OpenStore, arguments: list[str], said: str
) -> None:
    """A policy, a setting or a file that there is not ends in a sentence, and code 2."""
    await logged(open_store, server.url, Shop().run(2))
    result = await evaluate(server.url, *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


# -- the Open Bandit format ---------------------------------------------------------------------

HEADER = ",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1"
RATES = np.array([0.02, 0.05, 0.1, 0.3])


def open_bandit_log(path: Path, shares: list[float], *, n: int = 4_000, seed: int = 1) -> float:
    """Write a log of a policy that shows each of four items with its share; return its worth."""
    chance = np.random.default_rng(seed)
    lines = [HEADER]
    for number in range(n):
        item, position = int(chance.choice(4, p=shares)), int(chance.integers(1, 4))
        is_clicked = int(chance.random() < RATES[item] / position)
        user = int(chance.integers(200))
        who = f"f{user % 20},g{user // 20}"
        when = f"2019-11-24 00:{number // 60 % 60:02d}:{number % 60:02d}.5+00:00"
        lines.append(f"{number},{when},{item},{position},{is_clicked},{shares[item]},{who}")
    path.write_text("\n".join(lines))
    return float(RATES @ shares) * float(np.mean(1.0 / np.arange(1, 4)))


@pytest.mark.parametrize("kind", ["random", "another log"])
def test_an_open_bandit_log_tells_of_another_policy(kind: str, tmp_path: Path) -> None:
    """From one policy's log the worth of a random one, and of another log's, is estimated."""
    uniform, greedy = [0.25] * 4, [0.1, 0.1, 0.2, 0.6]
    random, other, out = (tmp_path / name for name in ("random.csv", "greedy.csv", "out.json"))
    worth = {
        "random": open_bandit_log(random, uniform, seed=1),
        "another log": open_bandit_log(other, greedy, seed=2),
    }
    data, policy = (other, "random") if kind == "random" else (random, str(other))
    result = sluice("evaluate", data, "--policy", policy, "--json", out)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_bytes())
    for estimate in found["estimates"].values():
        assert abs(estimate["value"] - worth[kind]) <= estimate["within"]
        assert estimate["within"] < worth[kind] / 2
    assert found["n_users"] == 200
    assert "clicks per item shown would be" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("propensity_score", "p"), "no column 'propensity_score'"),
        (lambda text: text.replace(",0.25,", ",0,", 1), "row 1: propensity_score is 0.0"),
        (lambda text: text.replace(",0.25,", ",,", 1), "row 1: propensity_score is None"),
        (lambda text: text.replace(",0.25,", ",x,", 1), "is no Open Bandit log"),
        (lambda text: HEADER + "\n", "has no rows"),
    ],
)
def test_another_format_is_refused(change: Any, said: str, tmp_path: Path) -> None:
    """What is not in the format is refused with the column or row at fault."""
    path = tmp_path / "log.csv"
    open_bandit_log(path, [0.25] * 4, n=10)
    path.write_text(change(path.read_text()))
    result = sluice("evaluate", path, "--policy", "random")
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
