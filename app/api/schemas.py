"""What goes over the wire, for checking bodies and for /openapi.json."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    RootModel,
    WithJsonSchema,
    create_model,
    model_validator,
)

from app.conditions import (
    CATEGORIES,
    MAX_LISTED,
    MAX_NAMES,
    TIMES,
    WHERE,
    Condition,
    checked,
    of_categories,
    parse,
    parse_where,
)
from app.events import MAX_EXACT_INT, check_id, parse_time
from app.features import MAX_FEATURES, NAME, NOTHING, Value
from app.recommend import Request
from app.rules import MAX_RULES, Rule
from app.settings import LEARNER_SETTINGS, SEMANTICS, EngineSettings
from app.tokens import MAX_TOKEN_BYTES

MAX_ATTRIBUTES = 64
MAX_TEXT_CHARS = 1_024

Id = Annotated[
    str,
    Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$"),
    AfterValidator(lambda value: check_id("id", value)),
]
CONTEXT = "context."
"""What the names of features begin with in a query."""
CURSOR = "^[0-9]{1,19}-[0-9]{1,19}$"
"""A log position, as /openapi.json says it."""
Number = Annotated[float, Field(allow_inf_nan=False)]
# JSON knows one kind of number: 10.0 is as whole as 10.
_whole = BeforeValidator(lambda value: int(value) if _is_whole(value) else value)
K = Annotated[int, Field(ge=1, le=200), _whole]
DeadlineMs = Annotated[int, Field(ge=1, le=60_000), _whole]
Whole = Annotated[int, Field(ge=-MAX_EXACT_INT, le=MAX_EXACT_INT)]
# Beyond these bounds a whole number could not be kept as it is.
Exact = Annotated[Number, Field(gt=-MAX_EXACT_INT, lt=MAX_EXACT_INT)]
Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
Attributes = Annotated[
    dict[Id, bool | Whole | Exact | Text | None],
    Field(max_length=MAX_ATTRIBUTES, json_schema_extra={"additionalProperties": False}),
]


def _is_whole(value: object) -> bool:
    return isinstance(value, float) and value.is_integer()


def _is_time(value: str | float) -> str | float:
    parse_time(value)
    return value


Timestamp = Annotated[
    Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    | Annotated[Number, Field(ge=0, le=253_402_300_799)],
    AfterValidator(_is_time),
]


class Body(BaseModel):
    """A request body: unknown fields are refused, as a misspelt one would be lost silently.

    Values are taken as they are: no "no" for false, no "10" for 10.
    """

    model_config = ConfigDict(extra="forbid", strict=True)


# -- errors -----------------------------------------------------------------------------------


class ErrorContent(BaseModel):
    """What went wrong."""

    code: str = Field(examples=["invalid_request"])
    message: str
    details: list[Any]


class Error(BaseModel):
    """The form of every error."""

    error: ErrorContent


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the responses that a route declares, besides its own."""
    texts = {
        401: "No key, or an unknown one",
        403: "A key that may not do this",
        404: "There is no such thing",
        409: "The state of the service forbids it",
        413: "The body is too large",
        422: "The shape of the request is wrong",
        429: "Too much at once; see Retry-After",
        503: "Too many requests wait, the log cannot be written, or this process stopped; see"
        " Retry-After",
    }
    return {s: {"model": Error, "description": texts[s]} for s in (401, 422, *statuses)}


WRITES = (413, 429, 503)
"""The errors of everything that goes through the log."""


# -- recommendations --------------------------------------------------------------------------


def _listed(values: Any) -> Any:
    return {"type": "array", "items": values, "minItems": 1, "maxItems": MAX_LISTED}


def _wanted(value: Any, bound: Any) -> Any:
    """Return the schema of what may be asked of an attribute."""
    some = {"anyOf": [value, _listed(value)]}
    ends = {"min": bound, "max": bound, "not": some}
    return {"anyOf": [value, _listed(value), _object(ends)]}


def _object(properties: Any) -> Any:
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "minProperties": 1,
    }


