"""Pool processes on this machine, where Umbel runs beside the worker: signals to one, and what they take.

Celery signals a task once: with that the worker forgets the request, and a second terminate finds "tasks
unknown" while the process may live on. Nothing that a worker can be asked reaches it any more. Whoever is on
its machine can; Umbel does so as a rung of a ladder alone, and only to a process that is proved to be the one
that ran the task: a child of the worker, by pid and time of its start.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitor.control.asking import Reply
from monitor.control.commands import SIGNAL_PROCESS, Command, Refused, whole_number
from monitor.control.inspecting import Seen, processes, seen_on
from monitor.control.orders import LOOK_TIMEOUT, Order
from monitor.control.verifying import Finding, Grade
from monitor.models import Task

MACHINE = "this machine"
SIGNALS = ("SIGTERM", "SIGKILL")
MOST_SIZED = 50  # pool processes of one worker whose memory is read: each takes a millisecond
_PROC = Path("/proc")


def why_not_here(hostname: str, stats: Mapping[str, Any] | None) -> str:
    """Why Umbel cannot signal the pool processes of this worker itself; '' when it can."""
    if why := why_not_seen(hostname, stats):
        return why
    if not hasattr(os, "pidfd_open"):
        return "this system does not let a process be held while it is looked at"
    parent = int((stats or {}).get("pid", 0))
    return "" if _may_signal(parent) else f"Umbel may not signal the processes of {hostname}"


def why_not_seen(hostname: str, stats: Mapping[str, Any] | None) -> str:
    """Why the pool processes of this worker cannot be looked at from here; '' when they can."""
    pool = processes(dict(stats)) if stats else None
    parent = stats.get("pid") if stats else None
    if not pool or not isinstance(parent, int):
        return f"{hostname} has not told its pool processes"
    if not _PROC.is_dir():
        return "this system has no /proc to read them from"
    # One that has just ended may still be in the worker's list.
    parents = {found for pid in pool if (found := _parent(pid)) is not None}
    if parents != {parent} or not _is_worker(parent, hostname):
        return f"the processes of {hostname} are not seen from where Umbel runs"
    return ""


@dataclass(frozen=True, slots=True)
class Memory:
    """Of the pool processes of a worker on this machine, in bytes and on average.

    ``own`` None: their memory may not be told apart, and ``each`` counts what they share in every one.
    """

    each: float  # resident: its own, and its part of what it shares
    own: float | None  # what would be free again without it
    processes: int  # that were looked at
    available: int | None  # on the machine


def memory_of(hostname: str, stats: Mapping[str, Any] | None) -> Memory | None:
    """None when they are not seen from here: see ``why_not_seen``."""
    if why_not_seen(hostname, stats):
        return None
    pool = sorted(processes(dict(stats)) or ()) if stats else []
    parent = stats.get("pid") if stats else None
    sizes = [_size(pid) for pid in pool[:MOST_SIZED] if _parent(pid) == parent]
    known = [size for size in sizes if size is not None]
    if not known:
        return None
    told = [size for size in known if size[1] is not None]
    if told:
        # Of some only the plain size may be read: the two are not mixed.
        known = told
    own = sum(size[1] or 0 for size in known) / len(known) if told else None
    each = sum(size[0] for size in known) / len(known)
    return Memory(each, own, len(known), _fields("meminfo").get("MemAvailable"))


def began(pid: int) -> int | None:
    """When the process started, in the kernel's ticks: with the pid it names one process. None: not there."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in ("Z", "X") else None


def lives(pid: int, start: int) -> bool:
    """Whether it is still that process."""
    return began(pid) == start


