"""The workflow of one task, as a tree by parent."""

from __future__ import annotations

from dataclasses import dataclass, field

from django.db.models import Q

from dashboard.queries.tasks import Row, row_of
from monitor.models import NOT_ROOT, Task

MOST_KIN = 200


@dataclass(frozen=True)
class Node:
    """A task in the tree of its workflow."""

    task: Task
    row: Row
    here: bool
    children: list[Node] = field(default_factory=list)


@dataclass(frozen=True)
class Flow:
    """The workflow as far as it was seen."""

    roots: list[Node]
    count: int
    failed: int
    more: bool
    unseen_parent: str = ""


def workflow(uuid: str, now: float) -> Flow | None:
    """The tasks of the same root as a tree by parent; later steps of a chain appear once they are sent."""
    task = Task.objects.filter(uuid=uuid).first()
    if task is None:
        return None
    kin = _kin(task)
    shown = {one.uuid: one for one in kin[:MOST_KIN]} | {task.uuid: task}
    children: dict[str, list[Task]] = {}
    for one in shown.values():
        parent = one.parent_id if one.parent_id in shown and one.parent_id != one.uuid else ""
        children.setdefault(parent or "", []).append(one)
    placed: set[str] = set()

    def node(one: Task, depth: int) -> Node:
        placed.add(one.uuid)
        below = [child for child in children.get(one.uuid, []) if child.uuid not in placed]
        return Node(
            one, row_of(one, now), one.uuid == uuid, [node(c, depth + 1) for c in below] if depth < 30 else []
        )

    roots = [node(one, 0) for one in children.get("", []) if one.uuid not in placed]
    # Parents that name each other in a ring have no root: show them flat.
    roots += [
        Node(one, row_of(one, now), one.uuid == uuid) for one in shown.values() if one.uuid not in placed
    ]
    failed = sum(1 for one in shown.values() if one.state == "FAILURE")
    unseen = task.parent_id if task.parent_id and task.parent_id not in shown else ""
    return Flow(roots, len(shown), failed, len(kin) > MOST_KIN, unseen or "")


def family(uuid: str) -> list[Task]:
    """The tasks of the same workflow, oldest first, as many as its tree shows."""
    task = Task.objects.filter(uuid=uuid).first()
    return _kin(task)[:MOST_KIN] if task is not None else []


def _kin(task: Task) -> list[Task]:
    root = task.root_id or task.parent_id or task.uuid
    # Each by its own index; the one of roots leaves out who is its own.
    related = (Q(uuid__in=(root, task.uuid)), Q(parent_id=task.uuid), NOT_ROOT & Q(root_id=root))
    found = {
        one.pk: one
        for some in related
        for one in Task.objects.filter(some).order_by("first_seen_at", "id")[: MOST_KIN + 1]
    }
    return sorted(found.values(), key=lambda one: (one.first_seen_at, one.pk))
