"""A picture inside Markdown: an SVG as a data URL, which both of Prefect's web UIs show."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from html import escape

BACKGROUND = "#ffffff"  # of its own, because one UI is dark and the other light
INK = "#1f2937"
FAINT = "#d1d5db"


def text(
    x: float, y: float, words: str, *, anchor: str = "start", size: int = 12, colour: str = INK
) -> str:
    """Words whose baseline is at `y`; `anchor` is start, middle or end."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
        f'fill="{colour}">{escape(words)}</text>'
    )


def bar(x: float, y: float, width: float, height: float, colour: str, title: str = "") -> str:
    """A rectangle; its title shows where a pointer rests on it."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" '
        f'fill="{colour}"><title>{escape(title)}</title></rect>'
    )


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    """A faint line, such as one of a grid."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{FAINT}"/>'


def picture(width: float, height: float, parts: Iterable[str], what: str) -> str:
    """The Markdown of a picture; `what` it shows is for those who cannot see it."""
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="{BACKGROUND}"/>{"".join(parts)}</svg>'
    )
    data = b64encode(svg.encode()).decode()
    return f"![{what.replace(']', ')')}](data:image/svg+xml;base64,{data})"