def process_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments: the signal, and which process."""
    if given.get("signal") not in SIGNALS:
        raise Refused(f"{str(given.get('signal'))[:40]!r} is not one of {', '.join(SIGNALS)}.")
    return {
        "signal": given["signal"],
        "pid": whole_number(given.get("pid"), "The pid", 2, 2**22),
        "began": int(given.get("began") or 0),
    }


def order(command: Command) -> Order:
    """After a look that it is still that process, and runs nothing else."""
    (uuid,) = command.targets
    pid, start = command.arguments["pid"], command.arguments["began"]
    worker = Task.objects.filter(uuid=uuid).values_list("worker", flat=True).first() or ""
    seen = seen_on([worker], LOOK_TIMEOUT).get(worker) if worker else None
    if seen is None:
        raise Refused(f"{worker or uuid} did not answer, so what process {pid} runs is not known.")
    if why := why_not_here(worker, seen.stats):
        raise Refused(f"{why[0].upper()}{why[1:]}: process {pid} cannot be signalled from here.")
    if pid not in (seen.processes or ()) or not lives(pid, start) or _parent(pid) != seen.stats.get("pid"):
        raise Refused(f"Process {pid} of {worker} is gone already.")
    other = next((other for other, at in seen.pids.items() if at == pid and other != uuid), "")
    if other:
        raise Refused(f"Process {pid} of {worker} runs another task by now: {other}.")
    found = Order(command, [], dict(command.arguments), asked=(MACHINE,))
    found.where[uuid], found.pids[uuid] = worker, pid
    return found


def send(order: Order) -> list[Reply]:
    """The signal, to that very process: one that came after it under its number is not hit."""
    given = order.command.arguments
    try:
        handle = os.pidfd_open(given["pid"])
    except OSError as error:
        return [Reply(MACHINE, SIGNAL_PROCESS, False, f"process {given['pid']}: {error.strerror}")]
    try:
        if not lives(given["pid"], given["began"]):
            return [Reply(MACHINE, SIGNAL_PROCESS, False, f"process {given['pid']} is another by now")]
        signal.pidfd_send_signal(handle, signal.Signals[given["signal"]])
    except OSError as error:
        return [Reply(MACHINE, SIGNAL_PROCESS, False, f"process {given['pid']}: {error.strerror}")]
    finally:
        os.close(handle)
    return [Reply(MACHINE, SIGNAL_PROCESS, True, f"{given['signal']} sent to process {given['pid']}")]


def ended(order: Order, sent_at: float, seen: Mapping[str, Seen]) -> list[Finding]:
    """Whether the process is gone."""
    (uuid,) = order.command.targets
    given = order.command.arguments
    if lives(given["pid"], given["began"]):
        return [Finding(uuid, Grade.NOT, f"Process {given['pid']} lives on after {given['signal']}.")]
    return [Finding(uuid, Grade.SEEN, f"Process {given['pid']} is gone.")]


def _parent(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def _is_worker(pid: int, hostname: str) -> bool:
    """Whether that process here is the worker: elsewhere the same pid may have children of the same pids."""
    try:
        command = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return False
    here = hostname.rpartition("@")[2] in (socket.gethostname(), socket.getfqdn())
    return b"celery" in command and (here or hostname.encode() in command)


def _size(pid: int) -> tuple[int, int | None] | None:
    """Bytes of a process: proportional and private, or resident and None where that may not be read."""
    told = _fields(f"{pid}/smaps_rollup")
    if "Pss" in told:
        return told["Pss"], told.get("Private_Clean", 0) + told.get("Private_Dirty", 0)
    resident = _fields(f"{pid}/status").get("VmRSS")
    return (resident, None) if resident else None


def _fields(name: str) -> dict[str, int]:
    """Lines like "Pss:  170 kB" of a file of /proc, in bytes."""
    try:
        lines = (_PROC / name).read_text(errors="replace").splitlines()
    except OSError:
        return {}
    parts = [line.split() for line in lines]
    return {
        one[0].rstrip(":"): int(one[1]) * 1024
        for one in parts
        if len(one) == 3 and one[2] == "kB" and one[1].isdigit()
    }


def _stat(pid: int) -> list[str]:
    """From the state on: what comes before may hold blanks and brackets."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return []


def _may_signal(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
