"""The addresses of system shared memory over HTTP, as Triton has them."""

from __future__ import annotations

import re
from typing import Any

from jouleflow.serve.fields import parse_object
from jouleflow.serve.request_error import RequestError
from jouleflow.serve.shared_memory import ClientRegions

REGIONS = re.compile(r"/v2/systemsharedmemory(?:/region/([^/]+))?/(status|unregister)|/v2/systemsharedmemory/region/([^/]+)/register")  # fmt: skip


def is_read(found: re.Match[str]) -> bool:
    """Whether an address that REGIONS matched is read, and not posted to."""
    return found[2] == "status"


def carry_out(regions: ClientRegions, found: re.Match[str], body: memoryview) -> Any:
    """Does what an address that REGIONS matched stands for; the regions to answer with, None when there is nothing to say.

    Raises RequestError.
    """
    if is_read(found):
        return regions.status(found[1] or "")
    if found[2] == "unregister":
        regions.unregister(found[1] or "")
        return None
    asked = parse_object(bytes(body))
    for name in ("key", "byte_size"):
        if name not in asked:
            raise RequestError(400, f"{name} is missing")
    regions.register(found[3], asked["key"], asked.get("offset", 0), asked["byte_size"])
    return None
