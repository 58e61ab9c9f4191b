"""The protocol's messages, made from the compiled description beside the .proto, in a pool of their own.

`python -m grpc_tools.protoc -I. --descriptor_set_out=grpc_service.bin grpc_service.proto` makes it anew.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"


@cache
def _pool() -> Any:
    pool = descriptor_pool.DescriptorPool()
    described = descriptor_pb2.FileDescriptorSet.FromString((files(__name__) / "grpc_service.bin").read_bytes())
    for file in described.file:
        pool.Add(file)
    return pool


@cache
def message(name: str) -> Any:
    """The class of a message of the protocol, such as "ModelInferRequest"."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"inference.{name}"))


def methods() -> list[tuple[str, Any, Any]]:
    """(name, request, response) of each call of the service."""
    service = _pool().FindServiceByName(SERVICE)
    return [(m.name, message(m.input_type.name), message(m.output_type.name)) for m in service.methods]
