"""Settings, from `SLUICE_*` in the environment and a TOML file; frozen after the start.

Two classes: `EngineSettings` decide what the engine computes and are written into the log (see
`Configure`); `Settings` add what only this process needs. Every field has its unit and bounds.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from river import base

from app.errors import SettingsError
from app.features import Features, check_feature_store_url, check_inputs, inputs_of
from learners import river_adapter
from learners.combiner import feature_names

SEMANTICS = 12
"""Version of what the engine computes from a log; hashes compare only within one.

A new log begins with it. 7: a user who is forgotten leaves the shares of traffic, too. 8: the
catalogue has typed columns; slots explore, and what was ignored counts for less; slates are
calibrated. 9: users have factors of their own. 10: a branch has to be better by a margin, marked
users prove a fault, and single items are learned anew where the world has changed; an id that
begins to swallow others teaches nothing about what one may have; a slate counts once; what was
requeued, restored or suspected is heeded by later rollbacks. 11: where more events come than
`judge_per_s`, about so many of them are judged. 12: and of them as many count for promotions.
"""

KNOWN_SEMANTICS = (6, 7, 8, 9, 10, 11, 12)
"""The versions that this program can compute: a log goes from one to the next by an Upgrade."""

PREFIX = "SLUICE_"
# Read by other parts, not fields: the TOML file's path, and where the tests find real streams.
NOT_FIELDS = {"SLUICE_CONFIG", "SLUICE_STREAMS"}

# One that signs, and the one before it while its tokens are still about.
MAX_TOKEN_KEYS = 2
# As many as a token's signature has.
MIN_TOKEN_KEY_BYTES = 16

Positive = Annotated[int, Field(ge=1)]
Delay = Annotated[int, Field(ge=0, le=10**9)] | Literal["never"]

LEARNER_SETTINGS = (
    "learner",
    "max_neighbours",
    "covisit_shrink",
    "halve_counts_at",
    "trending_half_lives_s",
    "n_factors",
    "blend_learning_rate",
)
"""What a challenger may have otherwise: what shapes the shared state, and nothing else."""

SINCE_8 = (
    *("max_columns", "max_strings", "had_return", "explore_share", "ignored_weight"),
    *("freshness", "freshness_personal_s", "freshness_shared_s"),
)
"""What came with semantics version 8: programs of before do not know these settings."""

SINCE_10 = ("arbiter_margin",)
"""The same of version 10."""

SINCE_11 = ("judge_per_s",)
"""The same of version 11."""

IF_SET = ("features", "halve_counts_at")
"""What is in a log only where it is set: logs of before go on as they are, bytes and hashes."""

DEFAULT_REWARDS = {
    "view": 0.5,
    "click": 1.0,
    "like": 1.0,
    "add_to_cart": 1.0,
    "purchase": 1.0,
    "rating": 1.0,
    "skip": -0.5,
    "dislike": -1.0,
}


class EngineSettings(BaseModel):
    """What decides the engine's state; two replicas of one log must agree on every field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(
        1, ge=0, lt=2**31, description="seed of hashed choices (the factors' negatives)"
    )

    max_items: int = Field(
        100_000,
        ge=100,
        le=10_000_000,
        description="items; past it the one with the oldest event goes",
    )
    max_users: int = Field(
        1_000_000,
        ge=100,
        le=100_000_000,
        description="users; past it the one with the oldest event goes",
    )
    max_neighbours: int = Field(100, ge=1, le=1_000, description="neighbours kept per item")
    history_length: int = Field(64, ge=1, le=256, description="events kept per user")
    scored_history: int = Field(20, ge=1, le=256, description="last events that a score looks at")
    had_length: int = Field(
        1_000, ge=1, le=10_000, description="distinct items remembered as had, per user"
    )
    exclude_had: bool = Field(True, description="never show again what the user had")
    had_return: dict[str, float] = Field(
        default_factory=dict,
        max_length=250,
        description="event type -> days after which an item whose last event that was may be shown"
        " again; other types: never",
    )
    max_columns: int = Field(64, ge=1, le=1_000, description="attributes by name, of all items")
    max_strings: int = Field(
        1_000_000, ge=1, le=100_000_000, description="distinct strings among all attributes"
    )
    create_unknown_items: bool = Field(True, description="feedback on an unknown item creates it")

    learner: str = Field(
        "blend",
        max_length=2_000,
        description="blend, or river:... for a River model that ranks what the blend names",
    )
    covisit_shrink: float = Field(
        20.0, ge=0, le=1e6, description="events by which a rare item's counts are damped"
    )
    halve_counts_at: int = Field(
        0,
        ge=0,
        le=10**9,
        description="rewards of an item at which they, and the counts of what goes with it and"
        " follows it, are halved; 0: never",
    )
    trending_half_lives_s: tuple[Annotated[int, Field(ge=60, le=10**9)], ...] = Field(
        (3_600, 86_400, 604_800),
        min_length=1,
        max_length=8,
        description="seconds after which an event counts half, one for each trending list",
    )
    features: Features = Field(
        default_factory=dict,
        description="what is given from elsewhere: name -> of (context, user, item), and values, or"
        " min and max; users': max_age_s",
    )
    n_factors: int = Field(32, ge=4, le=256, multiple_of=4, description="factors of an item")
    blend_learning_rate: float = Field(
        0.15, gt=0, le=10, description="step in which the sources' weights are learned"
    )

    rewards: dict[str, float] = Field(
        default_factory=lambda: dict(DEFAULT_REWARDS),
        min_length=1,
        max_length=250,
        description="event type -> reward, -1..1",
    )
    rating_scale: tuple[float, float] = Field((1.0, 5.0), description="lowest and highest rating")
    rating_positive: float = Field(4.0, description="ratings from here on are positive")

    dedupe_window: int = Field(
        1_000_000, ge=1, le=100_000_000, description="admitted event ids remembered"
    )
    lateness_s: int = Field(
        86_400, ge=0, le=10**9, description="seconds behind the watermark that are still learned"
    )
    future_s: int = Field(
        5, ge=0, le=86_400, description="seconds ahead of arrival that are believed"
    )

    cap_window_s: Positive = Field(3_600, description="seconds of event time that caps count in")
    cap_user: int = Field(
        1_000, ge=0, le=10**9, description="events of one user in that time; 0: no cap"
    )
    cap_user_item: int = Field(
        50, ge=0, le=10**9, description="events of one user on one item; 0: no cap"
    )
    cap_source_item: int = Field(
        0, ge=0, le=10**9, description="events of one source on one item; 0: no cap"
    )

    id_share: float = Field(
        0.05, gt=0, le=1, description="share of the last 500 events that any user may have; 1: all"
    )
    teach_repeats: bool = Field(
        False, description="whether a user's second event of a type on an item teaches others again"
    )
    growth_least: int = Field(
        0,
        ge=0,
        le=10**9,
        description="events that an item may teach in a day, or as many as on all days before it,"
        " if these are more; 0: no limit",
    )

    freshness: Literal["per_event", "micro_batch", "two_tier", "batch", "frozen"] = Field(
        "per_event",
        description="when state is served: as it comes; in batches; personal state as it comes, and"
        " shared state in batches; once a day; never again",
    )
    freshness_personal_s: Delay | None = Field(
        None,
        description="micro_batch: seconds of event time in a batch of personal state; none: 10",
    )
    freshness_shared_s: Delay | None = Field(
        None,
        description="micro_batch, two_tier: seconds of event time between promotions; none: 10 and"
        " 600",
    )

    gate: Literal["on", "off"] = Field("on", description="off: the shadow serves, unguarded")
    judge_share: float = Field(
        1.0, gt=0, le=1, description="share of the events that versions are ranked on"
    )
    judge_per_s: int = Field(
        1_000,
        ge=0,
        le=10**9,
        description="of more events in a second of event time, about so many are; 0: all",
    )
    warmup_events: Positive = Field(2_000, description="learned events before the first anchor")
    promote_events: Positive = Field(
        500,
        description="admitted events between promotions; of more than judge_per_s in a second,"
        " about so many count (since semantics version 12)",
    )
    promote_s: Positive = Field(60, description="or seconds of event time, if anything came")
    overlap_min: float = Field(
        0.4, ge=0, le=1, description="overlap@10 that a promotion needs; 0 turns the check off"
    )
    overlap_histories: int = Field(
        50, ge=1, le=1_000, description="most recent users that overlap is measured on"
    )
    candidate_events: Positive = Field(20_000, description="learned events between candidates")
    candidate_s: Positive = Field(3_600, description="or seconds of event time ...")
    candidate_min_events: Positive = Field(2_000, description="... and this many learned events")
    bless_judged: Positive = Field(500, description="judged events that a blessing looks at")
    harm_alarm: float = Field(
        5e6, ge=10, le=1e12, description="harm detector's threshold: mean events per false alarm"
    )
    harm_margin: float = Field(0.005, ge=0, le=0.5, description="loss difference that is no harm")
    ask_alarm: float = Field(1e3, ge=10, le=1e12, description="the same threshold in ASK")
    ask_judged: Positive = Field(500, description="judged events that end ASK")
    ask_s: Positive = Field(300, description="or seconds of event time ...")
    ask_min_judged: Positive = Field(100, description="... and this many judged events")
    adwin_delta: float = Field(0.002, gt=0, lt=1, description="ADWIN's significance")

    traffic_delta: float = Field(
        1e-5, gt=0, lt=1, description="ADWIN's significance on the rate and shares of traffic"
    )
    tokens: Literal["off", "check", "require"] = Field(
        "off",
        description="check: a recommendation_id must be one of ours and name the user and item;"
        " require: and every event must have one. Needs token_keys",
    )
    calibration_margin: float = Field(
        0.03, ge=0, le=0.5, description="clicks over or under expectation that are no harm"
    )
    item_margin: float = Field(0.10, ge=0, le=0.5, description="the same for a single item")
    item_armed: Positive = Field(100, description="times shown before an item is watched")
    arbiter_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="in HOLD, share of trusted users' slates that branch and anchor fill by turns",
    )
    arbiter_alpha: float = Field(
        1e-3, gt=0, lt=1, description="chance that a branch that is no better is adopted"
    )
    arbiter_margin: float = Field(
        0.10,
        ge=0,
        le=0.5,
        description="part of these clicks that a branch must be proven to get more than the anchor;"
        " one that learned a fault may get a little more, being newer",
    )
    arbiter_credits: Positive = Field(100, description="clicks on these that a verdict needs")
    trusted: Literal["history", "marked"] = Field(
        "history",
        description="whose clicks decide between versions: users with trusted_history, or those"
        " with the attribute trusted=true",
    )
    trusted_history: Positive = Field(
        10, description="items that a user has had, who was here before the anchor, to be trusted"
    )
    hold_events: Positive = Field(50_000, description="admitted events that HOLD lasts at most")
    hold_s: Positive = Field(21_600, description="or seconds of event time")
    hold_undecided: Literal["relearn", "set_aside"] = Field(
        "relearn",
        description="what becomes of the branch when HOLD ends without a proof: taken for drift and"
        " learned again, or set aside",
    )
    hold_quiet: Positive = Field(
        2_000, description="judged events without the alarm after which a fault counts as past"
    )
    probation_judged: Positive = Field(
        2_000, description="judged events before the first promotion after a rollback"
    )
    suspect_s: Positive = Field(
        86_400, description="seconds of event time that a suspect item is kept from teaching"
    )
    relearn_events: int = Field(
        100_000, ge=0, le=10**8, description="admitted events kept, to be learned again after HOLD"
    )

    challenger: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="the learner's settings that a challenger has otherwise; empty: none runs",
    )
    challenger_alpha: float = Field(
        1e-3, gt=0, lt=1, description="chance that a challenger that is no better is ever proven"
    )
    challenger_margin: float = Field(
        0.002, ge=0, le=0.5, description="difference of mean losses that proves no challenger"
    )
    challenger_adopt: Literal["auto", "approve"] = Field(
        "approve", description="auto: a proven challenger is adopted at once"
    )
    interleave_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of trusted users' slates that champion and challenger fill by turns",
    )

    explore_share: float = Field(
        0.05, ge=0, le=1, description="share of the slots below the third that show new items"
    )
    ignored_weight: float = Field(
        0.05, ge=0, le=10, description="what a score loses each time that its item was ignored"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.scored_history > self.history_length:
            raise ValueError("scored_history must not be over history_length")
        low, high = self.rating_scale
        if not low < self.rating_positive <= high:
            raise ValueError("rating_positive must lie within rating_scale")
        for name, reward in self.rewards.items():
            if not -1 <= reward <= 1:
                raise ValueError(f"rewards: {name}={reward} is outside -1..1")
        for name, days in self.had_return.items():
            if name not in self.rewards:
                raise ValueError(f"had_return: {name} is no event type of rewards")
            if not 0 <= days <= 36_500:
                raise ValueError(f"had_return: {name}={days} is outside 0..36500 days")
        self._check_freshness()
        check_inputs(self.features)
        if self.learner != "blend" and not self.learner.startswith(river_adapter.PREFIX):
            raise ValueError(f"learner must be blend, or begin with river:, not {self.learner!r}")
        try:
            self.river_model()
        except ValueError as error:
            raise ValueError(f"learner={self.learner!r}: {error}") from None
        if self.challenger:
            try:
                self.with_learner(self.challenger)
            except ValueError as error:
                raise ValueError(f"challenger: {error}") from None
            if self.gate == "off":
                raise ValueError("challenger: with the gate off nothing is ever proven")
        return self

    def logged(self, semantics: int) -> dict[str, Any]:
        """Return the settings as a log of a semantics version has them, for all that follow it."""
        values = self.model_dump()
        unknown = set(IF_SET)
        for since, names in ((8, SINCE_8), (10, SINCE_10), (11, SINCE_11)):
            unknown.update(names if semantics < since else ())
        return {
            name: value
            for name, value in values.items()
            if name not in unknown
            or value != type(self).model_fields[name].get_default(call_default_factory=True)
        }

    def _check_freshness(self) -> None:
        """Raise ValueError where a delay is set that the tier does not have."""
        for name in ("freshness_personal_s", "freshness_shared_s"):
            tiers = ("micro_batch", "two_tier") if name.endswith("shared_s") else ("micro_batch",)
            if getattr(self, name) is not None and self.freshness not in tiers:
                raise ValueError(
                    f"{name}: freshness={self.freshness} has its own delay; only"
                    f" {' and '.join(tiers)} can be given one"
                )

    def with_learner(self, changes: dict[str, Any]) -> EngineSettings:
        """Return these settings, with some of the learner's changed and no challenger.

        Raises ValueError that names the first that is not allowed.
        """
        for name in sorted(set(changes) - set(LEARNER_SETTINGS)):
            allowed = ", ".join(LEARNER_SETTINGS)
            raise ValueError(f"{name} is not what a challenger may change: {allowed}")
        own = {name: getattr(self, name) for name in EngineSettings.model_fields}
        try:
            return EngineSettings(**(own | {"challenger": {}} | changes))
        except ValidationError as error:
            raise ValueError(_explain_change(error.errors()[0])) from None

    def river_model(self) -> base.Estimator | None:
        """Return the untaught River model that `learner` describes, if it does."""
        if self.learner == "blend":
            return None
        features = feature_names(self.trending_half_lives_s) + inputs_of(self.features, "item")
        given = inputs_of(self.features, "context", "user")
        return river_adapter.make_model(self.learner, self.seed, features, given)


class Settings(EngineSettings, BaseSettings):
    """Everything one process is told. Environment beats file beats default."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="address to bind")
    port: int = Field(8000, ge=0, le=65_535, description="TCP port; 0 lets the system choose")
    data_dir: Path = Field(Path("data"), description="folder of the embedded store")
    redis_url: str = Field(
        "",
        description="redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// URL;"
        " empty = embedded",
    )
    namespace: str = Field(
        "default", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="prefix of every key"
    )
    fsync: Literal["everysec", "always"] = Field(
        "everysec", description="when an acknowledged event is on disk"
    )
    wait_replicas: int = Field(
        0,
        ge=0,
        le=5,
        description="replicas of the store that must have an event before it is acknowledged",
    )
    store_timeout_s: float = Field(
        2.0, gt=0, le=60, description="seconds to wait for the store before a 503"
    )

    api_key: SecretStr | None = Field(None, min_length=8, description="key to read and post")
    admin_key: SecretStr | None = Field(
        None, min_length=8, description="key to operate; empty = the api_key does"
    )
    insecure: bool = Field(False, description="yes: serve other machines without any key")
    token_keys: SecretStr | None = Field(
        None,
        description="keys of recommendation ids, comma separated: the first signs, both verify",
    )
    token_max_age_s: int = Field(
        86_400, ge=1, le=10**8, description="seconds for which a recommendation id is valid"
    )
    impression_wait_s: float = Field(
        30.0, ge=0, le=3_600, description="seconds that a slate waits for answers, then is logged"
    )
    impression_share: float = Field(1.0, ge=0, le=1, description="share of the slates logged so")

    feature_store_url: str = Field(
        "",
        description="where users' features are read: redis://, rediss://, unix://, or Feast's"
        " server as feast+http://HOST:PORT/FEATURE_SERVICE; empty = nowhere",
    )
    feature_key: str = Field(
        "features:{user_id}", max_length=256, description="key of a user's hash in that Redis"
    )
    feature_timeout_ms: float = Field(
        20.0, gt=0, le=60_000, description="milliseconds that a list waits for what is read there"
    )
    feature_cache_s: float = Field(
        10.0, ge=0, le=86_400, description="seconds for which that is used again"
    )

    max_events: int = Field(10_000, ge=1, le=100_000, description="events in one POST")
    max_body_bytes: int = Field(8 * 2**20, ge=1_024, le=2**28, description="bytes in one body")
    deadline_ms: int = Field(
        500, ge=1, le=60_000, description="within how long a list is answered, if it is not said"
    )
    max_waiting: Positive = Field(
        1_000, description="requests waiting for their turn; what is more is refused with 503"
    )
    feedback_timeout_s: float = Field(
        30.0, gt=0, le=600, description="seconds a POST waits to be applied here"
    )
    slice_ms: float = Field(
        1.0, gt=0, le=100, description="milliseconds of learning between two looks at requests"
    )
    ready_lag_s: float = Field(
        10.0, gt=0, le=3_600, description="seconds behind the log at which readyz says no"
    )

    budget_learning: float | None = Field(
        None, gt=0, le=1, description="share of one core that learning may use; none: all it needs"
    )
    budget_least_judged: float = Field(
        0.125, gt=0, le=1, description="least part of the events that is judged to keep to that"
    )
    core_hour_price: float = Field(
        0.05, ge=0, le=1e6, description="what an hour of a core costs you, in whatever money"
    )

    snapshot_events: Positive = Field(50_000, description="admitted events between snapshots")
    snapshot_s: Positive = Field(600, description="or seconds, if anything was admitted")
    snapshot_min_s: float = Field(60.0, ge=0, description="least seconds between two snapshots")
    snapshots_keep: Positive = Field(5, description="newest snapshots kept")
    archive_dir: str = Field(
        "", description="folder that gets the log's entries before they are trimmed; empty = none"
    )
    rebuild_timeout_s: float = Field(
        60.0, gt=0, le=3_600, description="seconds in which a GET with `at` must be answered"
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="of stderr")
    log_format: Literal["text", "json"] = Field("text", description="of stderr, a line at a time")
    traces: Literal["off", "otlp"] = Field(
        "off", description="otlp: spans go where the variables of OpenTelemetry say"
    )

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if not (is_loopback(self.host) or self.api_key or self.insecure):
            raise ValueError(
                f"host {self.host!r} is open to other machines: set SLUICE_API_KEY,"
                " or SLUICE_INSECURE=yes if something in front of it checks who calls"
            )
        return self

    @model_validator(mode="after")
    def _can_have_replicas(self) -> Self:
        if self.wait_replicas and not self.redis_url:
            raise ValueError(
                "wait_replicas: the embedded store has no replicas; set SLUICE_REDIS_URL"
            )
        return self

    @model_validator(mode="after")
    def _can_read_features(self) -> Self:
        url = self.feature_store_url
        if not url:
            return self
        check_feature_store_url(url)
        if "{user_id}" not in self.feature_key:
            raise ValueError(f"feature_key={self.feature_key!r} needs {{user_id}} in it")
        if not any(feature.of == "user" for feature in self.features.values()):
            raise ValueError(
                "SLUICE_FEATURE_STORE_URL is set, but SLUICE_FEATURES declares no feature of a user"
            )
        return self

    quarantine_keep: Positive = Field(
        100_000, description="events that were not learned, kept to be looked at; about"
    )
    quarantine_days: float = Field(
        30.0, gt=0, le=36_500, description="days after which these are forgotten, at a snapshot"
    )

    @field_validator("token_keys")
    @classmethod
    def _long_enough(cls, given: SecretStr | None) -> SecretStr | None:
        keys = [] if given is None else _split(given)
        if given is not None and not 1 <= len(keys) <= MAX_TOKEN_KEYS:
            raise ValueError(f"it must be one key or two, comma separated; these are {len(keys)}")
        if any(len(key) < MIN_TOKEN_KEY_BYTES for key in keys):
            raise ValueError(
                f"each key must have {MIN_TOKEN_KEY_BYTES} bytes or more;"
                " `openssl rand -hex 32` makes one"
            )
        return given

    @model_validator(mode="after")
    def _signed(self) -> Self:
        if self.tokens != "off" and self.token_keys is None:
            raise ValueError(
                f"SLUICE_TOKENS={self.tokens} needs SLUICE_TOKEN_KEYS:"
                " `openssl rand -hex 32` makes a key"
            )
        if self.tokens == "off" and self.token_keys is not None:
            raise ValueError(
                "SLUICE_TOKEN_KEYS is set, but nothing is signed with SLUICE_TOKENS=off:"
                " say check or require, or take the keys away"
            )
        return self

    def token_secrets(self) -> list[bytes]:
        """Return the keys of recommendation ids, the one that signs first."""
        return [] if self.token_keys is None else _split(self.token_keys)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments, environment, TOML file."""
        path = os.environ.get("SLUICE_CONFIG", "sluice.toml")
        toml = _TomlFile(settings_cls, Path(path))
        return (init_settings, env_settings, toml)

    def engine(self) -> EngineSettings:
        """Return the part that belongs into the log."""
        return EngineSettings(**{n: getattr(self, n) for n in EngineSettings.model_fields})


class _TomlFile(TomlConfigSettingsSource):
    """The settings of a file that nobody before it has: two objects of one name are not joined."""

    def __call__(self) -> dict[str, Any]:
        """Return what it says."""
        return {n: v for n, v in super().__call__().items() if n not in self.current_state}


def _split(keys: SecretStr) -> list[bytes]:
    return [key.strip().encode() for key in keys.get_secret_value().split(",")]


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; raise SettingsError that names each setting and value that is wrong."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | NOT_FIELDS
    unknown = sorted(n for n in os.environ if n.upper().startswith(PREFIX) and n not in known)
    if unknown:
        raise SettingsError(f"unknown setting in the environment: {', '.join(unknown)}")
    path = os.environ.get("SLUICE_CONFIG")
    if path and not Path(path).is_file():
        raise SettingsError(f"SLUICE_CONFIG: there is no file {path}")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
        raise SettingsError("; ".join(problems), details=problems) from None
    except ValueError as error:  # a TOML file that is no TOML, a value that is no JSON
        why = [str(error), *([str(error.__cause__)] if error.__cause__ else [])]
        raise SettingsError(": ".join(why)) from None


def _explain_change(problem: Any) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{problem['loc'][0]}={problem['input']!r}: {message}" if problem["loc"] else message


def _explain(problem: Any) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    first, *within = map(str, problem["loc"])
    name = ".".join([PREFIX + first.upper(), *within])
    # A misspelt name may hold a secret as well as a well-spelt one.
    is_secret = "KEY" in name or "URL" in name or problem["type"] == "extra_forbidden"
    shown = "" if is_secret else f"={problem['input']!r}"
    return f"{name}{shown}: {message}"
