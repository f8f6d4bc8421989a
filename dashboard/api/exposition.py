"""The text that Prometheus reads: families of samples, each within a bound of series and of bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"  # the value of every label past a family's bound
LONGEST = 200  # characters of a label's value

Labels = tuple[str, ...]


class Exposition:
    """Collects families in order; ``let_go`` counts label sets that fell into "other", by family."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.let_go: dict[str, int] = {}

    def add(
        self,
        name: str,
        kind: str,
        about: str,
        samples: Mapping[Labels, float],
        labels: Labels = (),
        *,
        most: int = 1_000,
    ) -> None:
        """A counter or gauge. Samples past ``most`` are summed under "other"; the first come have their own.

        A counter of that name keeps its ``_total`` in the samples, as Prometheus's own clients do.
        """
        self._head(name, kind, about)
        for values, value in self._bounded(name, samples, len(labels), most):
            self._parts.append(f"{name}{_labelled(labels, values)} {_number(value)}\n")

    def one(self, name: str, kind: str, about: str, value: float | None) -> None:
        """A family of one sample without labels; left out when the value is not known."""
        if value is not None:
            self.add(name, kind, about, {(): value})

    def histogram(
        self,
        name: str,
        about: str,
        samples: Mapping[Labels, tuple[list[tuple[str, int]], float]],
        labels: Labels,
        *,
        most: int,
    ) -> None:
        """``samples``: cumulative counts by upper bound, the last of them ``+Inf``, and the sum."""
        self._head(name, "histogram", about)
        counts = {
            values: (tuple(n for _, n in buckets), total) for values, (buckets, total) in samples.items()
        }
        bounds = next(([bound for bound, _ in buckets] for buckets, _ in samples.values()), [])
        own = dict(list(counts.items())[:most])
        rest = [counts[values] for values in list(counts)[most:]]
        if rest:
            self.let_go[name] = len(rest)
            other = (OTHER,) * len(labels)
            together = [*rest, own[other]] if other in own else rest
            summed = tuple(sum(column) for column in zip(*(c for c, _ in together), strict=True))
            own[other] = (summed, sum(total for _, total in together))
        for values, (cumulative, total) in own.items():
            inner = _labelled(labels, values)[1:-1]
            for bound, count in zip(bounds, cumulative, strict=True):
                self._parts.append(f'{name}_bucket{{{inner},le="{bound}"}} {count}\n')
            self._parts.append(f"{name}_count{{{inner}}} {cumulative[-1]}\n")
            self._parts.append(f"{name}_sum{{{inner}}} {_number(total)}\n")

    def text(self) -> str:
        return "".join(self._parts)

    def _head(self, name: str, kind: str, about: str) -> None:
        self._parts.append(f"# HELP {name} {_escaped(about, quotes=False)}\n# TYPE {name} {kind}\n")

    def _bounded(
        self, name: str, samples: Mapping[Labels, float], width: int, most: int
    ) -> Iterable[tuple[Labels, float]]:
        if len(samples) <= most:
            return samples.items()
        pairs = list(samples.items())
        own, rest = dict(pairs[:most]), pairs[most:]
        self.let_go[name] = len(rest)
        other = (OTHER,) * width
        own[other] = own.get(other, 0.0) + sum(value for _, value in rest)
        return own.items()


def label(value: str) -> str:
    """A label's value, of a length that is bounded."""
    return value[:LONGEST]


def _labelled(names: Labels, values: Labels) -> str:
    if not names:
        return ""
    pairs = ",".join([f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)])
    return f"{{{pairs}}}"


def _escaped(value: str, *, quotes: bool = True) -> str:
    if value.isalnum():
        return value
    value = value.replace("\\", "\\\\").replace("\n", "\\n")
    return value.replace('"', '\\"') if quotes else value


def _number(value: float) -> str:
    return repr(float(value))
