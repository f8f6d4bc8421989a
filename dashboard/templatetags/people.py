"""What people may do and what they write, in templates: buttons that are off, reasons, notes."""

from __future__ import annotations

import re
from typing import Any

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from dashboard import access, permissions
from dashboard.fragments import Page
from dashboard.templatetags.words import plain

register = template.Library()


@register.filter
def why_not(page: Page, command: str) -> str:
    """Why the readers of this page may not give a command; "" when they may.

    By their role alone: a site's own rule is asked when the command comes.
    """
    return access.may(page, command).reason


@register.inclusion_tag("controls/_reason_field.html")
def reason_field(*commands: str, form: str = "") -> dict[str, Any]:
    """The field for the reason: required, optional, or left out, as the settings say.

    ``form``: the id of the form that it goes with, where it stands outside.
    """
    return {"level": permissions.reason_for(*commands), "form": form}


@register.filter
def linked(text: str) -> SafeString:
    """Plain text with its lines kept, in which addresses of the web, and nothing else, are links."""
    return format_html_join(SafeString("<br>"), "{}", ((_line(line),) for line in text.split("\n")))


def _line(line: str) -> SafeString:
    parts, end = [], 0
    for found in _ADDRESS.finditer(line):
        address = found[0].rstrip(_AFTER)
        parts.append(format_html("{}", plain(line[end : found.start()])))
        # What reads like one place and leads to another is not made a link.
        shown = plain(address)
        link = '<a class="link" href="{}" rel="noopener noreferrer nofollow">{}</a>'
        parts.append(format_html(link, address, shown) if shown == address else format_html("{}", shown))
        end = found.start() + len(address)
    parts.append(format_html("{}", plain(line[end:])))
    return format_html_join("", "{}", ((part,) for part in parts))


_ADDRESS = re.compile(r"""\bhttps?://[^\s<>"'`{}|\\^]{1,500}""", re.IGNORECASE)
_AFTER = ".,;:!?)]"  # of the sentence, at the end of an address
