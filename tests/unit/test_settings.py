from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.errors import SettingsError
from app.settings import EngineSettings, Settings, is_loopback, load_settings

SECRET = "correct-horse-battery-staple"


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start each test in an empty folder, without any setting from outside."""
    import os

    for name in [name for name in os.environ if name.upper().startswith("SLUICE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def refused(**overrides: object) -> str:
    """Return the message of the refusal that the present environment earns."""
    with pytest.raises(SettingsError) as caught:
        load_settings(**overrides)
    return caught.value.message


def test_defaults_are_safe() -> None:
    """Told nothing, a process serves this machine alone, with the gate on."""
    settings = load_settings()
    assert is_loopback(settings.host)
    assert settings.gate == "on"
    assert settings.engine() == EngineSettings()


def test_environment_beats_file_beats_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A setting comes from the argument, else the environment, else the file, else the default."""
    file = tmp_path / "my.toml"
    file.write_text("port = 1\nmax_users = 1000\nseed = 7\n[rewards]\nclick = 0.5\n")
    monkeypatch.setenv("SLUICE_CONFIG", str(file))
    monkeypatch.setenv("SLUICE_PORT", "2")
    monkeypatch.setenv("SLUICE_SEED", "8")
    settings = load_settings(seed=9)
    assert (settings.port, settings.max_users, settings.seed) == (2, 1_000, 9)
    assert settings.rewards == {"click": 0.5}
    assert settings.max_items == EngineSettings().max_items


@pytest.mark.parametrize("value", ["{}", '{"seg": {"of": "item", "min": 0, "max": 1}}'])
def test_an_object_in_the_environment_is_all_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str
) -> None:
    """What the environment says is not joined with what the file says under the same name."""
    file = '[features]\nseg = { of = "user", values = ["a"] }\n[rewards]\nclick = 0.5\n'
    (tmp_path / "sluice.toml").write_text(file)
    monkeypatch.setenv("SLUICE_FEATURES", value)
    settings = load_settings()
    assert settings.features == EngineSettings(features=json.loads(value)).features
    assert settings.rewards == {"click": 0.5}


def test_a_file_in_the_folder_is_read(tmp_path: Path) -> None:
    """sluice.toml where the process starts needs no naming."""
    (tmp_path / "sluice.toml").write_text("seed = 5\n")
    assert load_settings().seed == 5


@pytest.mark.parametrize("name", ["SLUICE_PROT", "SLUICE_", "sluice_max_item", "SLUICE_MODEL_SEED"])
def test_an_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A misspelt setting stops the start, by name."""
    monkeypatch.setenv(name, "1")
    assert name in refused()


def test_names_of_other_parts_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the tests find streams is no business of the service."""
    monkeypatch.setenv("SLUICE_STREAMS", "/nowhere")
    assert load_settings().seed == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLUICE_MAX_ITEMS", "abc"), ("SLUICE_MAX_ITEMS", "99"), ("SLUICE_PORT", "65536"),
        ("SLUICE_GATE", "ajar"), ("SLUICE_NAMESPACE", "a b"), ("SLUICE_HARM_MARGIN", "nan"),
        ("SLUICE_OVERLAP_MIN", "1.1"), ("SLUICE_FSYNC", "never"),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A value out of bounds stops the start, by name and value."""
    monkeypatch.setenv(name, value)
    message = refused()
    assert name in message
    assert value in message


def test_every_problem_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bad values make two details."""
    monkeypatch.setenv("SLUICE_PORT", "-1")
    monkeypatch.setenv("SLUICE_SEED", "-1")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert len(caught.value.details) == 2


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ('{"age": {"of": "user"}}', "SLUICE_FEATURES.age="),
        ('{"age": {"of": "user", "min": 0, "max": NaN}}', "SLUICE_FEATURES.age.max=nan"),
        ('{"age": ', "line 1 column 9"),
    ],
)
def test_what_is_wrong_within_a_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str, told: str
) -> None:
    """Of many features, the message says which is wrong; of JSON that is none, where."""
    monkeypatch.setenv("SLUICE_FEATURES", value)
    assert told in refused()
    assert "features" in refused().lower()


@pytest.mark.parametrize("value", ["not json", "[1]", '{"click": 2}', '{"click": "NaN"}'])
def test_bad_rewards_are_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Rewards are a JSON object of finite numbers from -1 to 1."""
    monkeypatch.setenv("SLUICE_REWARDS", value)
    assert "rewards" in refused().lower()


@pytest.mark.parametrize(
    "changes",
    [
        {"scored_history": 65}, {"rating_positive": 1.0}, {"rating_positive": 5.5},
        {"rating_scale": (5.0, 1.0)}, {"rating_scale": (float("nan"), 5.0)},
        {"rewards": {"click": float("nan")}}, {"rewards": {"click": -1.01}}, {"bogus": 1},
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other(changes: dict[str, object]) -> None:
    """What no engine could follow is refused when it is said."""
    with pytest.raises(ValidationError):
        EngineSettings.model_validate(changes)


def test_every_reward_that_is_accepted_can_be_learned() -> None:
    """More event types than the had-set can tell apart are refused as settings, not as events."""
    with pytest.raises(ValidationError):
        EngineSettings(rewards={f"t{n}": 1.0 for n in range(300)})


def test_an_open_host_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other machines are served with a key, or with the express word that there is none."""
    monkeypatch.setenv("SLUICE_HOST", "0.0.0.0")
    assert "SLUICE_API_KEY" in refused()
    monkeypatch.setenv("SLUICE_INSECURE", "yes")
    assert load_settings().insecure
    monkeypatch.delenv("SLUICE_INSECURE")
    monkeypatch.setenv("SLUICE_API_KEY", SECRET)
    assert load_settings().api_key


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback(host: str) -> None:
    """These reach this machine alone."""
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "", "localhost.evil"])
def test_no_loopback(host: str) -> None:
    """These may reach another."""
    assert not is_loopback(host)


