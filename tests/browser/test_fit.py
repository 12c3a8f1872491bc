"""Whom the page is fit for: every eye, hand and screen, and a slow line."""

from __future__ import annotations

from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage
from tests.integration.service import Service

VIEWS = ("overview", "decisions", "quarantine", "snapshots", "playground")
MOST_BYTES = 300_000


def violations(page: Page) -> list[str]:
    """Return what axe holds against the page as it is, in its two gravest classes and the third."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{each['id']} ({each['impact']}): {node['html']} {node['failureSummary']}"
        for each in found
        if each["impact"] in ("critical", "serious", "moderate")
        for node in each["nodes"]
    ]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing_serious(
    shop: Service,
    guarded: Service,
    open_page: OpenPage,
    scheme: Literal["light", "dark"],
    width: int,
) -> None:
    """Every view, the dialog and the login pass axe: light on a desk, dark on a phone."""
    size = {"width": width, "height": 800}
    page = open_page(shop, color_scheme=scheme, viewport=size, reduced_motion="reduce")
    expect(page.locator("#gate-state")).to_have_text("Open")
    for view in VIEWS:
        page.evaluate("view => { location.hash = view; }", view)
        expect(page.locator(f"#{view}")).to_be_visible()
        if view == "playground":
            expect(page.locator("#play-items li").first).to_be_visible()
        assert violations(page) == [], view
    page.evaluate("location.hash = 'overview'")
    page.get_by_role("button", name="Roll back").click()
    assert violations(page) == [], "dialog"
    page = open_page(guarded, color_scheme=scheme, viewport=size)
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    assert violations(page) == [], "login"


def test_it_fits_a_phone(shop: Service, open_page: OpenPage) -> None:
    """At 390 px nothing sticks out to the side, and what is to be touched is large enough."""
    page = open_page(shop, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    expect(page.locator("#gate-state")).to_have_text("Open")
    for view in VIEWS:
        page.get_by_role("navigation").locator(f"a[href='#{view}']").tap()
        expect(page.locator(f"#{view}")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, view
        small = page.locator("button:visible").evaluate_all(
            "nodes => nodes.filter(n => n.getBoundingClientRect().height < 24).map(n => n.id)"
        )
        assert small == [], view


def test_it_is_light(shop: Service, open_page: OpenPage) -> None:
    """All that the page consists of is under 300 kB, as it goes over the line."""
    page = open_page(shop)
    expect(page.locator("#connection")).to_have_text("Live")
    files = page.evaluate(
        "performance.getEntriesByType('resource').filter(e => e.name.includes('/dashboard'))"
        ".concat(performance.getEntriesByType('navigation')).map(e => [e.name, e.transferSize])"
    )
    assert len(files) > 5
    assert all(size > 0 for _, size in files), files
    assert sum(size for _, size in files) < MOST_BYTES
