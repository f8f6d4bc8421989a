"""The browser libraries: pinned, copied with their licences, and built only when they must be."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def vendor() -> ModuleType:
    spec = importlib.util.spec_from_file_location("umbel_vendor", ROOT / "frontend" / "vendor.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lock() -> dict[str, dict[str, object]]:
    return json.loads((ROOT / "frontend" / "package-lock.json").read_text())["packages"]


def test_every_library_is_pinned_by_its_integrity_and_names_no_registry() -> None:
    wanted = json.loads((ROOT / "frontend" / "package.json").read_text())["dependencies"]
    for name, version in wanted.items():
        entry = lock()[f"node_modules/{name}"]
        assert entry["version"] == version, f"{name} is not pinned exactly"
        assert str(entry["integrity"]).startswith("sha512-")
    assert set(lock()) == {"", *(f"node_modules/{name}" for name in wanted)}
    assert "resolved" not in (ROOT / "frontend" / "package-lock.json").read_text()


def test_the_files_are_there_with_their_licences(vendor: ModuleType) -> None:
    vendor.build()
    assert vendor.is_current()
    for name in vendor.FILES.values():
        assert (vendor.VENDOR / name).stat().st_size > 0
    assert "MIT" in (vendor.VENDOR / "LICENSE.uplot.txt").read_text()
    assert "Zero-Clause BSD" in (vendor.VENDOR / "LICENSE.htmx.txt").read_text()


def test_a_current_folder_is_left_alone_and_asks_for_no_npm(
    vendor: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor.build()
    monkeypatch.setenv("PATH", "")
    assert vendor.build() is False


def test_a_changed_lock_or_a_missing_file_makes_the_folder_stale(vendor: ModuleType, tmp_path: Path) -> None:
    frontend, target = tmp_path / "frontend", tmp_path / "vendor"
    frontend.mkdir()
    target.mkdir()
    (frontend / "package-lock.json").write_text("{}")
    for name in vendor.FILES.values():
        (target / name).write_text("x")
    (target / ".stamp").write_text(vendor.stamp(frontend))
    assert vendor.is_current(frontend, target)

    (frontend / "package-lock.json").write_text('{"lockfileVersion": 3}')
    assert not vendor.is_current(frontend, target)

    (target / ".stamp").write_text(vendor.stamp(frontend))
    (target / "htmx.min.js").unlink()
    assert not vendor.is_current(frontend, target)


def test_the_build_hook_asks_for_node_only_when_npm_is_absent_and_files_are_stale(
    vendor: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    # hatchling itself is there at build time only.
    interface = ModuleType("hatchling.builders.hooks.plugin.interface")
    interface.BuildHookInterface = type("BuildHookInterface", (), {"root": str(ROOT)})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    spec = importlib.util.spec_from_file_location("umbel_hatch_build", ROOT / "hatch_build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    hook = module.VendorHook()
    monkeypatch.setattr(module, "_vendor", lambda root: vendor)
    monkeypatch.setattr(vendor, "is_current", lambda: False)
    monkeypatch.setattr(vendor, "has_npm", lambda: False)
    assert hook.dependencies() == [vendor.NODE_WHEEL]
    monkeypatch.setattr(vendor, "has_npm", lambda: True)
    assert hook.dependencies() == []
    monkeypatch.setattr(vendor, "has_npm", lambda: False)
    monkeypatch.setattr(vendor, "is_current", lambda: True)
    assert hook.dependencies() == []


def test_without_npm_anywhere_the_failure_is_a_sentence(
    vendor: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vendor, "has_npm", lambda: False)
    monkeypatch.setattr(vendor.subprocess, "run", lambda *a, **k: None)
    monkeypatch.setattr(vendor.sysconfig, "get_path", lambda name: "/nonexistent")
    with pytest.raises(SystemExit, match=r"install Node\.js"):
        vendor._npm(Path("/nonexistent/node"))
