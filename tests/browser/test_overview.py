"""The page at a glance, and what an operator does from there."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import ADMIN, OpenPage
from tests.factories import sessions
from tests.integration.service import Service, batches, small, wire


def act(page: Page, label: str, reason: str, *, tick: bool = False) -> None:
    """Click a control, give a reason, confirm, and wait until it is done."""
    page.get_by_role("group", name="Act on").get_by_role("button", name=label, exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill(reason)
    if tick:
        dialog.get_by_role("checkbox").check()
    dialog.locator("#dialog-go").click()
    expect(dialog).to_be_hidden()


def newest(service: Service) -> tuple[str, str, str]:
    """Return what was decided last, by whom and why, but for the routine of the gate."""
    for decision in service.get("/v1/decisions", n=20)["decisions"]:
        if decision["asked_by"] == "operator":
            return decision["kind"], decision["asked_by"], decision["reason"]
    raise AssertionError("no operator has done anything")


def test_all_is_seen_at_a_glance(shop: Service, open_page: OpenPage) -> None:
    """Gate, events, versions, detectors, speed and cost are there, as the API has them."""
    page = open_page(shop)
    model = shop.get("/v1/model")
    expect(page.locator("#connection")).to_have_text("Live")
    expect(page.locator("#gate-state")).to_have_text("Open")
    expect(page.locator("#events-facts")).to_contain_text("of 600")
    for version in ("shadow", "champion", "anchor"):
        row = page.locator("#versions tbody tr", has_text=version)
        recent = model["versions"][version]["prequential"]["recent"]
        expect(row).to_contain_text(f"{recent['hr_20']:.4f}")
    n_gauges = sum(d["threshold"] is not None for d in model["detectors"])
    expect(page.get_by_role("meter")).to_have_count(n_gauges)
    expect(page.locator("#speed")).to_contain_text("Until it is felt")
    expect(page.locator("#service-facts")).to_contain_text("of a core")
    expect(page.locator("#replicas li")).to_have_count(1)
    expect(page.locator("#cost-per-day")).not_to_have_text("–")
    stages = page.locator("#cost-stages tbody tr")
    expect(stages).to_have_count(len(model["cost"]["stages"]))
    expect(stages.filter(has_text="Learning")).to_contain_text("events")
    expect(page.locator("#cost-memory tbody tr", has_text="Co-visitation")).to_contain_text("iB")
    expect(page.locator("#recent li", has_text="First anchor")).to_be_visible()
    expect(page.locator("#quality-chart path.mark-blessing").first).to_be_attached()


def test_a_budget_that_delays_learning_is_said(
    tmp_path_factory: pytest.TempPathFactory, open_page: OpenPage
) -> None:
    """How far behind lists are, and why, is at the top; what learning may use is with the cost."""
    folder = tmp_path_factory.mktemp("budget")
    service = small(folder, budget_learning=0.01, id_share=1.0).start()
    try:
        for batch in batches(sessions(4_000, n_users=40), 500):  # more than ten seconds' work
            service.post("/v1/feedback", wire(batch), ack="log")
        page = open_page(service)
        expect(page.locator("#trouble")).to_contain_text("Learning is delayed by its budget")
        expect(page.locator("#cost-facts")).to_contain_text("It may use1.0 % of a core")
    finally:
        service.close()


def test_what_is_posted_is_seen(shop: Service, open_page: OpenPage) -> None:
    """A click that is learned is on the page within the second, without a reload."""
    page = open_page(shop)
    learned = page.locator("#events-facts div", has_text="Learned").locator("dd")
    expect(learned).to_contain_text("of")
    before = learned.inner_text()
    shop.post("/v1/feedback", {"user_id": "seen", "item_id": "i1", "type": "click"})
    expect(learned).not_to_have_text(before)


def test_the_picture_can_be_chosen_and_read(shop: Service, open_page: OpenPage) -> None:
    """Metric and time are chosen; the picture has a name, and a readout at the pointer."""
    page = open_page(shop)
    picture = page.get_by_role("img", name="HR@20 of shadow")
    expect(picture).to_be_visible()
    picture.hover()
    expect(page.locator("#quality-chart .readout:visible")).to_contain_text("champion")
    page.get_by_label("Metric").select_option("DCG@20")
    expect(page.get_by_role("img", name="DCG@20 of shadow")).to_be_visible()
    expect(picture).to_be_hidden()
    page.get_by_label("Time", exact=True).select_option("last 5 minutes")
    expect(page.get_by_role("img", name="last 5 minutes")).to_be_visible()


@pytest.mark.parametrize(
    ("label", "kind", "mode"),
    [("Freeze", "freeze", "frozen"), ("Shadow only", "shadow_only", "shadow only")],
)
def test_promotions_are_stopped_and_resumed(
    shop: Service, open_page: OpenPage, label: str, kind: str, mode: str
) -> None:
    """Freeze and shadow only stop promotions, resume lets them go on: each with its reason."""
    page = open_page(shop)
    act(page, label, f"to {kind}")
    assert newest(shop) == (kind, "operator", f"to {kind}")
    expect(page.locator("#gate-facts")).to_contain_text(mode)
    expect(page.locator("#gate-news")).to_contain_text(f"the mode {mode}")
    expect(page.get_by_role("button", name=label, exact=True)).to_be_disabled()
    act(page, "Resume", "all is well")
    assert newest(shop) == ("resume", "operator", "all is well")
    expect(page.get_by_role("button", name="Resume")).to_be_disabled()


def test_a_rollback_has_to_be_confirmed(shop: Service, open_page: OpenPage) -> None:
    """Nothing is rolled back without a reason and the tick; Cancel does nothing."""
    page = open_page(shop)
    before = newest(shop) if shop.get("/v1/model")["gate"]["decisions"] > 50 else None
    page.get_by_role("button", name="Roll back").click()
    dialog = page.get_by_role("dialog", name="Roll back?")
    dialog.get_by_role("button", name="Roll back").click()
    expect(dialog).to_be_visible()
    dialog.get_by_label("Reason").fill("a test asks")
    dialog.get_by_role("button", name="Roll back").click()
    expect(dialog).to_be_visible()
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    assert before is None or newest(shop) == before
    act(page, "Roll back", "a test asks", tick=True)
    assert newest(shop) == ("rollback", "operator", "a test asks")
    expect(page.locator("#recent li").first).to_contain_text("Rollback")
    expect(page.locator("#quality-chart path.mark-rollback").first).to_be_attached()


def test_a_refusal_is_said_where_it_happens(shop: Service, open_page: OpenPage) -> None:
    """A promotion that the gate refuses says why in its dialog; forced, it is done."""
    page = open_page(shop)
    act(page, "Freeze", "before the promotion")
    page.get_by_role("button", name="Promote").click()
    dialog = page.get_by_role("dialog", name="Promote?")
    dialog.get_by_label("Reason").fill("I know better")
    dialog.get_by_role("button", name="Promote").click()
    expect(dialog.get_by_role("alert")).to_contain_text("the mode frozen")
    dialog.get_by_role("checkbox").check()
    dialog.get_by_role("button", name="Promote").click()
    expect(dialog).to_be_hidden()
    assert newest(shop) == ("promote", "operator", "I know better")
    act(page, "Resume", "after it")


def test_a_challenger_is_seen_and_acted_on(shop: Service, open_page: OpenPage) -> None:
    """A challenger that runs has a panel: it is stopped there, or adopted against the advice."""
    page = open_page(shop)
    panel = page.get_by_role("region", name="Challenger")
    for label, kind in (("Stop it", "challenger_stopped"), ("Adopt", "adopt")):
        shop.post(
            "/v1/model/challenger", {"reason": "more shrink", "changes": {"covisit_shrink": 6.0}}
        )
        expect(panel).to_contain_text("covisit_shrink: 6")
        act(page, label, "a test asks", tick=label == "Adopt")
        assert newest(shop) == (kind, "operator", "a test asks")
        expect(panel).to_be_hidden()


def test_it_can_be_done_by_keyboard_alone(shop: Service, open_page: OpenPage) -> None:
    """From the top of the page to a frozen gate and back by Tab, Enter and typing."""
    page = open_page(shop, "")
    expect(page.locator("#gate-state")).to_have_text("Open")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    for label in ("Freeze", "Resume"):
        button = page.get_by_role("button", name=label, exact=True)
        for _ in range(12):
            page.keyboard.press("Tab")
            if button.evaluate("node => node === document.activeElement"):
                break
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog").get_by_label("Reason")).to_be_focused()
        page.keyboard.type(f"{label} by keyboard")
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_be_hidden()
        assert newest(shop)[2] == f"{label} by keyboard"
        expect(button).to_be_disabled()
        page.locator("#main").focus()
    page.get_by_role("button", name="Freeze").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("button", name="Freeze")).to_be_focused()


def test_the_theme_is_chosen_and_kept(shop: Service, open_page: OpenPage) -> None:
    """System, light and dark follow each other, and a reload keeps what was chosen."""
    page = open_page(shop, color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    for theme in ("light", "dark"):
        page.get_by_role("button", name="Theme").click()
        expect(page.get_by_role("button", name="Theme")).to_have_text(f"Theme: {theme}")
        assert (page.evaluate(background) == light) == (theme == "light")
    page.reload()
    expect(page.get_by_role("button", name="Theme")).to_have_text("Theme: dark")
    assert page.evaluate(background) != light


def test_login_opens_the_page_and_logout_closes_it(guarded: Service, open_page: OpenPage) -> None:
    """Where a key is needed nothing is shown without; a wrong one is said to be wrong."""
    page = open_page(guarded)
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    expect(page.get_by_role("navigation")).to_be_hidden()
    page.get_by_label("Key").fill("the-api-key")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("not the key that operators have")
    page.get_by_label("Key").fill(ADMIN)
    page.keyboard.press("Enter")
    expect(page.locator("#connection")).to_have_text("Live")
    expect(page.locator("#gate-why")).to_contain_text("Warming up")
    act(page, "Freeze", "logged in")
    assert ADMIN not in page.evaluate("JSON.stringify([document.cookie, localStorage])")
    page.reload()
    expect(page.locator("#connection")).to_have_text("Live")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    expect(page.locator("#overview")).to_be_hidden()
    page.reload()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def test_a_session_that_has_ended_asks_for_the_key(guarded: Service, open_page: OpenPage) -> None:
    """Where the cookie is gone, the next thing done leads to the login, not to silence."""
    page = open_page(guarded)
    page.get_by_label("Key").fill(ADMIN)
    page.keyboard.press("Enter")
    expect(page.locator("#connection")).to_have_text("Live")
    page.context.clear_cookies()
    page.get_by_role("link", name="Snapshots").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def test_a_lost_connection_is_said_and_found_again(
    tmp_path_factory: pytest.TempPathFactory, open_page: OpenPage, free_port: int
) -> None:
    """When the service dies the page says so; when it is back, so is the page, by itself."""
    service = small(tmp_path_factory.mktemp("lost"), port=free_port).start()
    try:
        page = open_page(service)
        expect(page.locator("#connection")).to_have_text("Live")
        service.kill()
        expect(page.locator("#connection")).to_contain_text("trying again")
        page.get_by_role("button", name="Freeze").click()
        page.get_by_role("dialog").get_by_label("Reason").fill("nobody there")
        page.locator("#dialog-go").click()
        expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("does not answer")
        page.get_by_role("button", name="Cancel").click()
        service.start()
        expect(page.locator("#connection")).to_have_text("Live", timeout=30_000)
    finally:
        service.close()
