"""Records as rows and rows as records, with the SQL that merges them, for ``Store``.

A record's fields are the columns of its table, in the same order, so a row is the record's tuple with the
structured fields as JSON text. The SQL is the same for SQLite and PostgreSQL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
from django.db.models import CharField, IntegerField, Model, PositiveIntegerField

from monitor import models
from monitor.cluster.derive import attempts_of
from monitor.records import Attempt, Gap, Mark, Rollup, TaskRecord, TaskType, WorkerRecord

Row = tuple[Any, ...]

TASK_COLUMNS = TaskRecord.__struct_fields__
WORKER_COLUMNS = WorkerRecord.__struct_fields__
TYPE_COLUMNS = TaskType.__struct_fields__

# What is said once, by one event of many: kept when a later record does not know it.
_KEPT_TEXT = frozenset({"name", "queue", "routing_key", "sender"})
_KEPT_VALUES = frozenset({"args", "kwargs", "root_id", "parent_id", "sent_at", "expires"})

_TERMINATED = TASK_COLUMNS.index("terminated")
_TASK_JSON = ("attempts", "marks")
_TASK_BOOLEANS = ("terminated", "expired")
_WORKER_JSON = ("queues", "load", "details")
_WORKER_BOOLEANS = ("events_on", "is_beat", "duplicate")

_encode = msgspec.json.Encoder().encode
_attempts = msgspec.json.Decoder(list[Attempt]).decode
_marks = msgspec.json.Decoder(list[Mark]).decode
_histogram = msgspec.json.Decoder(dict[int, int]).decode
_any = msgspec.json.Decoder().decode


def text(value: object) -> str:
    """JSON text of a structured column."""
    return _encode(value).decode()


def task_row(record: TaskRecord) -> Row:
    """A single attempt is left out: the marks tell it, and ``task_of`` puts it back."""
    row = msgspec.structs.astuple(record)
    attempts = text(record.attempts) if len(record.attempts) > 1 else "[]"
    return (
        *row[:_TERMINATED],
        int(record.terminated),
        int(record.expired),
        *row[_TERMINATED + 2 : -2],
        attempts,
        text(record.marks),
    )


def worker_row(record: WorkerRecord) -> Row:
    row = msgspec.structs.asdict(record)
    for name in _WORKER_JSON:
        row[name] = text(row[name])
    return tuple(row.values())


def type_row(record: TaskType) -> Row:
    row = msgspec.structs.asdict(record)
    row["histogram"] = text(record.histogram)
    return tuple(row.values())


def task_of(row: Row) -> TaskRecord:
    """The record of one row of ``TASK_COLUMNS``."""
    values = dict(zip(TASK_COLUMNS, row, strict=True))
    for name in _TASK_BOOLEANS:
        values[name] = bool(values[name])
    values["attempts"] = _attempts(values["attempts"])
    values["marks"] = _marks(values["marks"])
    return _whole(TaskRecord(**values))


def marks_of(stored: str) -> list[Mark]:
    return _marks(stored)


def worker_of(row: Row) -> WorkerRecord:
    """The record of one row of ``WORKER_COLUMNS``."""
    values = dict(zip(WORKER_COLUMNS, row, strict=True))
    for name in _WORKER_BOOLEANS:
        values[name] = None if values[name] is None else bool(values[name])
    for name in _WORKER_JSON:
        values[name] = _any(values[name])
    return WorkerRecord(**values)


def type_of(row: Row) -> TaskType:
    """The record of one row of ``TYPE_COLUMNS``."""
    values = dict(zip(TYPE_COLUMNS, row, strict=True))
    values["histogram"] = _histogram(values["histogram"])
    return TaskType(**values)


def task_record(model: models.Task) -> TaskRecord:
    """The record of a row read through the ORM."""
    values = {name: getattr(model, name) for name in TASK_COLUMNS}
    return _whole(msgspec.convert(values, TaskRecord))


def _whole(record: TaskRecord) -> TaskRecord:
    if not record.attempts and record.marks:
        record.attempts = attempts_of(record)
    return record


def worker_record(model: models.Worker) -> WorkerRecord:
    """The record of a row read through the ORM."""
    values = {name: getattr(model, name) for name in WORKER_COLUMNS}
    return msgspec.convert(values, WorkerRecord)


def select(model: type[Model], columns: Sequence[str], rest: str) -> str:
    return f"SELECT {_names(columns)} FROM {_table(model)} {rest}"  # noqa: S608 - our own column names


def _names(columns: Collection[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)


def _table(model: type[Model]) -> str:
    return f'"{model._meta.db_table}"'


def _upsert(
    model: type[Model], columns: Sequence[str], key: Collection[str], merge: Callable[[str, str], str]
) -> str:
    """``merge(column, stored)`` is the SQL that a stored column becomes; ``excluded`` is the new row."""
    table = _table(model)
    sets = ", ".join(
        f'"{column}" = {merge(column, f"{table}.{chr(34)}{column}{chr(34)}")}'
        for column in columns
        if column not in key
    )
    places = ", ".join(["%s"] * len(columns))
    return (
        f"INSERT INTO {table} ({_names(columns)}) VALUES ({places}) "  # noqa: S608 - our own column names
        f"ON CONFLICT ({_names(key)}) DO UPDATE SET {sets}"
    )


def _replace(column: str, stored: str) -> str:
    return f'excluded."{column}"'


def _known(column: str, stored: str) -> str:
    """Nothing known is overwritten by unknown."""
    new = f'excluded."{column}"'
    if column in _KEPT_TEXT:
        return f"COALESCE(NULLIF({new}, ''), {stored})"
    if column in _KEPT_VALUES:
        return f"COALESCE({new}, {stored})"
    if column == "day":
        return stored
    if column == "first_seen_at":
        return f"CASE WHEN {new} < {stored} THEN {new} ELSE {stored} END"
    return new


UPSERT_TASK = _upsert(models.Task, TASK_COLUMNS, ("uuid",), _known)
# The key of a partitioned table holds the column it is partitioned by.
UPSERT_PARTITIONED_TASK = _upsert(models.Task, TASK_COLUMNS, ("uuid", "day"), _known)
UPSERT_WORKER = _upsert(models.Worker, WORKER_COLUMNS, ("hostname",), _replace)
UPSERT_GAP = _upsert(models.Gap, Gap.__struct_fields__, ("started_at",), _replace)
UPSERT_TYPE = _upsert(models.TaskType, TYPE_COLUMNS, ("name",), _replace)
INSERT_TYPE = UPSERT_TYPE.partition(" DO UPDATE")[0] + " DO NOTHING"
UPSERT_FEED = _upsert(models.Feed, ("id", "at", "data"), ("id",), _replace)
# PostgreSQL: what the last write calls itself, and the number of its transaction; see ``Store.was_written``.
_MARK_ID = 2
MARK_WRITE = (
    f"INSERT INTO {_table(models.Feed)} (id, at, data) VALUES ({_MARK_ID}, %s, to_jsonb(%s::text)) "  # noqa: S608 - our own table
    "ON CONFLICT (id) DO UPDATE SET at = excluded.at, data = excluded.data "
    "RETURNING pg_current_xact_id()::text"
)
_MARK = f"(SELECT data #>> '{{}}' FROM {_table(models.Feed)} WHERE id = {_MARK_ID})"  # noqa: S608 - our own table
WRITE_OF = f"SELECT pg_xact_status(%s::xid8), {_MARK}"


_MODELS: Mapping[type, type[Model]] = {
    TaskRecord: models.Task,
    WorkerRecord: models.Worker,
    TaskType: models.TaskType,
    Rollup: models.Rollup,
    Gap: models.Gap,
}
_BIGGEST, _BIGGEST_SMALL = 2**63 - 1, 2**31 - 1


def cleaned(record: Any) -> Any:
    """The record with everything gone that a database may refuse: the slow way, for a batch that was refused.

    NUL and lone surrogates become U+FFFD, text is cut to its column, numbers that no column holds are
    clamped, or unknown when not finite.
    """
    fields = msgspec.structs.fields(type(record))
    model = _MODELS.get(type(record))
    values: dict[str, Any] = {}
    for field in fields:
        value = _clean(getattr(record, field.name))
        column = model._meta.get_field(field.name) if model else None
        if isinstance(column, CharField) and isinstance(value, str):
            value = value[: column.max_length]
        elif type(column) in _SMALL and isinstance(value, int):
            least = 0 if isinstance(column, PositiveIntegerField) else -_BIGGEST_SMALL
            value = max(least, min(value, _BIGGEST_SMALL))
        elif value is None and isinstance(field.default, float):
            value = field.default
        values[field.name] = value
    return type(record)(**values)


_SMALL = (IntegerField, PositiveIntegerField)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return max(-_BIGGEST, min(value, _BIGGEST))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_clean(k): _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v) for v in value]
    if isinstance(value, Attempt):
        return cleaned(value)
    if isinstance(value, Mark):
        kind, worker, pid, clock, at, seen_at, detail = (_clean(p) for p in msgspec.structs.astuple(value))
        return Mark(kind, worker, pid, clock, at or 0.0, seen_at or 0.0, detail)
    return str(value)
