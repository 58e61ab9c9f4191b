"""Who may ask: loopback by default; elsewhere only with a token. Host and Origin are checked on every request."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from jouleflow.errors import InputError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
MAX_KNOWN = 64


@dataclass(frozen=True, slots=True)
class Access:
    """hosts: names under which the server may be addressed. token: what `Authorization: Bearer` must carry; empty: none."""

    hosts: frozenset[str]
    token: str = ""

    def refusal(self, host: str, origin: str, authorization: str) -> tuple[int, str] | None:
        """(status of HTTP, why) when a request may not be answered; None when it may."""
        if _name(host) not in self.hosts:
            return 403, "this Host is not served here; see --allow-host"
        if origin and _name(origin.partition("://")[2]) not in self.hosts:
            return 403, "requests from this Origin are not answered; see --allow-host"
        if self.token and not hmac.compare_digest(authorization.encode(), f"Bearer {self.token}".encode()):
            return 401, "a token is needed: Authorization: Bearer ..."
        return None


class Gate:
    """What Access said of a request's headers, remembered: senders repeat themselves."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._known: dict[tuple[bytes, bytes, bytes], tuple[int, str] | None] = {}

    def refusal(self, headers: Mapping[bytes, bytes]) -> tuple[int, str] | None:
        """As `Access.refusal`."""
        get = headers.get
        sender = (get(b"host", b""), get(b"origin", b""), get(b"authorization", b""))
        if sender in self._known:
            return self._known[sender]
        refused = self.access.refusal(*(part.decode("latin-1") for part in sender))
        if len(self._known) < MAX_KNOWN:
            self._known[sender] = refused
        return refused


def _name(host: str) -> str:
    """Without the port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()


def make_access(bind: str, allow_hosts: tuple[str, ...], token: str, insecure: bool) -> Access:
    """Who may use a listener at an address.

    Raises InputError for an address beyond this machine without a token, unless told that this is meant.
    """
    if not ipaddress.ip_address(bind).is_loopback and not token and not insecure:
        raise InputError(
            f"{bind} can be reached from other machines: set JOULEFLOW_TOKEN, or say --insecure if anyone may use it"
        )
    names = {*LOOPBACK_NAMES, bind, *(h.lower() for h in allow_hosts)}
    return Access(frozenset(names), token)


def check_loopback(address: str, flag: str) -> None:
    """Raises InputError for an address that other machines can reach. flag: what must not be offered there."""
    host, _ = parse_address(address)
    if not ipaddress.ip_address(host).is_loopback:
        raise InputError(f"{flag} is for clients on this machine: listen on 127.0.0.1 instead of {host}")


def parse_address(text: str) -> tuple[str, int]:
    """Address and port of "127.0.0.1:8000".

    Raises InputError.
    """
    host, _, port = text.rpartition(":")
    try:
        bare = str(ipaddress.ip_address(host.strip("[]") or "127.0.0.1"))
        number = int(port)
    except ValueError as error:
        raise InputError(f"{text!r} must be ADDRESS:PORT, such as 127.0.0.1:8000") from error
    if not 0 <= number <= 65535:
        raise InputError(f"port {number} must be 0 to 65535")
    return bare, number
