"""The shop: a Celery project such as many have, with the troubles that many have."""

from __future__ import annotations

from demo.shop.app import app

__all__ = ["app"]
