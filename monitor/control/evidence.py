"""What a record says of its command, in a sentence or two: who answered what, and what Umbel saw."""

from __future__ import annotations

from collections.abc import Sequence

from monitor.control.connected import BROKER
from monitor.control.kinds import KINDS
from monitor.control.verifying import Finding, Grade, Verdict
from monitor.models import ControlRecord


def evidence_of(record: ControlRecord, verdict: Verdict) -> str:
    """One sentence or two: who answered what, and what Umbel saw."""
    kind = KINDS[record.command]
    first = _answers(record.replies) if kind.is_answered else _sent_to(record.destinations, record.command)
    if record.evidence:
        first = record.evidence
    return f"{first} {_sights(verdict.findings, f'{kind.what}s')}".strip()


def _sent_to(workers: list[str], command: str) -> str:
    to = workers[0] if len(workers) == 1 else f"{len(workers)} workers"
    return f"Sent to {to}; a {command} is never answered."


def _answers(replies: list[dict[str, str]]) -> str:
    silent = [one["worker"] for one in replies if one["outcome"] == "silent"]
    errors = [f"{one['worker']} refused: {one['text']}" for one in replies if one["outcome"] == "error"]
    total = len(replies)
    spoke = total - len(silent)
    if total == 1:
        text = errors[0] if errors else f"{replies[0]['worker']} {'did not answer' if silent else 'answered'}"
        if replies[0]["worker"] == BROKER:
            text = f"{text[:1].upper()}{text[1:]}"
        return f"{text.rstrip('.')}."
    if spoke == total:
        text = "Both workers answered" if total == 2 else f"All {total} workers answered"
    else:
        text = f"{spoke} of {total} workers answered; {', '.join(silent[:5])} did not"
    return ". ".join([text, *errors[:3]]) + "."


def _sights(findings: Sequence[Finding], what: str) -> str:
    if not findings:
        return ""
    if len(findings) == 1:
        text = findings[0].text
        return text if text.endswith(".") else f"{text}."
    seen = sum(1 for one in findings if one.grade is Grade.SEEN)
    if seen == len(findings):
        return f"Umbel saw the effect on {'both' if seen == 2 else f'all {seen}'} {what}."
    odd = next(one for one in findings if one.grade is not Grade.SEEN)
    return f"Umbel saw the effect on {seen} of {len(findings)}; {odd.target}: {odd.text}"