_NAME = {"type": "string"}
_TIME = {
    "anyOf": [
        {"type": "string", "format": "date-time"},
        {"type": "number", "minimum": 0, "maximum": 253_402_300_799},
    ]
}
_FILTER = {
    "type": "object",
    "description": "what must hold of an item: any attribute with a value, a list, `min` and `max`,"
    " or `not` with a list; `categories` with `any`, `all`, `none`",
    "examples": [{"price": {"max": 20}, "brand": ["acme", "zeta"]}],
    "properties": {
        CATEGORIES: {
            "anyOf": [
                _NAME,
                _listed(_NAME),
                _object(dict.fromkeys(("any", "all", "none"), _listed(_NAME))),
            ]
        },
        **dict.fromkeys(TIMES, _wanted(_TIME, _TIME)),
    },
    "additionalProperties": _wanted({"type": ["string", "number", "boolean"]}, {"type": "number"}),
    "propertyNames": {"minLength": 1, "maxLength": 256, "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f]+$"},
    "maxProperties": MAX_NAMES,
}
Filter = Annotated[dict[str, JsonValue], WithJsonSchema(_FILTER)]
"""See `app.conditions`, which reads it and says what is wrong."""


FeatureName = Annotated[str, Field(pattern=NAME)]
Context = Annotated[
    dict[FeatureName, bool | Number | Text | None],
    Field(
        max_length=MAX_FEATURES,
        description="features by name, as declared in SLUICE_FEATURES",
        json_schema_extra={"additionalProperties": False},
    ),
]


class HistoryItem(Body):
    """An item of an anonymous session."""

    item_id: Id
    timestamp: Timestamp | None = Field(None, description="when it was had; none: just now")


Names = Annotated[list[str], Field(max_length=100)]


ImpressionMode = Annotated[
    Literal["auto", "explicit"],
    Field(
        description="explicit: what of this is shown will be declared by POST /v1/impressions;"
        " auto: with SLUICE_TOKENS on, all of it is taken for shown"
    ),
]


class ListQuery(BaseModel):
    """How long a list may be, and what may be in it: query parameters of every GET of one."""

    k: Annotated[int, Field(ge=1, le=200, description="length of the list")] = 10
    exclude: list[str] = Field([], max_length=100, description="item ids left out; repeats")
    category: Names = Field([], description="any of these; repeats")
    category_all: Names = Field([], description="all of these; repeats")
    category_none: Names = Field([], description="none of these; repeats")
    where: list[Annotated[str, Field(json_schema_extra={"pattern": WHERE})]] = Field(
        [],
        max_length=32,
        description="what must hold of an item, like `price<=20`, `brand=acme,zeta`, `colour!=red`;"
        " repeats, and all must hold",
        examples=[["price<=20"]],
    )

    def condition(self) -> Condition:
        """Return what must hold of every item, besides its having any of `category`."""
        if not (self.where or self.category_all or self.category_none):
            return ()
        condition = of_categories("all", self.category_all)
        condition += of_categories("none", self.category_none)
        return checked(sum(map(parse_where, self.where), condition))


class ExplanationQuery(ListQuery):
    """The query parameters of a GET of an explanation: those of the list that it is about.

    And `context.NAME` for the features that are declared.
    """

    model_config = ConfigDict(extra="allow")

    deadline_ms: Annotated[int, Field(ge=1, le=60_000)] | None = Field(
        None, description="from arrival; what is not ready by then is left out (`degraded`)"
    )
    min_cursor: Annotated[str, Field(pattern=CURSOR)] | None = Field(
        None, description="wait until this log position is applied here"
    )

    def context(self) -> dict[str, Value]:
        """Return the features that are given, by name."""
        extra = self.model_extra or {}
        return {
            name.removeprefix(CONTEXT): value[-1] if isinstance(value, list) else value
            for name, value in extra.items()
            if name.startswith(CONTEXT)
        }

    @cached_property
    def request(self) -> Request:
        """What the engine is asked for, for nobody yet."""
        return Request(
            k=self.k,
            exclude=self.exclude,
            categories=self.category,
            filter=self.condition(),
            features=self.context() if self.model_extra else NOTHING,
        )

    def request_for(self, user_id: str) -> Request:
        """Return what the engine is asked for."""
        return self.request.by(user_id)


