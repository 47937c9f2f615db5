"""Draws a workflow's graph, as Mermaid text and as an SVG. Names may be any text and are escaped."""

from collections.abc import Iterable, Sequence

Edges = Sequence[tuple[str, Iterable[str]]]
"""Each task's name with the names that it depends on."""

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 148, 34, 56, 18, 12
_LONGEST = 20


def mermaid(edges: Edges) -> str:
    """Return a Mermaid flowchart. Its nodes are numbered, since a name may be any text."""
    ids = {name: f"t{index}" for index, (name, _) in enumerate(edges)}
    lines = ["flowchart LR"]
    lines += [f'    {ids[name]}["{_mermaid_text(name)}"]' for name, _ in edges]
    lines += [f"    {ids[above]} --> {ids[name]}" for name, dependencies in edges for above in dependencies]
    return "\n".join(lines) + "\n"


def svg(title: str, levels: Sequence[Sequence[str]], edges: Edges) -> str:
    """Return an SVG with one column for each level."""
    place = {
        name: (_MARGIN + column * (_WIDTH + _GAP_X), _MARGIN + row * (_HEIGHT + _GAP_Y))
        for column, level in enumerate(levels)
        for row, name in enumerate(level)
    }
    width = 2 * _MARGIN + len(levels) * (_WIDTH + _GAP_X) - _GAP_X
    height = 2 * _MARGIN + max((len(level) for level in levels), default=1) * (_HEIGHT + _GAP_Y) - _GAP_Y
    lines = [_line(place[above], place[name]) for name, dependencies in edges for above in dependencies]
    boxes = [_box(name, *place[name]) for name, _ in edges]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img" '
        f'font-family="sans-serif" font-size="12"><title>{_xml_text(title)}</title>'
        f"{''.join(lines)}{''.join(boxes)}</svg>"
    )


def _line(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1, x2, y2 = start[0] + _WIDTH, start[1] + _HEIGHT // 2, end[0], end[1] + _HEIGHT // 2
    bend = (x2 - x1) // 2
    path = f"M{x1} {y1} C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"
    return f'<path d="{path}" fill="none" stroke="#888"/>'


def _box(name: str, x: int, y: int) -> str:
    short = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
    return (
        f'<g><title>{_xml_text(name)}</title><rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" '
        f'fill="#eef3fb" stroke="#4a6fa5"/><text x="{x + _WIDTH // 2}" y="{y + _HEIGHT // 2 + 4}" '
        f'text-anchor="middle" fill="#1b2a41">{_xml_text(short)}</text></g>'
    )


def _xml_text(text: str) -> str:
    """Escape text for XML, which cannot contain control characters."""
    from html import escape  # noqa: PLC0415 - its tables are large, and few workflows are drawn

    return escape("".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text))


def _mermaid_text(text: str) -> str:
    """Escape text for a quoted Mermaid label, by numeric entities."""
    return "".join(char if char.isalnum() or char in " _-./" else f"#{ord(char)};" for char in text)
