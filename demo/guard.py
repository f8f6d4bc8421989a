"""Runs a program and ends it, with all it started, when whoever asked for it is gone, even by SIGKILL.

The guard holds the reading end of a pipe whose writing end only the asking process has. When that process
ends, in whatever way, the pipe closes and the guard ends the program: SIGTERM, a time of grace, SIGKILL to
the group.
This file is also the guard itself: it is run by path, so it imports the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GRACE = 6.0
PR_SET_CHILD_SUBREAPER = 36


@dataclass(slots=True)
class Guarded:
    """A program under guard: ``pid`` is the program's own, ``log`` is where its output goes."""

    pid: int
    log: Path
    _guard: subprocess.Popen[bytes]

    def running(self) -> bool:
        return self._guard.poll() is None

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the program to end; answers its exit code (negative: the signal that ended it)."""
        return self._guard.wait(timeout)

    def ask_to_stop(self) -> None:
        """Starts the stop (SIGTERM, grace, SIGKILL) and does not wait for it."""
        if self._guard.stdin and not self._guard.stdin.closed:
            with suppress(OSError):
                self._guard.stdin.close()

    def stop(self, timeout: float = GRACE + 4) -> None:
        self.ask_to_stop()
        with suppress(subprocess.TimeoutExpired):
            self._guard.wait(timeout)

    def kill(self) -> None:
        """SIGKILL to the program: nothing is finished or tidied, as when the machine takes it away."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._guard.wait(10)
        self.ask_to_stop()

    def tail(self, lines: int = 15) -> str:
        with suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""


def guarded(
    argv: list[str],
    log: Path,
    *,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    grace: float = GRACE,
) -> Guarded:
    """Starts ``argv`` under a guard; raises OSError when it cannot be started."""
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(grace), str(log), *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=env,
        cwd=cwd,
        start_new_session=True,
    )
    assert guard.stdout is not None
    line = guard.stdout.readline().decode().strip()
    guard.stdout.close()
    if not line.isdigit():
        guard.wait(5)
        raise OSError(f"{argv[0]} could not be started: {line or 'the guard ended at once'}.")
    return Guarded(int(line), log, guard)


def main(argv: list[str]) -> int:
    grace, log, *program = argv
    stop_reading, stop_writing = os.pipe()
    os.set_blocking(stop_writing, False)
    signal.set_wakeup_fd(stop_writing)
    stopping: list[int] = []
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, lambda number, _: stopping.append(number))
    _adopt_orphans()

    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        child = subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=fd, stderr=fd, process_group=0)
    except OSError as error:
        print(error, flush=True)
        return 127
    os.close(fd)
    print(child.pid, flush=True)
    os.close(1)
    os.open(os.devnull, os.O_WRONLY)

    while child.poll() is None and not stopping:
        ready, _, _ = select.select([0, stop_reading], [], [], 1.0)
        if stop_reading in ready:
            os.read(stop_reading, 512)
        if 0 in ready and not os.read(0, 512):
            break
        for orphan in set(_children()) - {child.pid}:
            with suppress(ChildProcessError):
                os.waitpid(orphan, os.WNOHANG)
    if child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(float(grace))
    _end_the_rest(child.pid)
    return child.wait(5)


def _adopt_orphans() -> None:
    """On Linux, grandchildren whose parent was killed become the guard's, so it can end them as well."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_the_rest(group: int) -> None:
    """SIGKILL to what is left of the group, then to adopted orphans, until no child is left."""
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        for pid in _children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(0.02)


def _children() -> list[int]:
    with suppress(OSError):
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
