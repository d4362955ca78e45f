"""The pages for people, and what they are made of."""

from __future__ import annotations

from collections.abc import Iterator

from dragon.server.openapi.parts import Call, answer, content, operation


def calls() -> Iterator[Call]:
    page = answer("The page.", content({"type": "string"}, "text/html"), ["ETag"])
    for path, summary, text in (
        ("/", "The sample page", "A stream of tasks and a picture, live."),
        ("/docs", "The reference", "This description, for people."),
        ("/dashboard", "The dashboard", "Queues, workers, tasks and failures, live. What it shows needs a secret key."),
    ):
        yield (path,), "get", operation("pages", summary, text, {"200": page, "304": "NotModified"})
    yield (
        ("/static/{name}",),
        "get",
        operation(
            "pages",
            "What the pages are made of",
            "Styles, scripts, and the sample picture.",
            {
                "200": answer("The file.", {"*/*": {}}, ["ETag", "Cache-Control"]),
                "304": "NotModified",
                "404": "NoSuchFile",
            },
            "curl -o sample.jpg $ADDRESS/static/sample.jpg",
        ),
    )
    yield (
        ("/dashboard/{name}",),
        "get",
        operation(
            "pages",
            "What the dashboard is made of",
            "Its styles and scripts.",
            {
                "200": answer("The file.", {"*/*": {}}, ["ETag", "Cache-Control"]),
                "304": "NotModified",
                "404": "NoSuchFile",
            },
            "curl $ADDRESS/dashboard/app.js",
        ),
    )
