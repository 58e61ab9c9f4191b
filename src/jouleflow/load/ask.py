"""One question to a server, outside the load itself."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Any

import orjson

from jouleflow.errors import InputError

MAX_ANSWER_BYTES = 16 << 20


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer like any: the token is for this server only."""

    def redirect_request(self, *_: Any) -> None:
        return None


def ask(url: str, token: str, optional: bool = False, body: bytes | None = None) -> Any:
    """The JSON at an address, None for an empty answer. optional: None too when the server has nothing there. body: to be posted.

    Raises InputError.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=10) as answer:
            raw = answer.read(MAX_ANSWER_BYTES)
            return orjson.loads(raw) if raw else None
    except urllib.error.HTTPError as error:
        if optional and error.code in (400, 404, 405, 501):
            return None
        raise InputError(f"{url}: {error.code} {error.read(500).decode(errors='replace')}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{url} does not answer ({error}): is the server there?") from error
