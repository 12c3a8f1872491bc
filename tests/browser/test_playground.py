"""The playground: the list follows the clicks, and the shop learns only what it is meant to."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.integration.service import Service


def shown(page: Page) -> list[str]:
    """Return the items of the list, in order, when it is not being changed."""
    expect(page.locator("#play-items[aria-busy]")).to_have_count(0)
    return page.locator("#play-items .name").all_inner_texts()


def click_first(page: Page) -> str:
    """Click the first item, wait for the list to change, and return which it was."""
    [first, *_] = shown(page)
    page.locator("#play-items button").first.click()
    expect(
        page.locator("#play-items .name", has_text=first).and_(page.get_by_text(first, exact=True))
    ).to_have_count(0)
    return first


def test_trying_changes_the_list_and_stores_nothing(shop: Service, open_page: OpenPage) -> None:
    """Each click changes the list and says why; the service has learned nothing of it."""
    before = shop.get("/v1/model")
    page = open_page(shop, "playground")
    expect(page.locator("#play-items li")).to_have_count(10)
    clicked = [click_first(page), click_first(page)]
    expect(page.locator("#play-status")).to_contain_text("The list has changed")
    expect(page.locator("#play-trail")).to_contain_text(clicked[0])
    expect(page.locator("#play-items .because b", has_text=clicked[1]).first).to_be_visible()
    expect(page.locator("#play-items .moved.new").first).to_be_visible()
    with_two = shown(page)
    page.get_by_role("button", name=f"Take back the click on {clicked[1]}").click()
    expect(page.locator("#play-trail li")).to_have_count(1)
    assert shown(page) != with_two
    page.get_by_role("button", name="Start over").click()
    expect(page.locator("#play-trail")).to_have_text("Nothing yet.")
    after = shop.get("/v1/model")
    assert after["events"] == before["events"]
    assert after["users"] == before["users"]


def test_one_can_be_a_user_who_is_known(shop: Service, open_page: OpenPage) -> None:
    """A user of the shop is chosen from the offered ones; the list begins from what they had."""
    page = open_page(shop, "playground")
    offered = page.locator("#play-users option")
    expect(offered.first).to_be_attached()
    user = str(offered.first.get_attribute("value"))
    strangers = shown(page)
    page.get_by_label("User", exact=True).fill(user)
    page.get_by_role("button", name="Be this user").click()
    expect(page.locator("#play-trail .past").first).to_be_visible()
    assert shown(page) != strangers
    page.get_by_role("button", name="Somebody new").click()
    expect(page.locator("#play-trail")).to_have_text("Nothing yet.")
    assert shown(page) == strangers
    page.get_by_role("button", name="Somebody at random").click()
    expect(page.get_by_label("User", exact=True)).not_to_have_value("")
    expect(page.locator("#play-status")).to_contain_text("items for")


def test_teaching_needs_consent_and_is_learned(shop: Service, open_page: OpenPage) -> None:
    """Until the tick nothing can be clicked; then a click is real feedback of that user."""
    page = open_page(shop, "playground")
    page.get_by_label("User", exact=True).fill("a pupil / 1")
    page.get_by_role("button", name="Be this user").click()
    page.get_by_label("Teach").check()
    first = page.locator("#play-items button").first
    expect(first).to_be_disabled()
    page.get_by_label("I know that these clicks are learned").check()
    expect(first).to_be_enabled()
    item = click_first(page)
    expect(page.locator("#play-trail")).to_contain_text(item)
    history = shop.get("/v1/users/a%20pupil%20%2F%201/history")["events"]
    assert [event["item_id"] for event in history] == [item]
    page.get_by_label("Try").check()
    expect(page.get_by_label("I know that these clicks are learned")).to_be_hidden()
    click_first(page)
    assert len(shop.get("/v1/users/a%20pupil%20%2F%201/history")["events"]) == 1


def test_ids_are_text_and_never_markup(shop: Service, open_page: OpenPage) -> None:
    """An item that is called like a script is shown as what it is called, and does nothing."""
    evil = "<img src=x onerror=document.title='owned'>"
    shop.post("/v1/feedback", [{"user_id": evil, "item_id": evil, "type": "click"}])
    shop.post("/v1/feedback", [{"user_id": evil, "item_id": evil, "type": evil}])
    page = open_page(shop, "quarantine")
    expect(page.locator("#quarantine-table tbody tr").first).to_contain_text(evil)
    page.get_by_role("link", name="Playground").click()
    page.get_by_label("User", exact=True).fill(evil)
    page.get_by_role("button", name="Be this user").click()
    expect(page.locator("#play-trail")).to_contain_text(evil)
    assert page.locator("img[src=x]").count() == 0
    expect(page).to_have_title("Playground – Sluice")


def test_nothing_moves_for_who_wants_it_still(shop: Service, open_page: OpenPage) -> None:
    """With reduced motion no element is animated, whatever changes."""
    page = open_page(shop, "playground", reduced_motion="reduce")
    click_first(page)
    assert page.evaluate("document.getAnimations().length") == 0
