"""What to write into nginx and Caddy against each fault of a proxy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Lines(NamedTuple):
    """The lines against one fault: of nginx in the `location` of dragon, of Caddy in its `reverse_proxy`.

    What begins with # is said, not pasted: something has to go, or stands elsewhere.
    """

    nginx: tuple[str, ...]
    caddy: tuple[str, ...]


LINES: dict[str, Lines] = {
    "buffers": Lines(
        (
            "proxy_buffering off;",
            "proxy_cache off;",
            "# and take out: proxy_ignore_headers X-Accel-Buffering;",
        ),
        ("flush_interval -1",),
    ),
    "compresses": Lines(
        ("gzip off;", "# or leave application/x-ndjson and text/event-stream out of gzip_types"),
        ("# take /v1/* out of encode: `encode @pages gzip`, and before it `@pages not path /v1/*`",),
    ),
    "idle": Lines(
        ("proxy_read_timeout 1h;", "proxy_send_timeout 1h;", "send_timeout 1h;"),
        ("# take out read_timeout and write_timeout, in transport http and in servers { timeouts { ... } }",),
    ),
    "authorization": Lines(
        (
            "proxy_set_header Authorization $http_authorization;",
            '# and take out: proxy_set_header Authorization "";',
        ),
        ("header_up Authorization {http.request.header.Authorization}", "# and take out: header_up -Authorization"),
    ),
    "origin": Lines(
        ("proxy_set_header Origin $http_origin;", '# and take out: proxy_set_header Origin "";'),
        ("header_up Origin {http.request.header.Origin}", "# and take out: header_up -Origin"),
    ),
    "referer": Lines(
        ("proxy_set_header Referer $http_referer;", '# and take out: proxy_set_header Referer "";'),
        ("header_up Referer {http.request.header.Referer}", "# and take out: header_up -Referer"),
    ),
    "cors": Lines(
        (
            "proxy_pass_header Access-Control-Allow-Origin;",
            "# and take out: proxy_hide_header and add_header of Access-Control-*; dragon sends them itself",
        ),
        ("# take out header and header_down of Access-Control-*: dragon sends them itself",),
    ),
    "preflight": Lines(
        ("# take out limit_except, and if ($request_method = OPTIONS): dragon answers them itself",),
        ("# take out what answers @options or method OPTIONS: dragon answers them itself",),
    ),
    "body": Lines(
        ("client_max_body_size 2m;",),
        ("# take out, or raise: request_body { max_size 2MB }",),
    ),
    "http10": Lines(
        ("proxy_http_version 1.1;", 'proxy_set_header Connection "";'),
        ("transport http {", "    versions 1.1", "}"),
    ),
    "head": Lines(
        ("# take out limit_except and rules on $request_method that leave HEAD out",),
        ("# take out matchers on method that leave HEAD out",),
    ),
    "range": Lines(
        (
            "proxy_set_header Range $http_range;",
            "proxy_set_header If-Range $http_if_range;",
            "# and take out: max_ranges 0;",
        ),
        ("header_up Range {http.request.header.Range}", "# and take out: header_up -Range"),
    ),
}


def lines_against(faults: Iterable[str]) -> Iterator[str]:
    """The lines for both proxies, once each, in the order of the table; nothing when there is no fault."""
    present = set(faults)
    found = [lines for fault, lines in LINES.items() if fault in present]
    if not found:
        return
    yield "nginx, in the location of dragon:"
    yield from (f"    {line}" for lines in found for line in lines.nginx)
    yield "Caddy, in the reverse_proxy of dragon:"
    yield from (f"    {line}" for lines in found for line in lines.caddy)
