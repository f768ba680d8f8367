"""Plots as plain SVG: ratios as dots on a logarithmic scale, and curves."""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
_FONT = 'font-family="sans-serif" font-size="12"'
_ROW_PX, _LABEL_PX, _PLOT_PX, _TOP_PX, _BOTTOM_PX = 22, 240, 520, 40, 30


def ratios(title: str, series: Sequence[str], rows: Mapping[str, Mapping[str, float]]) -> str:
    """One line for each row, one dot for each of the series; more than 1 is right of the middle line."""
    found = [ratio for row in rows.values() for ratio in row.values() if ratio > 0]
    low, high = math.floor(math.log10(min([*found, 0.5]))), math.ceil(math.log10(max([*found, 2.0])))
    height = _TOP_PX + _ROW_PX * len(rows) + _BOTTOM_PX

    def across(ratio: float) -> float:
        return _LABEL_PX + _PLOT_PX * (math.log10(ratio) - low) / (high - low)

    parts = [_legend(title, series)]
    for exponent in range(low, high + 1):
        x = across(10.0**exponent)
        colour = "#000000" if exponent == 0 else "#cccccc"
        parts.append(_line(x, _TOP_PX, x, height - _BOTTOM_PX, colour))
        parts.append(_text(x, height - 10, f"{10.0**exponent:g}", "middle"))
    for number, (label, row) in enumerate(rows.items()):
        y = _TOP_PX + _ROW_PX * (number + 0.5)
        parts.append(_text(_LABEL_PX - 8, y + 4, label, "end"))
        parts.append(_line(_LABEL_PX, y, _LABEL_PX + _PLOT_PX, y, "#eeeeee"))
        for name, ratio in row.items():
            if ratio > 0:
                colour = _colour(series, name)
                parts.append(f'<circle cx="{across(ratio):.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>')
    return _svg(_LABEL_PX + _PLOT_PX + 40, height, parts)


def curves(title: str, across: str, lines: Mapping[str, Sequence[tuple[float, float]]], unit: str) -> str:
    """One line for each series of (x, y); x on a logarithmic scale to the base 2, y from 0."""
    points = [point for line in lines.values() for point in line]
    left, right = math.log2(min(x for x, _ in points)), math.log2(max(x for x, _ in points))
    top = max(y for _, y in points) or 1.0
    low_px, high_px = _TOP_PX + 260, _TOP_PX + 10

    def place(x: float, y: float) -> tuple[float, float]:
        share = (math.log2(x) - left) / (right - left) if right > left else 0.5
        return 80 + _PLOT_PX * share, low_px + (high_px - low_px) * y / top

    parts = [_legend(title, list(lines))]
    for x in sorted({x for x, _ in points}):
        at, _ = place(x, 0)
        parts += [_line(at, low_px, at, high_px, "#eeeeee"), _text(at, low_px + 16, f"{x:g}", "middle")]
    for step in range(5):
        _, at = place(points[0][0], top * step / 4)
        parts += [
            _line(80, at, 80 + _PLOT_PX, at, "#cccccc"),
            _text(74, at + 4, f"{top * step / 4:,.4g}", "end"),
        ]
    for name, line in lines.items():
        places = [place(x, y) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        colour = _colour(list(lines), name)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
    parts.append(_text(80 + _PLOT_PX / 2, low_px + 34, f"{across} (vertical: {unit})", "middle"))
    return _svg(_PLOT_PX + 120, low_px + 44, parts)


def _colour(series: Sequence[str], name: str) -> str:
    return COLOURS[series.index(name) % len(COLOURS)]


def _legend(title: str, series: Sequence[str]) -> str:
    parts, x = [_text(10, 20, title, "start")], 10.0 + 7.5 * (len(title) + 2)
    for name in series:
        parts.append(f'<circle cx="{x:.1f}" cy="16" r="5" fill="{_colour(series, name)}"/>')
        parts.append(_text(x + 10, 20, name, "start"))
        x += 7.5 * len(name) + 34
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {_FONT}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _svg(width: float, height: float, parts: Iterable[str]) -> str:
    box = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    body = "\n".join(parts)
    background = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>\n{background}\n{body}\n</svg>\n'
