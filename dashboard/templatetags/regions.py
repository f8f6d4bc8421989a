"""``{% region "name" %}``: a live region drawn in its page."""

from __future__ import annotations

from typing import Any

from django import template
from django.template.context import Context
from django.utils.safestring import SafeString

from dashboard import fragments

register = template.Library()


@register.simple_tag(takes_context=True)
def region(context: Context, name: str) -> str:
    """Draws the region for the page in the context, with the template that frames use."""
    # Its own template escaped it already.
    return SafeString(fragments.named(name).draw(context["page"]))


@register.simple_tag(takes_context=True)
def region_data(context: Context, name: str) -> Any:
    """The data of a data region, for ``json_script``."""
    return fragments.named(name).values(context["page"])
