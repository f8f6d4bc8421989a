"""Run a task again as it was sent: one call a task, and never twice for one wish."""

from __future__ import annotations

import uuid as uuidlib
from dataclasses import replace

from monitor.control.commands import SEND, Command, Message, Refused
from monitor.control.runs.originals import Original
from monitor.control.runs.sending import described
from monitor.models import SentTask
from monitor.records import ENDED

_NAMESPACE = uuidlib.UUID("6f0a7c3e-3d51-4f0b-9c58-7c1a54d7a2be")


def command_for(tasks: list[tuple[Original, str]], reason: str = "") -> Command:
    """The command that sends these tasks again under new ids; raises ``Refused``."""
    for found, _ in tasks:
        if why := why_not(found):
            raise Refused(f"{found.name} {found.uuid} was not run again. {why}")
    messages = tuple(message_of(found, new) for found, new in tasks)
    return Command(
        SEND, tuple(m.uuid for m in messages), described(messages), reason=reason, messages=messages
    )


def why_not(found: Original) -> str:
    """Why a task cannot be run again as it was; "" when it can."""
    if found.state not in ENDED:
        return f"It has not ended ({found.state}): run again now it would be there twice."
    if found.source == "message":
        return "Its message is still at the broker, which delivers it again: it would run twice."
    return found.why


def message_of(found: Original, new: str) -> Message:
    """As it was sent, under a new id. Not its ETA, not its expiry, and nothing of what followed it."""
    message = Message(
        new, found.name, found.queue, found.args.value, found.kwargs.value, priority=found.priority
    )
    return edited(message, found, changed=False)


def edited(message: Message, found: Original, *, changed: bool) -> Message:
    """A message that was typed, with what belongs to the original beside its arguments."""
    return replace(
        message,
        of=found.uuid,
        source="form" if changed else found.source,
        edited=changed,
        headers=found.headers,
        stamps=found.stamps,
        time_limit=found.time_limit,
        soft_time_limit=found.soft_time_limit,
        argsrepr=found.argsrepr,
        kwargsrepr=found.kwargsrepr,
    )


def identity(uuid: str, wish: str) -> str:
    """The id of the new task: the same for the same wish."""
    return str(uuidlib.uuid5(_NAMESPACE, f"{uuid}\n{wish}"))


def times(uuid: str) -> int:
    """How often Umbel ran it again."""
    return SentTask.objects.filter(of=uuid, record__sent_at__isnull=False).filter(of__gt="").count()


def sent(uuid: str) -> SentTask | None:
    """What Umbel sent under this id."""
    return SentTask.objects.select_related("record").filter(uuid=uuid).first()
