"""The build hook: wheel and sdist carry the browser libraries, so installing needs no node and no CDN."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class VendorHook(BuildHookInterface):  # type: ignore[type-arg]
    """Builds static/vendor before anything is packed."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        vendor = _vendor(Path(self.root))
        return [] if vendor.is_current() or vendor.has_npm() else [vendor.NODE_WHEEL]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        _vendor(Path(self.root)).build()
        if self.target_name == "wheel" and version != "editable":
            # A checkout has them beside the packages, a wheel inside; the settings find them both ways.
            build_data["force_include"] |= {"templates": "dashboard/templates", "static": "dashboard/static"}


def _vendor(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("umbel_vendor", root / "frontend" / "vendor.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
