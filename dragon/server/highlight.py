"""Source text as HTML, with its strings, comments and words marked for the eye."""

from __future__ import annotations

import html
import re

_STRING = r"""'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`"""
_NUMBER = r"(?<![\w.])\d+(?:\.\d+)?\b"

#: For each language what is marked, by the letter of its class; the first that fits wins.
_LANGUAGES = {
    "shell": {
        "c": r"(?:(?<=\s)|^)\#[^\n]*",
        "s": r"""'[^']*'|"(?:\\.|[^"\\])*\"""",
        "k": r"\b(?:curl|grep)\b|(?<=\s)-{1,2}[A-Za-z][\w-]*",
    },
    "javascript": {
        "c": r"//[^\n]*",
        "s": _STRING,
        "k": r"\b(?:import|from|const|let|new|await|for|of|async|function|return|if|else|try|catch|throw)\b",
        "n": _NUMBER,
    },
    "python": {
        "c": r"\#[^\n]*",
        "s": f"f?(?:{_STRING})",
        "k": r"\b(?:import|from|for|in|with|as|def|return|if|else|try|except|raise|async|await|True|False|None)\b",
        "n": _NUMBER,
    },
    "json": {
        "k": r'"(?:\\.|[^"\\])*"(?=\s*:)',
        "s": r'"(?:\\.|[^"\\])*"',
        "n": r"-?(?<![\w.])\d+(?:\.\d+)?\b|\b(?:true|false|null)\b",
    },
}
_TOKENS = {
    name: re.compile("|".join(f"(?P<{letter}>{pattern})" for letter, pattern in kinds.items()))
    for name, kinds in _LANGUAGES.items()
}


def highlight(source: str, language: str) -> str:
    """Escaped HTML whose text is exactly `source`; a language that is not known is only escaped."""
    if language not in _TOKENS:
        return html.escape(source)
    parts, at = [], 0
    for found in _TOKENS[language].finditer(source):
        parts += [html.escape(source[at : found.start()]), f"<i class='{found.lastgroup}'>{html.escape(found[0])}</i>"]
        at = found.end()
    return "".join([*parts, html.escape(source[at:])])