class RecommendationsQuery(ExplanationQuery):
    """The query parameters of a GET of recommendations."""

    exclude: list[str] = Field([], max_length=1_000, description="item ids left out; repeats")
    explain: bool = False
    impression: ImpressionMode = "auto"
    at: Annotated[str, Field(pattern=CURSOR)] | None = Field(
        None,
        description="as of this log position: rebuilt from snapshots and the log, which takes"
        " seconds; `min_cursor` and `deadline_ms` play no part. For operators",
    )

    @cached_property
    def request(self) -> Request:
        """What the engine is asked for, for nobody yet."""
        is_declared = self.impression == "explicit"
        return super().request._replace(explain=self.explain, is_declared=is_declared)


class RecommendationsBody(Body):
    """The same as the query parameters of GET, with `history` and `candidates`."""

    user_id: Id | None = Field(None, examples=["u1"])
    k: K = 10
    exclude: list[Id] = Field([], max_length=1_000)
    category: list[Id] = Field([], max_length=100)
    category_all: list[Id] = Field([], max_length=100)
    category_none: list[Id] = Field([], max_length=100)
    filter: Filter = {}
    explain: bool = False
    deadline_ms: DeadlineMs | None = None
    min_cursor: str | None = Field(None, pattern=CURSOR)
    impression: ImpressionMode = "auto"
    history: list[Id | HistoryItem] | None = Field(
        None, max_length=1_000, description="oldest first; nothing of it is stored"
    )
    candidates: list[Id] | None = Field(None, max_length=1_000, description="rank just these")
    context: Context = Field({}, examples=[{"device": "mobile"}])

    def request(self) -> Request:
        """Return what the engine is asked for."""
        history, times = None, []
        if self.history is not None:
            given = [HistoryItem(item_id=h) if isinstance(h, str) else h for h in self.history]
            history = [item.item_id for item in given]
            times = [None if h.timestamp is None else parse_time(h.timestamp) for h in given]
        condition = of_categories("all", self.category_all)
        condition += of_categories("none", self.category_none) + parse(self.filter)
        return Request(
            self.user_id,
            self.k,
            self.exclude,
            self.category,
            history,
            self.candidates,
            self.explain,
            checked(condition),
            times,
            is_declared=self.impression == "explicit",
            features=self.context,
        )


class Why(BaseModel):
    """A part of a score."""

    because: str = Field(
        description="an item of the history; or `trending`, `factors`, `item` (how often it was"
        " had, how new it is), `categories` (those it shares with the history), `model`;"
        " `ignored`: it was shown, and not taken; `context:`, `user:` or `item:` and the name (and"
        " value) of a declared feature"
    )
    weight: float


class SlateItem(BaseModel):
    """One place of a slate."""

    item_id: str
    position: int
    score: float
    propensity: float = Field(
        description="how likely it was that this item stood here: below 1 where a slot explores, or"
        " two versions filled the list"
    )
    sources: list[str]
    why: list[Why] | None = None


class ModelInfo(BaseModel):
    """Which model answered."""

    version: int
    cursor: str
    gate: Literal["open", "ask", "hold"]
    mode: Literal["normal", "frozen", "shadow_only"]


class Recommendations(BaseModel):
    """A slate."""

    recommendation_id: str | None = Field(
        description="send it back with feedback on these items; signed, with SLUICE_TOKENS on;"
        " null with `at`, as nobody was shown these"
    )
    user_id: str | None
    items: list[SlateItem]
    model: ModelInfo
    degraded: Literal["deadline", "store_unavailable", "replica_behind"] | None
    at: str | None = Field(
        None, description="with `at`: the log position of the last entry that this knows of"
    )


class Exclusion(BaseModel):
    """What keeps an item out of a list, whoever would name it."""

    by: Literal[
        "hidden", "not_available", "exclude", "category", "filter", "had", "refused", "rule"
    ]
    type: str | None = Field(None, description="had: the type of the last event on it")
    timestamp: str | None = Field(None, description="had, refused: when")
    available_from: str | None = None
    available_until: str | None = None
    categories: list[str] | None = Field(None, description="category: those that it has")
    condition: dict[str, Any] | None = Field(None, description="filter: what it does not meet")
    rule: str | None = None


