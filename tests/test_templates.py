"""The template lint: no inline style or script, nothing marked safe, short, none left over or unworn."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.template.loader import get_template

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))
NAMES = [str(path.relative_to(ROOT / "templates")) for path in TEMPLATES]
LONGEST = 90

FORBIDDEN = {
    "an inline style": r"\sstyle\s*=",
    "a style element": r"<style\b",
    "an inline script": r"<script\b(?![^>]*\bsrc=)(?![^>]*type=\"application/json\")",
    "an event handler": r"<[^>]*\son[a-z]+\s*=",
    "an hx-on handler": r"\bhx-on\b",
    "a javascript: address": r"javascript:",
    "the safe filter": r"\|\s*safe(seq)?\b",
    "autoescape off": r"autoescape\s+off",
    "another site": r"(src|href|action)=\"(https?:)?//",
}


@pytest.mark.parametrize("path", TEMPLATES, ids=NAMES)
def test_a_template_holds_nothing_that_the_policy_forbids(path: Path) -> None:
    text = re.sub(r"\{#.*?#\}", "", path.read_text())
    found = [name for name, pattern in FORBIDDEN.items() if re.search(pattern, text, re.IGNORECASE)]
    assert not found, f"{path.name} has {', '.join(found)}"


@pytest.mark.parametrize("path", TEMPLATES, ids=NAMES)
def test_a_template_is_short(path: Path) -> None:
    assert path.read_text().count("\n") <= LONGEST


@pytest.mark.parametrize("name", NAMES)
def test_a_template_can_be_read(name: str) -> None:
    get_template(name)


@pytest.mark.parametrize("path", TEMPLATES, ids=NAMES)
def test_every_form_that_posts_carries_a_token(path: Path) -> None:
    forms = re.findall(r"<form\b[^>]*method=\"post\".*?</form>", path.read_text(), re.DOTALL)
    assert all("csrf_token" in form for form in forms)


def test_every_template_is_drawn_by_something() -> None:
    sources = [
        p
        for folder in ("dashboard", "templates")
        for p in (ROOT / folder).rglob("*")
        if p.suffix in {".py", ".html"}
    ]
    text = "\n".join(path.read_text() for path in sources)
    orphans = [name for name in NAMES if f'"{name}"' not in text]
    assert not orphans, f"nothing draws {orphans}"


def test_no_code_marks_text_safe_without_a_reason() -> None:
    for path in (ROOT / "dashboard").rglob("*.py"):
        assert "mark_safe" not in path.read_text(), path
        # SafeString only around literals, and around what a template drew.
        for argument in re.findall(r"SafeString\((.*)\)", path.read_text()):
            assert argument.startswith(("'", '"', "fragments.named", "render_to_string")), (
                f"{path}: {argument}"
            )


def test_regions_hold_no_token_and_no_person() -> None:
    """A region is drawn once for everyone of a role: nothing in it may belong to one person."""
    from dashboard import fragments
    from dashboard.fragments import feed as _  # noqa: F401 (registers)

    for region in (*fragments.EVERYWHERE.regions, *(r for rs in fragments.PAGES.values() for r in rs)):
        if region.template:
            text = (ROOT / "templates" / region.template).read_text()
            assert "csrf_token" not in text and "{{ user" not in text and "request." not in text, (
                region.template
            )


def test_every_icon_used_is_in_the_sprite() -> None:
    sprite = set(re.findall(r'id="([a-z-]+)"', (ROOT / "templates/_icons.svg").read_text()))
    for path in TEMPLATES:
        used = set(re.findall(r"\{% icon \"([a-z-]+)\"", path.read_text()))
        assert used <= sprite, f"{path.name}: {used - sprite}"


def test_every_stylesheet_is_loaded_by_every_page() -> None:
    named = re.findall(r"'css/(\w+\.css)'", (ROOT / "templates/_styles.html").read_text())
    assert sorted(named) == sorted(path.name for path in (ROOT / "static/css").glob("*.css"))
    assert named[0] == "base.css" and named[-1] == "motion.css"


def test_every_class_of_the_stylesheets_is_worn_by_something() -> None:
    sheets = "\n".join(path.read_text() for path in (ROOT / "static/css").glob("*.css"))
    selectors = " ".join(re.findall(r"[^{};]+(?=\{)", re.sub(r"/\*.*?\*/", "", sheets, flags=re.DOTALL)))
    wearers = [
        path
        for folder in ("dashboard", "templates", "static")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".html", ".svg", ".js"} and "vendor" not in path.parts
    ]
    worn = set(re.findall(r"[A-Za-z_][\w-]*", "\n".join(path.read_text() for path in wearers)))
    worn |= {f"{kind}-{state}" for kind in ("bar", "cap", "sp") for state in worn} | {"nowt", "ownt"}
    assert not sorted(set(re.findall(r"\.([a-zA-Z_][\w-]*)", selectors)) - worn)
