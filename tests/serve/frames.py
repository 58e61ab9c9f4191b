"""HTTP/2 by hand, for what no gRPC client does."""

from __future__ import annotations

import struct

from jouleflow.serve.proto import SERVICE

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, WINDOW_UPDATE = 0, 1, 4, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW = 4  # a setting


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def begun(stream: int, n_bytes: int) -> bytes:
    """A call whose message of so many bytes begins and does not go on."""
    return _head(stream) + frame(DATA, 0, stream, b"\0" + struct.pack(">I", n_bytes) + b"\x0a\x06double")


def asked(stream: int, raw: bytes) -> bytes:
    """A call with the whole of a small message."""
    return _head(stream) + frame(DATA, END_STREAM, stream, b"\0" + struct.pack(">I", len(raw)) + raw)


def _head(stream: int) -> bytes:
    sent = {":method": "POST", ":scheme": "http", ":path": f"/{SERVICE}/ModelInfer", ":authority": "localhost", "te": "trailers", "content-type": "application/grpc"}  # fmt: skip
    block = b"".join(b"\0" + bytes([len(k)]) + k.encode() + bytes([len(v)]) + v.encode() for k, v in sent.items())
    return frame(HEADERS, END_HEADERS, stream, block)
