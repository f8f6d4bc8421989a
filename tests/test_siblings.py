"""Several web processes of one database: they know of each other, and of secret keys that differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from structlog.testing import capture_logs

from dashboard import access
from dashboard.models import WebProcess
from dashboard.process import siblings
from demo import valkey
from tests.scaling import Web, environment, monitor


@pytest.fixture
def apart(settings: Any) -> None:
    settings.UMBEL_CHANNELS = "redis://127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def _nobody_warned() -> Iterator[None]:
    siblings._warned.clear()
    yield
    siblings._warned.clear()


def other(name: str = "other:1:x", seconds: float = 0.0, **more: Any) -> WebProcess:
    fields: dict[str, Any] = {"host": "web-<2>", "pid": 41, "key": siblings.fingerprint()} | more
    return WebProcess.objects.create(
        name=name, started_at=Now(), seen_at=Now() - timedelta(seconds=seconds), **fields
    )


@pytest.mark.django_db
def test_a_fingerprint_tells_keys_apart_and_not_the_key(settings: Any) -> None:
    first = siblings.fingerprint()
    assert siblings.fingerprint() == first and len(first) == 12
    assert first not in settings.SECRET_KEY
    settings.SECRET_KEY = "another key of forty characters or so, yes"
    assert siblings.fingerprint() != first


@pytest.mark.django_db
def test_another_key_is_said_once_with_the_way_out() -> None:
    siblings.tell()
    siblings.tell()
    other("same:2:y")
    with capture_logs() as said:
        siblings.look()
    assert said == []
    other(key="0123456789ab")
    with capture_logs() as said:
        siblings.look()
        siblings.look()
    (line,) = said
    assert line["log_level"] == "warning"
    assert "web-<2> (pid 41)" in line["event"] and "UMBEL_SECRET_KEY_FILE" in line["event"]


@pytest.mark.django_db
def test_who_is_silent_is_no_sibling_and_is_forgotten() -> None:
    other("gone:3:z", seconds=120, key="0123456789ab")
    other("long gone:4:z", seconds=3_600, key="0123456789ab")
    siblings.tell()
    assert siblings.other_keys() == []
    assert set(WebProcess.objects.values_list("pid", flat=True)) >= {41}
    assert not WebProcess.objects.filter(name="long gone:4:z").exists()


@pytest.mark.django_db
def test_the_settings_page_shows_them(client: Client, apart: None) -> None:
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    siblings.tell()
    page = client.get("/settings/").content.decode()
    assert "1 serves pages" in page and "different secret keys" not in page
    other(key="0123456789ab")
    page = client.get("/settings/").content.decode()
    assert "They sign with 2 different secret keys." in page
    assert "web-&lt;2&gt;" in page and "0123456789ab" in page
    assert "2 serve pages" in page


@pytest.mark.django_db
def test_one_process_that_is_all_has_no_siblings(client: Client) -> None:
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    assert "Web processes" not in client.get("/settings/").content.decode()


@pytest.mark.django_db(transaction=True)
def test_a_schema_without_the_table_harms_nothing(client: Client, apart: None) -> None:
    client.force_login(access.create_user("vera", "viewer", "correct horse 9"))
    with connection.schema_editor() as editor:
        editor.delete_model(WebProcess)
    try:
        assert client.get("/settings/").status_code == 200
    finally:
        with connection.schema_editor() as editor:
            editor.create_model(WebProcess)


@pytest.mark.live
def test_webs_with_different_keys_say_so_under_either_server(tmp_path: Path, valkey: valkey.Server) -> None:
    key = "three different words and forty letters in {}"
    env = environment(tmp_path, UMBEL_BROKER=valkey.url, UMBEL_CHANNELS=valkey.url)
    with ExitStack() as stack:
        leader = monitor("monitor", tmp_path, env)
        daphne = Web("daphne", tmp_path, env | {"UMBEL_SECRET_KEY": key.format("all")})
        same = Web("same", tmp_path, env | {"UMBEL_SECRET_KEY": key.format("all")}, uvicorn=True)
        odd = Web("odd", tmp_path, env | {"UMBEL_SECRET_KEY": key.format("one")}, uvicorn=True)
        for process in (leader, daphne, same, odd):
            stack.callback(process.end)
        leader.start()
        leader.says("Umbel's monitor is")
        daphne.start()
        daphne.answers()
        same.start()
        same.answers()
        odd.start()
        # Under uvicorn as well, and in the product's own log format.
        odd.says("another secret key than")
        daphne.says(f"(pid {odd.pid})")
        assert "[warning  ] This web process signs" in odd.said()
        assert key.format("one") not in odd.said() + daphne.said()
        odd.end()
        assert f"(pid {same.pid})" not in daphne.said()
