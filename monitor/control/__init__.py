"""Control and inspect commands: what may be asked, sending it, and proof of its effect.

Only this room speaks to workers.
"""

from __future__ import annotations

from monitor.control.asking import Unreachable
from monitor.control.capabilities import Can, Capabilities, capabilities
from monitor.control.commands import SIGNALS, Actor, Command, Message, Refused
from monitor.control.inspecting import answering, discover, held_by, inspect_worker
from monitor.control.performing import keep, look_together, perform, recover, refuse
from monitor.control.purging import depth
from monitor.control.revokes.aborting import can_abort
from monitor.control.revokes.keeping import Keeper
from monitor.control.revokes.ladders import Plan, plan
from monitor.control.revokes.standing import standing, withdraw, withdrawal
from monitor.control.workers.draining import drain
from monitor.control.workers.tending import Tender

__all__ = [
    "SIGNALS",
    "Actor",
    "Can",
    "Capabilities",
    "Command",
    "Keeper",
    "Message",
    "Plan",
    "Refused",
    "Tender",
    "Unreachable",
    "answering",
    "can_abort",
    "capabilities",
    "depth",
    "discover",
    "drain",
    "held_by",
    "inspect_worker",
    "keep",
    "look_together",
    "perform",
    "plan",
    "recover",
    "refuse",
    "standing",
    "withdraw",
    "withdrawal",
]
