"""The dashboard as a Django app."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from django.apps import AppConfig


class DashboardConfig(AppConfig):
    name = "dashboard"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # The hub draws regions of pages that this process may never have served.
        fragments = import_module("dashboard.fragments")
        for module in iter_modules(fragments.__path__):
            import_module(f"{fragments.__name__}.{module.name}")
