"""Decisions, quarantine, snapshots: looked at and acted on."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.browser.conftest import OpenPage
from tests.integration.service import Service, until


def test_every_view_has_an_address(shop: Service, open_page: OpenPage) -> None:
    """Each link of the navigation shows its view, marks itself, and moves focus to its heading."""
    page = open_page(shop)
    for name in ("Decisions", "Quarantine", "Snapshots", "Playground", "Overview"):
        link = page.get_by_role("navigation").get_by_role("link", name=name)
        link.click()
        expect(page.get_by_role("heading", name=name, exact=True, level=2)).to_be_focused()
        expect(link).to_have_attribute("aria-current", "page")
        expect(page.locator(".view:visible")).to_have_count(1)
        expect(page).to_have_title(f"{name} – Sluice")
    page.get_by_role("link", name="All decisions").click()
    expect(page.get_by_role("heading", name="Decisions", exact=True)).to_be_focused()
    page.go_back()
    expect(page.locator("#overview")).to_be_visible()


def test_decisions_show_their_evidence(shop: Service, open_page: OpenPage) -> None:
    """The list leaves routine out until asked; each decision has the numbers it was made by."""
    page = open_page(shop, "decisions")
    rows = page.locator("#decisions-list > li")
    expect(rows.filter(has_text="First anchor")).to_be_visible()
    promotions = rows.filter(has=page.get_by_text("Promotion", exact=True))
    expect(promotions).to_have_count(0)
    anchor = rows.filter(has_text="First anchor")
    anchor.get_by_text("Evidence").click()
    expect(anchor.locator(".evidence")).to_contain_text("learned")
    page.get_by_label("with routine promotions").check()
    expect(promotions.first).to_be_visible()
    shop.post("/v1/model/freeze", {"reason": "while somebody looks"})
    expect(rows.first).to_contain_text("while somebody looks")
    shop.post("/v1/model/resume", {"reason": "and on"})


def test_older_decisions_come_when_asked_for(shop: Service, open_page: OpenPage) -> None:
    """Past the newest 100 decisions, the older ones come page by page."""
    for _ in range(51):
        for action in ("freeze", "resume"):
            shop.post(f"/v1/model/{action}", {"reason": "to and fro"})
    page = open_page(shop, "decisions")
    rows = page.locator("#decisions-list > li")
    expect(rows).to_have_count(100)
    page.get_by_role("button", name="Older").click()
    until(lambda: rows.count() > 100)
    expect(rows.last).to_contain_text("First anchor")
    expect(page.get_by_role("button", name="Older")).to_be_hidden()


def test_quarantine_is_read_and_released(shop: Service, open_page: OpenPage) -> None:
    """Refused events are listed with their reasons; one is learned after all, one is not."""
    page = open_page(shop, "quarantine")
    rows = page.locator("#quarantine-table tbody tr")
    expect(rows).to_have_count(100)
    page.get_by_role("button", name="Older").click()
    until(lambda: rows.count() > 100)
    page.locator("#quarantine-reason").select_option("late")
    expect(rows).to_have_count(1)
    rows.get_by_role("button", name="Release the click of clumsy").click()
    dialog = page.get_by_role("dialog", name="Learn this event after all?")
    expect(dialog).to_contain_text("click of clumsy on i1")
    dialog.get_by_role("button", name="Learn it").click()
    expect(page.locator("#quarantine-status")).to_have_text("It was learned.")
    assert shop.get("/v1/users/clumsy")["n_events"] == 1
    page.locator("#quarantine-reason").select_option("unknown_type")
    rows.first.get_by_role("button").click()
    dialog.get_by_role("button", name="Learn it").click()
    expect(dialog.get_by_role("alert")).to_contain_text("refused again: unknown_type")
    dialog.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Refresh").click()
    expect(page.locator("#quarantine-status")).to_contain_text("shown")


def test_a_snapshot_is_written_and_restored(shop: Service, open_page: OpenPage) -> None:
    """A snapshot is written by a click; going back to it takes a reason and a tick."""
    page = open_page(shop, "snapshots")
    page.get_by_role("button", name="Write one now").click()
    expect(page.locator("#snapshots-status")).to_contain_text("is written")
    [snapshot, *_] = shop.get("/v1/snapshots")["snapshots"]
    row = page.locator("#snapshots-table tbody tr", has_text=snapshot["id"])
    row.get_by_role("button", name="Restore").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("back to then")
    dialog.get_by_role("button", name="Restore").click()
    expect(dialog).to_be_visible()
    dialog.get_by_role("checkbox").check()
    dialog.get_by_role("button", name="Restore").click()
    expect(page.locator("#snapshots-status")).to_contain_text("Restored")
    kinds = [d["kind"] for d in shop.get("/v1/decisions", n=3)["decisions"]]
    assert "restore" in kinds
    page.get_by_role("button", name="Refresh").click()
    expect(page.locator("#snapshots-status")).to_have_text("Read again.")


def test_what_is_not_there_is_said(guarded: Service, open_page: OpenPage) -> None:
    """An empty service has a sentence in each place where later there will be something."""
    page = open_page(guarded)
    page.get_by_label("Key").fill("the-admin-key")
    page.keyboard.press("Enter")
    expect(page.locator("#versions tbody tr").first).to_contain_text("–")
    page.get_by_role("link", name="Quarantine").click()
    expect(page.locator("#quarantine-table")).to_contain_text("Nothing is in quarantine")
    page.get_by_role("link", name="Playground").click()
    expect(page.locator("#play-items")).to_contain_text("Nothing is left to show")
