"""What requests for model control may say, in Triton's words. What is not taken from a request is refused, not ignored."""

from __future__ import annotations

from typing import Any

from jouleflow.serve.fields import as_flag, as_object, parse_object
from jouleflow.serve.request_error import RequestError


def ready_only(body: memoryview) -> bool:
    """Whether an index is asked of the models that answer only.

    Raises RequestError.
    """
    return as_flag(_asked(body).get("ready", False), "ready")


def check_load(body: memoryview) -> None:
    """Raises RequestError when a request to load brings a configuration or files of its own."""
    check_load_parameters(as_object(_asked(body).get("parameters", {}), "parameters"))


def check_load_parameters(given: dict[str, Any]) -> None:
    """As `check_load`, of the parameters alone."""
    if given:
        raise RequestError(
            400, f"parameters {sorted(given)[:8]}: nothing of it is taken from a request, put it into the repository"
        )


def check_unload(body: memoryview) -> None:
    """Raises RequestError when a request to unload says more than unload_dependents, of which there are none."""
    check_unload_parameters(as_object(_asked(body).get("parameters", {}), "parameters"))


def check_unload_parameters(given: dict[str, Any]) -> None:
    """As `check_unload`, of the parameters alone."""
    if unknown := sorted(given.keys() - {"unload_dependents"}):
        raise RequestError(400, f"parameters {unknown[:8]}: only unload_dependents is known")
    as_flag(given.get("unload_dependents", False), "parameters.unload_dependents")


def _asked(body: memoryview) -> dict[str, Any]:
    return parse_object(bytes(body)) if len(body) else {}