class RuleAct(BaseModel):
    """What a rule did to an item: moved its score, put it in its place, or kept it out."""

    rule: str
    did: Literal["boosted", "buried", "placed", "capped", "displaced"]


class Explanation(BaseModel):
    """Why an item is in a list, or why it is not."""

    user_id: str
    item_id: str
    because: str = Field(description="all of it, in a sentence")
    shown: bool
    position: int | None
    k: int
    eligible: bool
    excluded: list[Exclusion] = Field(description="all that keeps it out; empty: it is eligible")
    named: bool = Field(description="whether a source named it")
    sources: list[str]
    ratings: dict[str, float] | None = Field(
        description="where no source named it: what each gives it"
    )
    score: float | None = Field(description="what it has, or would have if it was named")
    why: list[Why] | None = Field(description="what the score is made of: adds up to it")
    rank: int | None = Field(description="among all that were rated")
    n_ranked: int
    last_shown: float | None = Field(description="score of the last item of the list")
    rules: list[RuleAct]
    model: ModelInfo
    degraded: Literal["store_unavailable", "replica_behind"] | None


class ItemList(BaseModel):
    """A list that is about no user."""

    items: list[SlateItem]
    model: ModelInfo
    degraded: Literal["store_unavailable", "replica_behind"] | None


# -- feedback ---------------------------------------------------------------------------------


class FeedbackEvent(BaseModel):
    """One event. Fields that are not listed are ignored."""

    user_id: str = Field(examples=["u1"])
    item_id: str = Field(examples=["i9"])
    type: str = Field(examples=["click"])
    event_id: str | None = Field(None, examples=["e-1"])
    value: float | None = None
    timestamp: str | float | None = Field(None, examples=["2026-11-23T18:00:00.123Z"])
    source: str | None = None
    recommendation_id: str | None = Field(
        None, description="of the slate that this answers; verified, with SLUICE_TOKENS on"
    )
    context: dict[str, Any] | None = Field(
        None,
        description="features that the request had; what is not declared is ignored",
        examples=[{"device": "mobile"}],
    )


class FeedbackResult(BaseModel):
    """What became of one event."""

    event_id: str | None
    status: Literal["learned", "duplicate", "late", "quarantined", "accepted"]
    reason: str | None


class Versions(BaseModel):
    """The version that served before and after."""

    version_before: int
    version_after: int


class FeedbackAnswer(BaseModel):
    """What became of the events of a POST, in their order."""

    results: list[FeedbackResult]
    counts: dict[str, int]
    cursor: str
    model: Versions | None


class ShownItem(Body):
    """An item that was shown, as it was answered; `position` and `why` play no part."""

    item_id: Id
    position: Annotated[int, _whole] | None = None
    score: Exact = 0.0
    propensity: Annotated[Number, Field(gt=0, le=1)] = 1.0
    sources: list[Id] = Field([], max_length=64)
    why: list[Any] | None = Field(None, max_length=2_000)


class ImpressionBody(Body):
    """What of a slate was really shown, in its order, each item once.

    Of more than 20 items the first 20 count.
    """

    recommendation_id: str = Field(min_length=1, max_length=MAX_TOKEN_BYTES)
    user_id: Id = Field(examples=["u1"])
    items: list[ShownItem] = Field(min_length=1, max_length=200)

    @model_validator(mode="after")
    def _printable(self) -> Self:
        self.recommendation_id.encode()
        return self


class Accepted(BaseModel):
    """It will be logged."""

    status: Literal["accepted"]


# -- catalogue --------------------------------------------------------------------------------


class ItemBody(Body):
    """What PUT sets (whole) and PATCH changes (the fields given)."""

    categories: list[Id] | None = Field(None, max_length=16, examples=[["shoes"]])
    attributes: Attributes | None = Field(None, examples=[{"price": 49.9}])
    hidden: bool | None = None
    available_from: Timestamp | None = Field(
        None, description="not recommended before; null: no limit"
    )
    available_until: Timestamp | None = Field(None, description="nor from then on; null: no limit")
    timestamp: Timestamp | None = None


class ItemInList(ItemBody):
    """An item of a bulk upsert."""

    item_id: Id