def test_keys_are_in_no_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither repr nor any refusal shows a key, however the settings are wrong."""
    monkeypatch.setenv("SLUICE_API_KEY", SECRET)
    monkeypatch.setenv("SLUICE_ADMIN_KEY", SECRET)
    assert SECRET not in repr(load_settings())
    monkeypatch.setenv("SLUICE_PORT", "x")
    assert SECRET not in refused()
    monkeypatch.setenv("SLUICE_ADMIN_KEY", "short")
    monkeypatch.delenv("SLUICE_PORT")
    message = refused()
    assert "SLUICE_ADMIN_KEY" in message
    assert "short" not in message.replace("shorter", "")
    monkeypatch.delenv("SLUICE_ADMIN_KEY")
    (tmp_path / "sluice.toml").write_text(f'api-key = "{SECRET}"\nadmin_key = ["{SECRET}"]\n')
    assert SECRET not in refused()


@pytest.mark.parametrize("mode", ["check", "require"])
def test_tokens_need_keys(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """Tokens without a key stop the start, which says how to make one; and so do idle keys."""
    monkeypatch.setenv("SLUICE_TOKENS", mode)
    message = refused()
    assert f"SLUICE_TOKENS={mode}" in message
    assert "SLUICE_TOKEN_KEYS" in message
    assert "openssl rand -hex 32" in message
    monkeypatch.setenv("SLUICE_TOKEN_KEYS", f"{SECRET}, {SECRET}-old")
    assert load_settings().token_secrets() == [SECRET.encode(), f"{SECRET}-old".encode()]
    assert SECRET not in repr(load_settings())
    monkeypatch.delenv("SLUICE_TOKENS")
    assert "SLUICE_TOKENS=off" in refused()
    assert SECRET not in refused()
    monkeypatch.delenv("SLUICE_TOKEN_KEYS")
    assert load_settings().token_secrets() == []


@pytest.mark.parametrize(
    "keys", ["", "fifteen-bytes--", f"{SECRET},", f",{SECRET}", f"{SECRET},short"]
)
def test_short_token_keys_are_refused(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    """Each key has 16 bytes or more; the message names the setting and shows no key."""
    monkeypatch.setenv("SLUICE_TOKENS", "check")
    monkeypatch.setenv("SLUICE_TOKEN_KEYS", keys)
    message = refused()
    assert "SLUICE_TOKEN_KEYS" in message
    assert "16 bytes" in message
    assert SECRET not in message
    assert "fifteen" not in message


def test_there_are_two_token_keys_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """One key and the one before it are enough; more are a mistake, and not shown."""
    monkeypatch.setenv("SLUICE_TOKENS", "check")
    monkeypatch.setenv("SLUICE_TOKEN_KEYS", ",".join([SECRET] * 3))
    message = refused()
    assert "SLUICE_TOKEN_KEYS" in message
    assert "one key or two" in message
    assert SECRET not in message


def test_a_named_file_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """SLUICE_CONFIG that names nothing stops the start."""
    monkeypatch.setenv("SLUICE_CONFIG", "/nowhere.toml")
    assert "/nowhere.toml" in refused()


@pytest.mark.parametrize("text", ["seed = ", "prot = 1\n", "[seed]\na = 1\n"])
def test_a_bad_file_is_refused(tmp_path: Path, text: str) -> None:
    """A file that is no TOML, or says what nobody knows, stops the start."""
    (tmp_path / "sluice.toml").write_text(text)
    assert refused()


def test_settings_are_frozen() -> None:
    """After the start nothing changes."""
    settings = load_settings()
    with pytest.raises(ValidationError):
        settings.seed = 2  # type: ignore[misc]


def test_every_setting_is_explained() -> None:
    """Each field has a line that says what it is."""
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_engine_settings_survive_the_log() -> None:
    """What Configure carries makes equal settings again."""
    settings = EngineSettings(seed=7, rating_scale=(0.0, 10.0), rewards={"click": 0.1})
    assert EngineSettings(**settings.model_dump(mode="json")) == settings


def test_a_log_has_what_its_semantics_version_knows() -> None:
    """What came later is in the log of an older version only where it is set."""
    margins = [
        EngineSettings(arbiter_margin=margin).logged(semantics).get("arbiter_margin")
        for semantics in (9, 10)
        for margin in (0.1, 0.2)
    ]
    assert margins == [None, 0.2, 0.1, 0.2]
    assert "explore_share" not in EngineSettings().logged(7)
    assert "explore_share" in EngineSettings().logged(8)
