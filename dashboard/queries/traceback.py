"""A traceback as the operator reads it: the frames of libraries folded, the line that raised marked."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    """Lines of a traceback: folded when they lie in a library."""

    lines: list[str]
    folded: str = ""
    here: bool = False
    error: bool = False  # the exception and its text


def frames(text: str) -> list[Frame]:
    """Frames in libraries are folded; the line that raised, the last of our own code, is marked."""
    blocks: list[tuple[bool, list[str]]] = []
    for line in text.splitlines()[:400]:
        if line.strip() and not line.strip("~^ "):
            continue  # the marks under an expression
        if line.lstrip().startswith('File "'):
            blocks.append((bool(_LIBRARY.match(line)), [line]))
        elif blocks and line.startswith("    ") and not line.startswith("Traceback"):
            blocks[-1][1].append(line)
        else:
            blocks.append((False, [line]))
    ours = [
        k
        for k, (library, lines) in enumerate(blocks)
        if not library and lines[0].lstrip().startswith('File "')
    ]
    found: list[Frame] = []
    run: list[str] = []
    count = 0
    for k, (library, lines) in enumerate(blocks):
        if library:
            run += lines
            count += 1
            continue
        if run:
            found.append(Frame(run, f"{count} frame{'s' if count > 1 else ''} in libraries, hidden"))
            run, count = [], 0
        code = lines[0].lstrip().startswith('File "')
        told = not code and k > 0 and bool(lines[0].strip()) and not lines[0].startswith(_BETWEEN)
        found.append(Frame(lines, here=bool(ours) and k == ours[-1], error=told))
    if run:
        found.append(Frame(run, f"{count} frame{'s' if count > 1 else ''} in libraries, hidden"))
    return found


_LIBRARY = re.compile(r'^\s*File ".*?(site-packages|dist-packages|lib/python\d|/celery/|/kombu/|/billiard/)')
_BETWEEN = ("Traceback", "During handling", "The above exception")
