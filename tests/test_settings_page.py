"""The settings page: every option with its source, no secret, what history costs and what will go."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from django.test import Client

from dashboard import access
from dashboard.options import OPTIONS
from dashboard.queries import settings as queries
from monitor import models

pytestmark = pytest.mark.django_db
SECRET = "hunter2-canary-9f"


@pytest.fixture(params=access.ROLES)
def reader(request: pytest.FixtureRequest, client: Client) -> Client:
    client.force_login(access.create_user("vera", request.param, "correct horse 9"))
    return client


def page(client: Client) -> str:
    answer = client.get("/settings/")
    assert answer.status_code == 200
    return answer.content.decode()


def test_every_option_is_there_for_every_role_and_nothing_can_be_changed(reader: Client) -> None:
    html = page(reader)
    for option in OPTIONS:
        assert f"<code>{option.flag}</code>" in html and option.variable in html
    assert "FLOWER_UNAUTHENTICATED_API" in html
    main = html[html.index("<main") : html.index("</main>")]
    assert "<form" not in main and "<input" not in main
    assert 'aria-current="page"' in html[html.index('href="/settings/"') :][:120]


def test_values_say_where_they_came_from(reader: Client, settings: Any) -> None:
    settings.UMBEL_GIVEN = settings.UMBEL_GIVEN | {
        "port": ("9001", "command line"), "redact": ("iban,<b>", "environment"), "prefix": ("", "default"),
    }  # fmt: skip
    shown = {option.flag: option for _, group in queries.options() for option in group}
    assert (shown["--port"].value, shown["--port"].source) == ("9001", "command line")
    html = page(reader)
    assert "9001" in html and "command line" in html and "iban,&lt;b&gt;" in html
    assert "not set" in html


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.secret], ids=lambda o: o.name)
def test_no_secret_is_shown(client: Client, settings: Any, option: Any) -> None:
    client.force_login(access.create_user("ada", "admin", "correct horse 9"))
    for value in (
        f"redis://user:{SECRET}@broker.example:6379/3?password={SECRET}",
        f'{{"password": "{SECRET}"}}', SECRET,
    ):  # fmt: skip
        settings.UMBEL_GIVEN = settings.UMBEL_GIVEN | {option.name: (value, "file")}
        html = page(client)
        assert SECRET not in html
        assert "broker.example" in html or queries.HIDDEN in html


def test_what_is_stored_and_what_will_go_is_counted(reader: Client) -> None:
    old = time.time() - 20 * 86_400
    for n in range(7):
        models.Task.objects.create(
            uuid=f"t{n}", name="shop.add", state="SUCCESS", first_seen_at=old, seen_at=old, ended_at=old
        )
    html = page(reader)
    tasks = re.search(r'<th scope="row">Tasks</th><td class="num" data-k="Rows">(.*?)</td>', html)
    assert tasks and tasks[1].endswith("7")
    assert "What retention will remove" in html and "with the next sweep" in html
    assert "14 days" in html
    assert "SQLite" in html or "PostgreSQL" in html


def test_versions_are_there(reader: Client) -> None:
    names = dict(queries.versions())
    assert {"Python", "Django", "Celery", "Redis"} <= names.keys()
    assert names["Django"] in page(reader)


def test_a_database_that_cannot_say_does_not_take_the_page_down(
    reader: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "_sizes", lambda now: None)
    assert "does not say now" in page(reader)
