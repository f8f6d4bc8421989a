"""Records that many threads read into at once, in a process that has just begun."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT

# Threads that take turns as often as Python lets them, each the first to read into a record of its kind.
READING = """
import sys, threading
import msgspec
from monitor.records import FeedRecord, TaskRecord, WorkerRecord

sys.setswitchinterval(1e-6)
together = threading.Barrier(6)

MARK = ["sent", "w@h", 1, 1, 1.0, 1.0, None]
GIVEN = (
    (FeedRecord, {"connected": True, "accounting": {"received": 1, "refused": {}}}),
    (WorkerRecord, {"hostname": "w@h"}),
    (TaskRecord, {"uuid": "u", "attempts": [{}], "marks": [MARK]}),
)

def read():
    together.wait()
    for kind, given in GIVEN:
        msgspec.convert(given, kind)

readers = [threading.Thread(target=read) for _ in range(6)]
for reader in readers:
    reader.start()
for reader in readers:
    reader.join()
print("read")
"""
PROCESSES = 12  # a third of them crashed


def test_the_first_pages_of_a_process_may_read_records_in_many_threads() -> None:
    for _ in range(PROCESSES):
        done = subprocess.run(
            [sys.executable, "-c", READING], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode, done.stdout) == (0, "read\n"), done.stderr