ItemsInList = Annotated[list[ItemInList], Field(min_length=1, max_length=10_000)]


class ItemsBody(Body):
    """A bulk upsert: fields that are not given stay as they are."""

    items: ItemsInList


class ItemView(BaseModel):
    """An item as it is."""

    item_id: str
    categories: list[str]
    attributes: dict[str, str | int | float | bool | None]
    hidden: bool
    available_from: str | None
    available_until: str | None
    updated_at: str | None


class ItemPage(BaseModel):
    """A page of items; `next` is the cursor of the next one."""

    items: list[ItemView]
    next: str | None


class UserBody(Body):
    """What PUT sets."""

    attributes: Attributes = Field({}, examples=[{"country": "at"}])


class UserView(BaseModel):
    """A user as they are."""

    user_id: str
    attributes: dict[str, str | int | float | bool | None]
    n_events: int
    n_had: int


class FeaturesBody(RootModel[Context]):
    """A user's features by name, as declared in SLUICE_FEATURES."""

    model_config = ConfigDict(strict=True)


class UserFeaturesInList(Body):
    """A user in a list of many: what is not given stays as it is, what is null goes."""

    user_id: Id = Field(examples=["u1"])
    features: Context = Field(examples=[{"age": 31}])


UsersInList = Annotated[list[UserFeaturesInList], Field(min_length=1, max_length=10_000)]


class FeatureView(BaseModel):
    """A feature that is kept: a number past a bound is the bound."""

    value: str | float
    updated_at: str


class FeaturesView(BaseModel):
    """What is kept of a user's features, by name."""

    user_id: str
    features: dict[str, FeatureView]


class MergeBody(Body):
    """Which id becomes part of a user."""

    from_: Id = Field(alias="from", examples=["anonymous-7f3a"])


class MergeAnswer(BaseModel):
    """What a merge did; `merged` is false where nothing was known of the id."""

    user_id: str
    from_: str = Field(alias="from")
    merged: bool
    cursor: str


class HistoryEvent(BaseModel):
    """One event of a user's recent history."""

    item_id: str
    timestamp: str
    reward: float


class HistoryView(BaseModel):
    """A user's recent events, newest first."""

    user_id: str
    events: list[HistoryEvent]


class UserPage(BaseModel):
    """A page of user ids; `next` is the cursor of the next one."""

    users: list[str]
    next: str | None


class Written(BaseModel):
    """A change that is in the log and applied here."""

    cursor: str


class GivenFeatures(Written):
    """Features of many users that are in the log and applied here."""

    updated: int


class RefusedItem(BaseModel):
    """An item of a bulk upsert that stays as it was, and why."""

    item_id: str
    reason: str


class BulkWritten(Written):
    """A bulk upsert that is in the log and applied here, but for the items refused."""

    upserted: int
    refused: list[RefusedItem]


# -- model and operations ---------------------------------------------------------------------


Reason = Annotated[str, Field(min_length=1, max_length=1_000, examples=["bad import this morning"])]


class Reasoned(Body):
    """Why an operator acts."""

    reason: Reason

    @model_validator(mode="after")
    def _printable(self) -> Self:
        self.reason.encode()
        return self


class CommandBody(Reasoned):
    """Why an operator acts on the gate, and whether against its advice."""

    force: bool = Field(
        False,
        description="promote: even in ASK or HOLD, frozen, or at low overlap; adopt: without proof",
    )
    without: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(
        [], max_length=1_000, description="requeue: items whose events are left out"
    )

    @model_validator(mode="after")
    def _named(self) -> Self:
        for item_id in self.without:
            item_id.encode()
        return self


def _whole_items(value: object) -> object:
    """Return a list as the tuple that a setting is, its numbers as whole as they are."""
    if not isinstance(value, list):
        return value
    return tuple(int(item) if _is_whole(item) else item for item in value)


def _given(name: str) -> Any:
    """Return the type of a setting, with its bounds, as a field that need not be given."""
    field = EngineSettings.model_fields[name]
    before = _whole if field.annotation is int else BeforeValidator(_whole_items)
    shown = Field(description=field.description, json_schema_extra=lambda s: s.pop("default"))
    return Annotated[(field.annotation, *field.metadata, before, shown)]


