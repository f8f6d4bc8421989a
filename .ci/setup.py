"""Gets a fresh clone ready: ``setup.py demo``, ``test`` or ``bench``. Needs Python 3.11 and pip alone.

Makes ``.venv`` once for each state of pyproject.toml, builds static/vendor, and for ``test`` and ``bench``
installs what they need where it may (Debian, as root); elsewhere it says what will not be run, and why.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / "python"

# Program to look for (any of them): Debian's package, and which tests need it.
TOOLS = {
    ("chromium", "chromium-browser", "google-chrome"): ("chromium", "the tests in a browser"),
    ("rabbitmq-server",): ("rabbitmq-server", "the tests with RabbitMQ"),
    ("postgres",): ("postgresql", "the tests with PostgreSQL"),
}


def main(what: str) -> int:
    if sys.version_info < (3, 11):
        print(f"Umbel needs Python 3.11 or later, this is {sys.version.split()[0]}: make PYTHON=python3.12 …")
        return 1
    # The bench drives a browser and starts the same servers as the tests.
    extra = "demo" if what == "demo" else "test"
    if not _install(extra) or subprocess.call([str(PYTHON), str(ROOT / "frontend" / "vendor.py")]):
        return 1
    if what != "demo":
        _tools()
    return 0


def _install(what: str) -> bool:
    inputs = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "hatch_build.py"))
    stamp = hashlib.sha256(inputs + sys.version.encode()).hexdigest()[:16]
    done = [VENV / f".ready-{extra}-{stamp}" for extra in dict.fromkeys((what, "test"))]
    if any(path.exists() for path in done):
        return True
    began = time.monotonic()
    if not PYTHON.exists():
        print("Making .venv …", flush=True)
        if not _make_venv():
            return False
    print(
        f"Installing Umbel and what `make {what}` needs into .venv (a minute or two the first time) …",
        flush=True,
    )
    pip = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--root-user-action=ignore"]
    if not _with_progress([*pip, "-e", f".[{what}]"]):
        return False
    done[0].touch()
    print(f"Installed in {time.monotonic() - began:.0f} s.", flush=True)
    return True


def _make_venv() -> bool:
    if _with_progress([sys.executable, "-m", "venv", str(VENV)], quiet=True):
        return True
    # Debian's Python without python3-venv has no ensurepip; its pip can still fill an empty environment.
    return _with_progress(
        [sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV)]
    ) and _with_progress([sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "pip"])


def _with_progress(argv: list[str], quiet: bool = False) -> bool:
    """Runs it with a line that counts; its output is shown only when it fails."""
    lines: list[str] = []
    shown = 0
    with subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Collecting "):
                shown += 1
                name = line.split()[1]
                if sys.stdout.isatty():
                    print(f"\r  {shown} packages: {name[:60]:<60}", end="", flush=True)
                elif shown % 20 == 0:
                    print(f"  {shown} packages …", flush=True)
            elif line.startswith("Installing collected"):
                print(f"\r  {shown} packages: unpacking {' ' * 50}", flush=True)
    if process.returncode and not quiet:
        print("".join(lines[-40:]), end="")
        print(f"That failed: {' '.join(argv[:4])} …")
    return process.returncode == 0


def _tools() -> None:
    missing = {names: tool for names, tool in TOOLS.items() if not _found(names)}
    if not missing:
        return
    packages = [package for package, _ in missing.values()]
    if shutil.which("apt-get") and os.geteuid() == 0:
        print(f"Installing {', '.join(packages)} with apt for the tests …", flush=True)
        # The packages' own services stay off: tests start private ones on ports of their own.
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1", "SYSTEMD_OFFLINE": "1"}
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
        for argv in (["apt-get", "update", "-qq"], install):
            done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{' '.join(argv)} failed:\n{done.stderr[-1500:]}")
    for names, (package, tests) in missing.items():
        if not _found(names):
            print(f"NOT RUN: {tests}, since {names[0]} is not installed (on Debian: apt install {package}).")


def _found(names: tuple[str, ...]) -> bool:
    # Debian keeps some of them off the PATH.
    more = ["/usr/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *more])
    return any(shutil.which(name, path=path) for name in names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
