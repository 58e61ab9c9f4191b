"""What the server takes at most: every one a number that an operator may change."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Of HTTP and gRPC alike. max_waiting_bytes: of requests that wait in the queues of one model."""

    max_body_bytes: int = 64 << 20
    max_header_bytes: int = 16 << 10
    max_target_bytes: int = 4 << 10
    max_connections: int = 1024
    max_pipelined: int = 16
    max_streams: int = 256  # of one gRPC connection
    max_waiting_bytes: int = 256 << 20
    header_s: float = 10.0  # from the first byte of a request to the end of its headers
    body_s: float = 60.0  # from there to the end of its body
    idle_s: float = 75.0  # between requests
    drain_s: float = 30.0  # for what was accepted, when the server is told to stop
