"""Joining a Ray cluster, or starting one on this machine. What is done on it is not for here."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from typing import Any

from jouleflow.errors import InputError

CONNECT_S = 5.0
NICENESS = "RAY_worker_niceness"  # 15 where nothing is set: whatever else runs on the machine goes first


def join(address: str, option: str) -> Any:
    """The module `ray`, connected; whoever joins says `ray.shutdown()` in the end.

    address: of a cluster; "auto" is the one that runs on this machine, "local" starts one. option: what the user gave, for errors.
    What can reach a cluster's ports can run code on it, and some of Ray's are open on every interface whatever it is told: one that is
    started here has no dashboard and wants Ray's token.
    Raises InputError when Ray or the cluster is not there.
    """
    if address == "local":
        _lock()
    try:
        import ray
    except ImportError as error:
        raise InputError("a cluster needs Ray: pip install 'jouleflow[cluster]'") from error
    try:
        if address == "local":
            ray.init(
                address=address, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False,
                configure_logging=False,
            )  # fmt: skip
            return ray
        if address != "auto" and "://" not in address:  # Ray itself waits for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), CONNECT_S).close()
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, OSError, ValueError, OverflowError, RuntimeError) as error:
        raise InputError(
            f"{option} {address}: no Ray cluster there ({error}); start one with `ray start --head`, or say local"
        ) from error
    return ray


def _lock() -> None:
    """Settings of a cluster of our own: nothing is reported home, a token that nobody else knows, and processes that do not give way to
    all others, as Ray's do. Ray reads them when it is imported; what the user has set stands."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(NICENESS, "0")
    if "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
