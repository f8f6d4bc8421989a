"""The line-art umbel: drawn once, for sign-in, errors and empty places."""

from __future__ import annotations

import math
import random
from functools import lru_cache
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

# The umbels: large on the sign-in page, wilted on errors, medium and small in empty places.
ARTS: dict[str, dict[str, Any]] = {
    "large": {
        "w": 740,
        "h": 640,
        "rays": 17,
        "seed": 21,
        "sub": 11,
        "spread": 158,
        "inner": 11,
        "flat": 0.86,
    },
    "wilted": {
        **{"w": 740, "h": 640, "rays": 11, "seed": 5, "look": "art wilt", "sub": 6, "spread": 150},
        **{"lean": 26, "flat": 0.9, "drop": 9},
    },
    "medium": {"w": 520, "h": 330, "rays": 13, "seed": 9, "sub": 9, "spread": 150, "stem": 0.34, "inner": 6},
    "small": {
        "w": 200,
        "h": 128,
        "rays": 9,
        "seed": 3,
        "look": "art art-s",
        "sub": 6,
        "spread": 150,
        "stem": 0.34,
    },
}


@lru_cache
def art(kind: str) -> SafeString:
    """The line-art umbel of that kind; the same every time."""
    return _umbel(**ARTS[kind])


def _umbel(
    *,
    w: int,
    h: int,
    rays: int,
    seed: int,
    sub: int,
    spread: float,
    look: str = "art",
    stem: float = 0.42,
    lean: float = 0,
    flat: float = 0.78,
    inner: int = 0,
    drop: int = 0,
) -> SafeString:
    """A compound umbel: rays from one node, each ending in its own small umbel. ``drop`` is fallen seeds."""
    dice = random.Random(seed)  # noqa: S311 (a drawing, the same each time)
    tilt = math.sin(math.radians(lean))
    cx, y0 = w * (0.5 - abs(lean) * 0.0045), h * (1 - stem)
    reach = min(w * (0.44 - abs(lean) * 0.0022), h * (1 - stem) * 0.86)
    x0 = cx + tilt * h * stem * 0.34
    front: list[tuple[str]] = []
    back: list[tuple[str]] = []
    seeds: list[tuple[float, float, float, float]] = []

    def ray(angle: float, length: float, into: list[tuple[str]], scale: float = 1.0) -> None:
        a = math.radians(angle + lean)
        x, y = x0 + math.cos(a) * length, y0 + math.sin(a) * length * flat
        bx, by = x0 + math.cos(a) * length * 0.3, y0 + math.sin(a) * length * flat * 0.66
        into.append((f"M{x0:.1f} {y0:.1f}Q{bx:.1f} {by:.1f} {x:.1f} {y:.1f}",))
        way = math.atan2(y - by, x - bx)
        for j in range(sub):
            off = j / (sub - 1) - 0.5
            b = way + math.radians(off * 176) + dice.uniform(-0.07, 0.07)
            short = reach * 0.175 * scale * (1 - 0.4 * abs(off)) * dice.uniform(0.86, 1.08)
            tx, ty = x + math.cos(b) * short, y + math.sin(b) * short * 0.92
            into.append((f"M{x:.1f} {y:.1f}L{tx:.1f} {ty:.1f}",))
            seeds.append((tx, ty, dice.random(), scale))

    for k in range(inner):
        turn = -90 + (k / (inner - 1) - 0.5) * spread * 0.82 + dice.uniform(-3, 3)
        ray(turn, reach * dice.uniform(0.56, 0.72), back, 0.82)
    for k in range(rays):
        off = k / (rays - 1) - 0.5
        ray(
            -90 + off * spread + dice.uniform(-2, 2),
            reach * (1 - 0.1 * abs(off) + dice.uniform(-0.035, 0.035)),
            front,
        )
    for _ in range(drop):
        seeds.append(
            (cx + dice.uniform(-0.34, 0.34) * w, h - dice.uniform(0.03, 0.3) * h * stem, dice.random(), 0.9)
        )
    bend = f"{cx} {h - (h - y0) * 0.45:.1f} {x0 - tilt * reach * 0.3:.1f} {y0 + (h - y0) * 0.4:.1f}"
    dots = (
        (
            "sd-a" if v < 0.72 else "sd-b" if v < 0.9 else "sd-c",
            *(f"{x:.1f}", f"{y:.1f}", f"{max(1.6, (2.3 + v * 1.3) * reach / 230 * scale):.1f}"),
        )
        for x, y, v, scale in seeds
    )
    return format_html(
        '<svg class="{}" viewBox="0 0 {} {}" aria-hidden="true"><g class="stalk back">{}</g>'
        '<g class="stalk"><path class="stem" d="M{} {}C{} {} {}"/>{}</g>{}</svg>',
        look,
        w,
        h,
        format_html_join("", '<path d="{}"/>', back),
        cx,
        h,
        bend,
        f"{x0:.1f}",
        f"{y0:.1f}",
        format_html_join("", '<path d="{}"/>', front),
        format_html_join("", '<circle class="{}" cx="{}" cy="{}" r="{}"/>', dots),
    )