_fields: dict[str, Any] = {name: (_given(name), None) for name in LEARNER_SETTINGS}
Changes: Any = create_model("Changes", __base__=Body, **_fields)
Changes.__doc__ = "Settings of the learner that are to be tried; at least one."


class ChallengerBody(Reasoned):
    """What a challenger has otherwise, and why it is tried."""

    changes: Changes = Field(
        examples=[{"covisit_shrink": 5.0}], json_schema_extra={"minProperties": 1}
    )

    def named(self) -> dict[str, Any]:
        """Return the changes that were given."""
        given: dict[str, Any] = self.changes.model_dump(mode="json", exclude_unset=True)
        return given


# -- rules ------------------------------------------------------------------------------------


RULE_SET = "RuleSet"
"""What a set of rules is called in /openapi.json; its body is read by hand."""


def rule_schemas() -> dict[str, Any]:
    """Return the schema of a set of rules, and of what is in it, by name."""
    (rule,), found = msgspec.json.schema_components(
        [Rule], ref_template="#/components/schemas/{name}"
    )
    rules = {"type": "array", "items": rule, "maxItems": MAX_RULES}
    return found | {
        RULE_SET: {
            "title": RULE_SET,
            "type": "object",
            "properties": {"rules": rules},
            "required": ["rules"],
            "additionalProperties": False,
        }
    }


class RuleView(BaseModel):
    """A rule as it is declared, how many items it is about, and the slates in which it acted."""

    rule: dict[str, Any]
    items: int
    slates: int = Field(description="since this process read the rules")


class RuleWarning(BaseModel):
    """Rules that match nothing, or fight: their names, and what is the matter."""

    rules: list[str]
    message: str


class RulesView(BaseModel):
    """The rules in force."""

    rules: list[RuleView]
    warnings: list[RuleWarning]
    cursor: str


class RuledItem(BaseModel):
    """One place of a slate under rules; `was` is its place without these."""

    item_id: str
    position: int
    was: int | None
    score: float
    sources: list[str]


class RuledSlate(BaseModel):
    """A slate as it is and as it would be; `did` counts what each rule moved, placed, kept out."""

    user_id: str
    before: list[str]
    after: list[RuledItem]
    gone: list[str]
    did: dict[str, int]


class DryRun(BaseModel):
    """What rules would do."""

    rules: list[RuleView]
    slates: list[RuledSlate]
    warnings: list[RuleWarning]


# -- decisions and what else operators see ----------------------------------------------------


class DecisionView(BaseModel):
    """One act of the gate, or of an operator."""

    number: int
    kind: str
    event: int
    time: str
    asked_by: str
    reason: str
    evidence: dict[str, Any]
    cursor: str


class DecisionPage(BaseModel):
    """Decisions, newest first."""

    decisions: list[DecisionView]
    next: str | None


class UpgradeBody(Reasoned):
    """Which semantics version the log goes on with, and why."""

    semantics: Annotated[int, Field(ge=1, le=1_000), _whole] = Field(
        SEMANTICS, description="none given: the newest one here"
    )
    force: bool = Field(False, description="even if a replica does not know it, and will stop")


class Replica(BaseModel):
    """A process that follows the log, as it describes itself."""

    name: str
    age_s: float
    host: str
    pid: int
    semantics: list[int]
    cursor: str
    lag_s: float
    stopped: str | None


class ReplicaPage(BaseModel):
    """The processes that follow this log."""

    replicas: list[Replica]


class SnapshotPage(BaseModel):
    """The snapshots there are, newest first."""

    snapshots: list[dict[str, Any]]
    refused: list[str]


class QuarantineRecord(BaseModel):
    """An event that was not learned, and why."""

    id: str
    reason: str
    message: str | None
    event: dict[str, Any]


class QuarantinePage(BaseModel):
    """Quarantined and late events, newest first."""

    records: list[QuarantineRecord]
    next: str | None


# -- the dashboard ----------------------------------------------------------------------------


class Session(BaseModel):
    """Whether the dashboard wants a key here, and whether this browser has shown it."""

    needs_key: bool
    is_open: bool
