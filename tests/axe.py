"""Barriers on a page, as axe finds them: in light and dark, on a desk and on a phone."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from playwright.sync_api import Page

WIDTHS = (1440, 390)
# What colours alone decide: in the other scheme nothing else can be found.
COLOURS = ["color-contrast", "link-in-text-block"]


def barriers(page: Page) -> dict[str, list[Any]]:
    """What is wrong in either scheme at either width, by where; the page stays as it is, and is not reloaded.

    The page's context needs ``bypass_csp``.
    """
    page.evaluate(_script())
    found = {}
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        for scheme, rules in (("light", None), ("dark", COLOURS)):
            # Without motion: colours that pass from one scheme to the other are of neither.
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            if wrong := _wrong(page, rules):
                found[f"{scheme}, {width} px"] = wrong
    return found


def _wrong(page: Page, rules: list[str] | None) -> list[Any]:
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = {"type": "rule", "values": rules}
    told = page.evaluate(f"axe.run({json.dumps(options)}).then((found) => found.violations)")
    return [(one["id"], one["nodes"][0]["html"][:200]) for one in told]


@cache
def _script() -> str:
    from axe_playwright_python.base import AXE_SCRIPT

    return str(AXE_SCRIPT)
