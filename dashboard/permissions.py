"""Which role each command needs, which want a reason, and a site's own rule: what ``access`` decides by."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.utils.module_loading import import_string

from monitor.control import commands as names
from monitor.control.kinds import KINDS

OPERATOR, ADMIN, NOBODY = "operator", "admin", "nobody"
NEEDS = (OPERATOR, ADMIN, NOBODY)
# What is no command to a worker, and has a name and a role all the same.
OWN = (
    *("bulk", "withdraw", "stop", "note", "threshold"),
    *(names.SHRINK_WHEN_FREE, names.KEEP_SIZE, names.DRAIN, names.END_DRAIN, names.DISMISS),
)
# Every command has a name here; without a setting an operator may give it.
COMMANDS: Mapping[str, str] = dict.fromkeys((*KINDS, *OWN), OPERATOR)

# What these send needs its own permission, too.
_CARRIED: Mapping[str, tuple[str, ...]] = {
    names.SHRINK_WHEN_FREE: (names.SHRINK,),
    names.DRAIN: (names.CANCEL_CONSUMER,),
    names.END_DRAIN: (names.ADD_CONSUMER,),
}
# Arguments with which a command ends tasks that run.
_ENDING = {names.REVOKE: "if_started", names.REVOKE_STAMPED: "signal"}

NO_REASON, ASKED, REQUIRED = "none", "asked", "required"
LEVELS = (NO_REASON, ASKED, REQUIRED)
# A reason that is asked for may be left out.
REASONS: Mapping[str, str] = {
    **dict.fromkeys(("terminate", "shutdown", "purge", "cancel_consumer"), ASKED),
    **dict.fromkeys(("revoke", "abort", "revoke_by_stamped_headers"), ASKED),  # where a form asks
    "bulk": REQUIRED,
}
TAG = "umbel"

log = logging.getLogger(__name__)


def needed(command: str) -> str:
    """The role that a command needs, or ``NOBODY``. What has no name here is for admins alone."""
    given: Mapping[str, str] = settings.UMBEL_PERMISSIONS
    return given.get(command) or COMMANDS.get(command, ADMIN)


def named(command: str, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Every permission that a command needs: its own, then those of the commands inside it."""
    if command == "retry":  # of many; each is sent as a task
        return (names.SEND,)
    ends = arguments.get(_ENDING.get(command, ""))
    return (command, *_CARRIED.get(command, ()), *((names.TERMINATE,) if ends else ()))


def reason_for(*commands: str) -> str:
    """Whether a reason is required, asked for, or neither: the most that one of these wants."""
    given: Mapping[str, str] = settings.UMBEL_REASONS
    wanted = (given.get(name) or REASONS.get(name, NO_REASON) for name in commands)
    return max(wanted, key=LEVELS.index)


def refused_by_rule(user: Any, command: str, targets: Sequence[str]) -> str:
    """Why the site's own rule refuses, "" when it lets through or there is none. One call of the rule.

    Only True lets through. What fails, or answers anything else, refuses.
    """
    if not settings.UMBEL_PERMISSION_RULE:
        return ""
    try:
        answer = _rule(settings.UMBEL_PERMISSION_RULE)(user, command, tuple(targets))
    except Exception:  # it is the site's code: whatever breaks in it must not let through
        log.exception("The site's own rule failed at %s; that was refused.", command)
        return "This site’s own rule failed, so nothing was done. The log says why."
    if answer is True:
        return ""
    if isinstance(answer, str) and answer.strip():
        return answer.strip()[:300]
    if answer is not False:
        log.error("The site's own rule answered %.80r to %s; that was refused.", answer, command)
        return "This site’s own rule gave no clear answer, so nothing was done. The log says more."
    return "This site’s own rule does not allow it. Nothing was done."


@lru_cache(maxsize=8)
def _rule(path: str) -> Callable[[Any, str, tuple[str, ...]], object]:
    found: Callable[[Any, str, tuple[str, ...]], object] = import_string(path)
    return found


@register(TAG)
def check(app_configs: object = None, **_: object) -> list[CheckMessage]:
    """What the settings name must be there: a typing mistake must not leave a command open."""
    return [
        *_unknown("permissions", settings.UMBEL_PERMISSIONS, NEEDS, "role", 1),
        *_unknown("reasons", settings.UMBEL_REASONS, LEVELS, "level", 3),
        *_broken_rule(settings.UMBEL_PERMISSION_RULE),
    ]


def _unknown(
    option: str, given: Mapping[str, str], values: Sequence[str], what: str, number: int
) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    variable = f"UMBEL_{option.upper()} (--{option})"
    for command, value in given.items():
        if command not in COMMANDS:
            text = f"{variable} names {command[:60]!r}, which is no command of Umbel."
            hint = f"The commands are {', '.join(sorted(COMMANDS))}."
            found.append(Error(text, hint=hint, id=f"umbel.E{number:03}"))
        if value not in values:
            text = f"{variable} gives {command[:60]} the {what} {value[:60]!r}, which there is not."
            found.append(Error(text, hint=f"Give {_either(values)}.", id=f"umbel.E{number + 1:03}"))
    return found


def _broken_rule(path: str) -> list[CheckMessage]:
    try:
        if not path or callable(_rule(path)):
            return []
        problem = "is no function"
    except Exception as error:  # noqa: BLE001 - the site's module may fail in any way
        problem = f"cannot be imported ({type(error).__name__}: {error})"
    return [
        Error(
            f"UMBEL_PERMISSION_RULE (--permission-rule) is {path[:80]!r}, which {problem}.",
            hint="Give the dotted path of a function (user, command, targets) that answers True, False or "
            "the reason why not, in a module on the Python path, or unset it.",
            id="umbel.E005",
        )
    ]


def _either(values: Sequence[str]) -> str:
    return f"{', '.join(values[:-1])} or {values[-1]}"
