"""Causes that hold a task back without a word in its own events: a chord, a message that is out."""

from __future__ import annotations

from dashboard.queries.facts import Facts, Reason
from dashboard.templatetags.words import plain
from monitor.records import RECEIVED


def chord(facts: Facts) -> Reason | None:
    """The task that unlocks a chord waits for its headers."""
    found = facts.chord
    if found is None:
        return None
    headers = "its header" if found.headers == 1 else f"its {found.headers:,} headers"
    at = facts.eta if facts.held_back else None
    looks = "It looks at them again and again, and sends the body when all have ended well."
    if found.ended is None:
        return Reason("chord", f"A chord waits for {headers}", looks, at, None, "scheduled", "s-scheduled")
    head = f"A chord waits: {found.ended:,} of {headers} have ended well"
    if found.failed:
        lost = "1 has" if found.failed == 1 else f"{found.failed:,} have"
        text = f"{lost} not, so its body will not run but fail."
        return Reason("chord", head, text, None, None, "failed", "s-failed")
    if found.ended >= found.headers:
        return None
    return Reason("chord", head, looks, at, None, "scheduled", "s-scheduled")


def holder_gone(facts: Facts) -> Reason | None:
    """Whoever reserved it is away, and its message is out with it."""
    holder = facts.holder
    if holder is None or holder.status != "offline":
        return None
    head = f"{plain(holder.hostname)}, which reserved it, is offline"
    at, back = facts.given_back, "RabbitMQ gives it to another at once, Redis after the visibility timeout."
    if at is not None:
        head = f"Unacknowledged: {plain(holder.hostname)}, which reserved it, is offline"
        then = "it is due to go" if at <= facts.now else "it goes then"
        back = f"By the visibility timeout of {facts.timeout}, {then} to another worker, or minutes later."
    text = f"It had not started, so its message is not acknowledged. {back}"
    return Reason("worker offline", head, text, at, holder.pk, "offline", "s-offline")


def unacknowledged(facts: Facts) -> Reason | None:
    """Found among what workers took, and no worker said that it has it."""
    if facts.state != RECEIVED or facts.worker:
        return None
    text = "A worker took it, and has not said so: it works, holds it, or ended with it."
    if facts.given_back is not None:
        text += f" The broker gives it back when the visibility timeout is over ({facts.timeout})."
    return Reason("unacknowledged", "Its message is out, and not acknowledged", text, facts.given_back)
