"""Notes on a task, a worker and a task name: who writes, changes and reads them, and what they may hold."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from dashboard import access, fragments
from dashboard.controls import notes as controls
from dashboard.fragments import Page
from dashboard.models import Note
from dashboard.queries import notes as queries
from dashboard.templatetags.people import linked
from monitor.models import ControlRecord
from tests.test_workers_page import task, worker

pytestmark = pytest.mark.django_db
HTMX = {"HX-Request": "true"}


@pytest.fixture
def people() -> dict[str, Client]:
    found = {}
    for name, role in (("vera", "viewer"), ("otto", "operator"), ("mila", "operator"), ("ada", "admin")):
        found[name] = Client()
        found[name].force_login(access.create_user(name, role, "correct horse 9"))
    return found


def add(client: Client, about: str = "task:u1", text: str = "It waits for the bank.", **more: Any) -> Any:
    return client.post("/notes/add/", {"about": about, "choice": about, "text": text}, **more)


def test_a_note_on_a_task_its_name_and_a_worker_is_on_their_pages(people: dict[str, Client]) -> None:
    task("u1")
    task("u2")
    task("u3", name="shop.tasks.other")
    pk = worker("w@h").pk
    for about, text in (("task:u1", "One"), ("name:shop.tasks.pay", "Two"), ("worker:w@h", "Three")):
        assert add(people["otto"], about, text).status_code == 302
    shown = {
        path: [
            text
            for text in ("One", "Two", "Three")
            if f">{text}</p>" in people["vera"].get(path).content.decode()
        ]
        for path in (
            *("/tasks/u1/", "/tasks/u2/", "/tasks/u3/", f"/workers/{pk}/", "/tasks/"),
            *("/tasks/?name=shop.tasks.pay", "/tasks/?name=shop.*"),
        )
    }
    assert shown == {
        "/tasks/u1/": ["One", "Two"],
        "/tasks/u2/": ["Two"],
        "/tasks/u3/": [],
        f"/workers/{pk}/": ["Three"],
        "/tasks/": [],
        "/tasks/?name=shop.tasks.pay": ["Two"],
        "/tasks/?name=shop.*": [],
    }
    said = [(one.username, one.command, one.targets) for one in ControlRecord.objects.order_by("at")]
    assert said[0] == ("otto", "note_add", ["u1"]) and len(said) == 3


def test_only_operators_write_and_nobody_in_read_only_mode(people: dict[str, Client], settings: Any) -> None:
    task("u1")
    assert add(Client()).status_code == 302
    assert add(people["vera"]).status_code == 403
    assert "Write a note" not in people["vera"].get("/tasks/u1/").content.decode()
    assert "Write a note" in people["otto"].get("/tasks/u1/").content.decode()
    assert people["otto"].get("/notes/add/").status_code == 405
    settings.UMBEL_PERMISSIONS = {"note": "admin"}
    assert add(people["otto"]).status_code == 403
    assert "Write a note" not in people["otto"].get("/tasks/u1/").content.decode()
    settings.UMBEL_PERMISSIONS = {}
    settings.UMBEL_READ_ONLY = True
    assert add(people["ada"]).status_code == 403
    assert "Write a note" not in people["ada"].get("/tasks/u1/").content.decode()
    assert not Note.objects.exists()


def test_a_second_click_is_one_note(people: dict[str, Client]) -> None:
    task("u1")
    for _ in range(3):
        add(people["otto"])
    add(people["mila"])
    assert [note.username for note in Note.objects.order_by("pk")] == ["otto", "mila"]
    assert ControlRecord.objects.count() == 2


def test_its_author_or_an_admin_changes_and_removes_it(people: dict[str, Client]) -> None:
    task("u1")
    add(people["otto"])
    note = Note.objects.get()
    path = f"/notes/{note.pk}/"
    for name, may in (("vera", False), ("otto", True), ("mila", False), ("ada", True)):
        html = people[name].get(path).content.decode()
        assert ("Save note" in html) == may and "It waits for the bank." in html, name
        assert ("Edit<" in people[name].get("/tasks/u1/").content.decode()) == may, name
    for name in ("vera", "mila"):
        answer = people[name].post(f"{path}change/", {"text": "x", "version": "1"})
        assert answer.status_code == 403, name
        assert people[name].post(f"{path}remove/").status_code == 403, name
    assert "Only otto, who wrote it, or an admin" in answer.content.decode()
    assert people["otto"].post(f"{path}change/", {"text": "It runs.", "version": "1"}).status_code == 302
    note.refresh_from_db()
    assert (note.text, note.version, note.changed_by, note.username) == ("It runs.", 2, "otto", "otto")
    html = people["vera"].get(path).content.decode()
    assert "changed it" in html and "wrote it" in html
    assert people["ada"].post(f"{path}remove/").headers["Location"] == "/tasks/u1/"
    assert not Note.objects.exists() and people["otto"].get(path).status_code == 404
    assert people["otto"].post(f"{path}remove/").status_code == 404, "the second click"
    kept = ControlRecord.objects.filter(effect="verified").order_by("-at").first()
    assert kept is not None and (kept.command, kept.username) == ("note_remove", "ada")
    assert kept.evidence == "It said: It runs."


def test_a_change_over_another_is_refused_and_loses_no_words(people: dict[str, Client]) -> None:
    task("u1")
    add(people["otto"])
    path = f"/notes/{Note.objects.get().pk}/change/"
    assert people["ada"].post(path, {"text": "By Ada.", "version": "1"}).status_code == 302
    answer = people["otto"].post(path, {"text": "By <Otto>.", "version": "1"})
    html = answer.content.decode()
    assert answer.status_code == 422 and "changed this note while you wrote" in html
    assert "By Ada." in html and "By &lt;Otto&gt;.</textarea>" in html
    assert Note.objects.get().text == "By Ada."
    assert people["otto"].post(path, {"text": "By Otto.", "version": "2"}).status_code == 302
    for version in ("", "x", "٣", "-1", "9" * 30):
        assert people["otto"].post(path, {"text": "Again.", "version": version}).status_code == 422


@pytest.mark.parametrize(
    ("about", "text", "said"),
    [
        ("task:u1", " \r\n ", "The note is empty"),
        ("task:u1", "x" * 2001, "has 2,001 characters, and 2,000 are the most"),
        ("task:gone", "x", "does not know the task gone"),
        ("worker:nobody@h", "x", "does not know the worker nobody@h"),
        ("name:no.such", "x", "does not know the task name no.such"),
        ("planet:earth", "x", "not said what the note is on"),
        ("", "x", "not said what the note is on"),
        ("task:" + "u" * 500, "x", "does not know the task"),
    ],
)
def test_what_cannot_be_a_note_is_said_and_the_words_stay(
    people: dict[str, Client], about: str, text: str, said: str
) -> None:
    task("u1")
    for headers in ({}, HTMX):
        answer = add(people["otto"], about, text, headers=headers)
        html = answer.content.decode()
        assert answer.status_code == 422 and said in html
        assert text.strip() in html
    assert not Note.objects.exists()


def test_the_notes_on_one_thing_and_in_all_are_bounded(
    people: dict[str, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    task("u1")
    task("u2")
    monkeypatch.setattr(queries, "MOST", 2)
    monkeypatch.setattr(controls, "IN_ALL", 3)
    for n in range(3):
        answer = add(people["otto"], text=f"Note {n}", headers=HTMX)
    assert "There are 2 notes on task u1, which is the most" in answer.content.decode()
    assert add(people["otto"], "task:u2", "Third").status_code == 302
    assert "There are 3 notes in all" in add(people["otto"], "task:u2", "Fourth").content.decode()
    assert Note.objects.count() == 3


def test_what_is_secret_is_hidden_before_it_is_stored(people: dict[str, Client]) -> None:
    task("u1")
    add(people["otto"], text="Use password=hunter2-canary at redis://me:hunter2-canary@host/0")
    assert "hunter2" not in Note.objects.get().text
    assert "hunter2" not in str(list(ControlRecord.objects.values()))


def test_text_is_text_and_only_addresses_of_the_web_are_links(people: dict[str, Client]) -> None:
    task("u1")
    evil = (
        "<img src=x onerror=alert(1)>\r\n"
        "See https://wiki.example/a?b=1&c=2, or (http://x.example/).\n"
        "javascript:alert(1) data:text/html,x ftp://x.example/ JAVASCRIPT://x%0aalert(1) \x00\u202egnp.exe"
    )
    add(people["otto"], text=evil)
    html = people["vera"].get("/tasks/u1/").content.decode()
    assert "<img src=x" not in html and "&lt;img src=x onerror=alert(1)&gt;<br>See" in html
    assert 'href="https://wiki.example/a?b=1&amp;c=2"' in html and 'href="http://x.example/"' in html
    for bad in ('href="javascript', 'href="data:', 'href="ftp:', 'href="JAVASCRIPT'):
        assert bad not in html
    assert "\u202e" not in html
    assert 'rel="noopener noreferrer nofollow"' in html


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("https://a.example/x.", ["https://a.example/x"]),
        ('https://a.example/"onclick="x', ["https://a.example/"]),
        ("https://a.example/<b>", ["https://a.example/"]),
        ("https://", []),
        ("xhttps://a.example", []),
        ("https://a.example/\u202egnp", []),
    ],
)
def test_a_link_ends_where_the_address_ends(text: str, links: list[str]) -> None:
    html = linked(text)
    assert [part.split('"')[0] for part in html.split('href="')[1:]] == links


def test_an_operators_own_buttons_are_drawn_for_nobody_else(people: dict[str, Client]) -> None:
    task("u1")
    add(people["otto"])
    otto, mila = (access.get_user_model().objects.get(username=name).pk for name in ("otto", "mila"))
    region = fragments.named("task-notes")

    def page(role: str, user: int) -> Page:
        found = Page.at("/tasks/u1/", "", role, False, user)
        assert found is not None
        return region.part(found)

    assert page("viewer", otto) == page("viewer", mila) and page("admin", otto) == page("admin", mila)
    assert page("operator", otto) != page("operator", mila)
    drawn = {user: region.draw(page("operator", user)) for user in (otto, mila)}
    assert "Edit<" in drawn[otto] and "Edit<" not in drawn[mila]
    # All else is drawn once for a role.
    for other in ("task-head", "task-usual", "others"):
        head = fragments.named(other)
        first, second = (Page.at("/tasks/u1/", "", "operator", False, user) for user in (otto, mila))
        assert first is not None and second is not None
        assert head.part(first) == head.part(second)
