"""Which region of a page is drawn by what, and which topics make it redraw: for pages and frames alike.

A region is one element with an id, drawn by one template from one context function. The page includes it
with ``{% region "name" %}``; the hub draws the same region into a frame when one of its topics changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from django.http import HttpRequest, QueryDict
from django.template.loader import render_to_string
from django.urls import Resolver404, resolve


@dataclass(frozen=True)
class Page:
    """What a page shows, and to which role: everything a region may depend on. Equal pages share a render."""

    view: str  # the URL's name
    kwargs: tuple[tuple[str, Any], ...] = ()
    query: str = ""  # normalised query string
    role: str = "viewer"
    read_only: bool = False
    # Who reads it, where that makes a difference to what they may do: an operator changes their own notes.
    user: int = 0

    @property
    def params(self) -> QueryDict:
        return QueryDict(self.query)

    def arg(self, name: str) -> Any:
        return dict(self.kwargs)[name]

    @classmethod
    def of(cls, request: HttpRequest) -> Page:
        """The page of a request."""
        from dashboard import access

        match = request.resolver_match
        assert match is not None
        held = access.role(request.user)
        return cls(
            view=match.url_name or "",
            kwargs=tuple(sorted(match.kwargs.items())),
            query=_normal(request.GET),
            role=held,
            read_only=access.read_only(),
            user=cls._told_apart(held, request.user.pk),
        )

    @classmethod
    def at(cls, path: str, query: str, role: str, read_only: bool, user: int = 0) -> Page | None:
        """The page at a path as that role may see it; None when there is none with live regions."""
        from dashboard import access

        try:
            match = resolve(path)
        except Resolver404:
            return None
        needs = access.rule(match.func)
        if needs not in access.ROLES or not access.allows(role, needs):
            return None
        if match.url_name is None or not (EVERYWHERE.regions or match.url_name in PAGES):
            return None
        kwargs, told = tuple(sorted(match.kwargs.items())), cls._told_apart(role, user)
        return cls(match.url_name, kwargs, _normal(QueryDict(query)), role, read_only, told)

    @staticmethod
    def _told_apart(role: str, user: int | None) -> int:
        """Viewers may change nothing and admins everything: who they are makes no difference."""
        return user or 0 if role == "operator" else 0


def _normal(query: QueryDict) -> str:
    """The same filters in any order are one page."""
    return "&".join(sorted(query.urlencode().split("&"))) if query else ""


Context = Callable[[Page], Mapping[str, Any]]


@dataclass(frozen=True)
class Region:
    """One live element. ``template`` draws the whole element, whose id is ``name``.

    With ``data=True`` there is no template: the context itself is sent as JSON (charts).
    """

    name: str
    context: Context
    topics: tuple[str, ...] | Callable[[Page], tuple[str, ...]]
    template: str = ""
    every: float = 0.25  # least seconds between two draws
    data: bool = False
    # A list of rows that must not move under the hand: the browser holds newer frames back.
    held: bool = False
    # What is the same as long as the region is, and cheaper to read: asked when "any task" may have changed.
    stamp: Callable[[Page], object] | None = None
    # What of the page it depends on. Readers of pages that differ in nothing else share its draws.
    sees: tuple[str, ...] = ("view", "kwargs", "query", "role", "read_only")

    def listens(self, page: Page) -> frozenset[str]:
        return frozenset(self.topics(page) if callable(self.topics) else self.topics)

    def part(self, page: Page) -> Page:
        """The page without what this region does not see."""
        return replace(_NOWHERE, **{name: getattr(page, name) for name in self.sees})

    def draw(self, page: Page) -> str:
        """The region's HTML."""
        page = self.part(page)
        return render_to_string(self.template, {"page": page, **self.context(page)})

    def values(self, page: Page) -> Mapping[str, Any]:
        """The data of a region without a template."""
        return self.context(self.part(page))


_NOWHERE = Page("")


PAGES: dict[str, list[Region]] = {}
_BY_NAME: dict[str, Region] = {}


@dataclass
class _Everywhere:
    regions: list[Region] = field(default_factory=list)


EVERYWHERE = _Everywhere()


def register(view: str | None, regions: Iterable[Region]) -> None:
    """Makes the regions live on the page of that URL name, or on every page with None."""
    for region in regions:
        if _BY_NAME.setdefault(region.name, region) is not region:
            raise ValueError(
                f"Two regions are called {region.name!r}; an id can be drawn by one template only."
            )
        if view is None:
            EVERYWHERE.regions.append(region)
        else:
            PAGES.setdefault(view, []).append(region)


def regions(page: Page) -> list[Region]:
    """All live regions of a page."""
    return EVERYWHERE.regions + PAGES.get(page.view, [])


def named(name: str) -> Region:
    """The region of that name; KeyError when no module registers it."""
    return _BY_NAME[name]


def load() -> None:
    """Registers the regions of every page: the hub draws pages that this process may never have served."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
