"""The bench's figures as one SVG: a panel for each table, bars for medians, whiskers from the lowest to the highest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from bench.measuring import Row, Table

WIDTH, LEFT, RIGHT = 900, 270, 130  # pixels; names stand left of the bars, figures right of them
ROW, BAR, HEAD, GAP = 22, 12, 34, 26
LOG_FROM = 12.0  # the longest bar over dragon's, from where a linear scale would hide what there is to compare

STYLE = """
svg { --page: #fff; --text: #1c2024; --quiet: #5c656e; --rule: #d8dde2;
      --dragon: #c2410c; --peer: #3b6ea8; --yardstick: #8a949e; font: 13px system-ui, sans-serif }
@media (prefers-color-scheme: dark) {
  svg { --page: #14171a; --text: #e6e9ec; --quiet: #9aa4ae; --rule: #343b42;
        --dragon: #f9803d; --peer: #6ea6e0; --yardstick: #7b858f }
}
.page { fill: var(--page) } text { fill: var(--text) } .quiet { fill: var(--quiet) } .head { font-weight: 600 }
.dragon { fill: var(--dragon) } .peer { fill: var(--peer) } .yardstick { fill: var(--yardstick) }
.rule { stroke: var(--rule) } .whisker { stroke: var(--text); stroke-width: 1.5 }
text.dragon { font-weight: 600 }
"""


def number(value: float) -> str:
    """Three digits at least, thousands with commas."""
    return f"{value:,.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}"


def plot(tables: Sequence[Table], facts: Mapping[str, str], rounds: int) -> str:
    """The whole picture."""
    parts, y = [legend()], 66
    for table in tables:
        drawn, height = panel(table, y)
        parts.append(drawn)
        y += height + GAP
    about = ", ".join(f"{name} {value}" for name, value in facts.items())
    caption = f"bars are medians of {rounds} rounds, whiskers go from the lowest to the highest"
    size = f'width="{WIDTH}" height="{y + 8}"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 8}" {size}
 role="img" aria-labelledby="title description">
<title id="title">Dragon beside its peers and yardsticks</title>
<desc id="description">{escape(". ".join(spoken(table) for table in tables))}</desc>
<style>{STYLE}</style>
<rect class="page" {size}/>
{text(16, 26, "Dragon beside its peers and yardsticks", "head")}
{text(16, 46, caption, "quiet")}
{"".join(parts)}{text(16, y - 4, about, "quiet")}
</svg>
"""


def legend() -> str:
    """The three colours, top right."""
    parts = []
    for at, role in zip((610, 700, 780), ("dragon", "peer", "yardstick"), strict=True):
        parts.append(f'<rect class="{role}" x="{at}" y="16" width="{BAR}" height="{BAR}"/>')
        parts.append(text(at + 18, 26, role))
    return "".join(parts) + "\n"


def panel(table: Table, top: int) -> tuple[str, int]:
    """One table and its height."""
    scale, kind = scale_of(table)
    better = "more" if table.more_is_better else "less"
    parts = [
        f'<line class="rule" x1="16" x2="{WIDTH - 16}" y1="{top}" y2="{top}"/>',
        text(16, top + 22, f"{table.part}: {table.title}", "head"),
        text(WIDTH - 16, top + 22, f"{table.unit}, {better} is better{kind}", "quiet", "end"),
    ]
    y = top + HEAD
    for row in table.rows:
        parts.append(bar(row, y, scale))
        y += ROW
    for goal in table.goals:
        verdict = "✓" if goal.holds else "✗ missed:"
        bound = "at least" if goal.at_least else "at most"
        parts.append(text(LEFT, y + 14, f"{verdict} {number(goal.found)} {goal.text} (goal: {bound} {goal.limit:g})"))
        y += ROW
    return "\n".join(parts) + "\n", y - top


def bar(row: Row, y: int, scale: Callable[[float], float]) -> str:
    """A row: name, bar, whisker, median; the note is its tooltip."""
    middle, end = y + ROW / 2, scale(row.median)
    low, high = scale(min(row.values)), scale(max(row.values))
    emphasis = "dragon" if row.role == "dragon" else ""
    parts = [
        f"<g><title>{escape(f'{row.name}: {number(row.median)}. {row.note}')}</title>",
        text(LEFT - 10, middle + 4, row.name, emphasis, "end"),
        f'<rect class="{row.role}" x="{LEFT}" y="{middle - BAR / 2}" width="{end - LEFT:.1f}" height="{BAR}"/>',
    ]
    if high - low > 1:
        parts.append(f'<path class="whisker" d="M{low:.1f} {middle - 4}v8m0-4H{high:.1f}m0-4v8" fill="none"/>')
    parts.append(text(max(end, high) + 8, middle + 4, number(row.median), emphasis))
    return "".join(parts) + "</g>"


def scale_of(table: Table) -> tuple[Callable[[float], float], str]:
    """From a value to its place, and what to say of the scale."""
    highest = max(max(row.values) for row in table.rows) or 1
    lowest = min(min(row.values) for row in table.rows)
    shortest = min((row.median for row in table.rows if row.role == "dragon"), default=highest)
    room = WIDTH - LEFT - RIGHT
    if lowest <= 0 or highest < LOG_FROM * shortest:
        return lambda value: LEFT + room * max(value, 0) / highest, ""
    start = math.floor(math.log10(lowest) - 0.2)  # the shortest bar is still one
    span = math.log10(highest) - start
    return lambda value: LEFT + room * (math.log10(value) - start) / span, ", logarithmic"


def spoken(table: Table) -> str:
    """A panel in words."""
    rows = ", ".join(f"{row.name} {number(row.median)}" for row in table.rows)
    return f"{table.part}, {table.title}, {table.unit}: {rows}"


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{name} text-anchor="{anchor}">{escape(words)}</text>'
