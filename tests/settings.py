"""The product's settings over a data folder of this test run, with a quick password hash."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# What the tests themselves ask for stays: processes of one run hand it on to each other.
_tests_own = (
    *("UMBEL_CI", "UMBEL_SOAK", "UMBEL_SOAK_MINUTES", "UMBEL_SEED"),
    *("UMBEL_TEST_DATABASE", "UMBEL_TEST_TEMPLATE"),
)
_database = os.environ.get("UMBEL_TEST_DATABASE", "")
for name in [name for name in os.environ if name.startswith("UMBEL_") and name not in _tests_own]:
    del os.environ[name]
_folder = Path(tempfile.mkdtemp(prefix="umbel-tests-"))
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
os.environ["UMBEL_DATA"] = str(_folder)
if _database:
    os.environ["UMBEL_DATABASE"] = _database

from dashboard.queries import shared  # noqa: E402
from dashboard.settings import *  # noqa: E402, F403
from dashboard.settings import DATABASES  # noqa: E402

if _template := os.environ.get("UMBEL_TEST_TEMPLATE"):
    # A copy takes a tenth of a second, all migrations take many.
    DATABASES["default"]["TEST"] = {"TEMPLATE": _template}
if not _database:
    # A file, not memory: tests read with one thread what another has written.
    DATABASES["default"]["TEST"] = {"NAME": _folder / "test.sqlite3"}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# A test looks at once at what it wrote.
shared.kept = False
