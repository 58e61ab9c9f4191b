"""What the server takes at most: every one a number that an operator may change."""

from __future__ import annotations

from dataclasses import dataclass

from jouleflow.runtime.memory_limit import SHARE_FRAC


@dataclass(frozen=True, slots=True)
class Limits:
    """Of HTTP and gRPC alike. max_waiting_bytes: of requests that wait in the queues of one model; max_arriving_bytes: of large
    bodies that are being received, over all connections of a listener; max_region_bytes: of all registered regions of shared memory.

    Only gRPC's core knows how long a message will be, so that one that takes a while counts as max_body_bytes of those that arrive. What
    its core holds of messages that come quickly is bounded by max_calls times max_body_bytes alone."""

    max_body_bytes: int = 64 << 20
    max_header_bytes: int = 16 << 10
    max_target_bytes: int = 4 << 10
    max_connections: int = 1024
    max_pipelined: int = 16
    max_streams: int = 256  # of one gRPC connection
    max_calls: int = 1024  # of gRPC at once, over all connections
    least_ping_s: float = 5.0  # between pings of a gRPC client; one that does not keep to it is cut off
    max_waiting_bytes: int = 256 << 20
    max_arriving_bytes: int = 1 << 30
    max_regions: int = 128
    max_region_bytes: int = 1 << 30
    model_memory_frac: float = (
        SHARE_FRAC  # of the machine's, for a model's process whose jouleflow.toml has no memory_mb
    )
    header_s: float = 10.0  # from the first byte of a request to the end of its headers
    body_s: float = 60.0  # from there to the end of its body
    send_s: float = 30.0  # that a client may leave an answer unread
    idle_s: float = 75.0  # between requests
    run_s: float = 120.0  # of one batch; a model that takes longer is ended and started again
    drain_s: float = 30.0  # for what was accepted, when the server is told to stop
