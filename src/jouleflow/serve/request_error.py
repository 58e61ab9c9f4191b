"""What a request is refused with, whoever reads it."""

from __future__ import annotations


class RequestError(Exception):
    """What is wrong with a request, for its sender. status: of HTTP. retry_s: when to ask again; 0 when that would be of no use."""

    def __init__(self, status: int, message: str, retry_s: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.retry_s = status, retry_s


class NotOffered(RequestError):
    """Part of the protocol that this server could offer, and was not told to."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message)
