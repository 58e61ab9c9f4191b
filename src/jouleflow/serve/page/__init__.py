"""The live page: three files, no other host, nothing inline."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

PAGE = {
    "/": ("index.html", b"text/html; charset=utf-8"),
    "/live.css": ("live.css", b"text/css; charset=utf-8"),
    "/live.js": ("live.js", b"text/javascript; charset=utf-8"),
}
PAGE_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


@cache
def page_file(path: str) -> tuple[bytes, bytes]:
    """(content type, content) of a file of the page."""
    name, kind = PAGE[path]
    return kind, (files(__name__) / name).read_bytes()


def standalone(live: dict[str, Any]) -> str:
    """The page as one file that shows one moment and needs no server."""
    html, css, script = (page_file(path)[1].decode() for path in PAGE)
    data = json.dumps(live).replace("<", "\\u003c")
    html = html.replace('<link rel="stylesheet" href="/live.css">', f"<style>{css}</style>")
    html = html.replace('<a href="/metrics">metrics</a> <a href="/v2/models/stats">statistics</a>', "")
    return html.replace(
        '<script src="/live.js"></script>',
        f'<script type="application/json" id="moment">{data}</script>\n<script>{script}</script>',
    )
