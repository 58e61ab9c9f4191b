"""What a request is refused with, whoever reads it."""

from __future__ import annotations


class RequestError(Exception):
    """What is wrong with a request, for its sender. status: of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NotOffered(RequestError):
    """Part of the protocol that this server could offer, and was not told to."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message)
