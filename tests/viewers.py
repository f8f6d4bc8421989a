"""Who asks the API in its tests: one person, signed in or by password, of whom nothing is remembered."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client

from dashboard import access
from dashboard.api import callers

PASSWORD = "correct horse 9"


@pytest.fixture(autouse=True)
def nothing_known() -> None:
    callers._known = callers._Known()


@pytest.fixture
def vera() -> User:
    return access.create_user("vera", "viewer", PASSWORD)


@pytest.fixture
def viewer(client: Client, vera: User) -> Client:
    client.force_login(vera)
    return client
