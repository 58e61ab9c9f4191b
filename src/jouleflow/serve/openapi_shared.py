"""Shared memory in the OpenAPI document, for a server that offers it: its addresses, and what requests and answers may say then."""

from __future__ import annotations

from typing import Any

from jouleflow.serve.openapi_schemas import (
    COUNT,
    DATATYPE,
    NAME,
    SCHEMAS,
    SIDES,
    TEXT,
    WANTED,
    Schema,
    listing,
    record,
)
from jouleflow.serve.shared_memory import FOLDER, MAX_NAME, OFFSET, REGION, SIZE

BYTES: Schema = {**COUNT, "maximum": (1 << 63) - 1}
REGION_NAME: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_NAME}
EXTENT: Schema = {
    "type": "object",
    "required": [REGION, SIZE],
    "properties": {REGION: REGION_NAME, SIZE: BYTES, OFFSET: BYTES, "binary_data_size": False},
}


def in_shared_memory(given: Schema) -> Schema:
    """An input's schema, or the same with its data in shared memory."""
    properties = {k: v for k, v in given["properties"].items() if k != "data"}
    required = [k for k in given["required"] if k != "data"]
    elsewhere = {**given, "required": [*required, "parameters"], "properties": {**properties, "data": False, "parameters": EXTENT}}  # fmt: skip
    return {"anyOf": [given, elsewhere]}


def wanted_in_shared_memory(wanted: Schema) -> Schema:
    """The schema of an output that is asked for, which may go to shared memory."""
    elsewhere = {
        **wanted,
        "required": ["name", "parameters"],
        "properties": {**wanted["properties"], "parameters": EXTENT},
    }
    return {"anyOf": [wanted, elsewhere]}


def _infer_request() -> Schema:
    request = SCHEMAS["InferRequest"]
    own = request["properties"]
    inputs = {**own["inputs"], "items": in_shared_memory(own["inputs"]["items"])}
    outputs = {**own["outputs"], "items": wanted_in_shared_memory(WANTED)}
    return {**request, "properties": {**own, "inputs": inputs, "outputs": outputs}}


def _infer_response() -> Schema:
    answer = SCHEMAS["InferResponse"]
    output = answer["properties"]["outputs"]["items"]
    elsewhere = record(("parameters",), name=TEXT, datatype=DATATYPE, shape=SIDES, parameters=EXTENT)
    return {**answer, "properties": {**answer["properties"], "outputs": listing({"anyOf": [output, elsewhere]})}}


def shared_schemas() -> dict[str, Schema]:
    """What takes the place of, or comes to, `SCHEMAS`."""
    return {
        "InferRequest": _infer_request(),
        "InferResponse": _infer_response(),
        "Regions": listing(record(name=NAME, key=TEXT, offset=BYTES, byte_size=BYTES)),
        "RegisterRequest": record(
            ("offset",),
            key={"type": "string", "description": f"Name of a file under {FOLDER} of the server's own user, such as /my_region."},
            offset=BYTES,
            byte_size={**BYTES, "minimum": 1},
        ),
    }  # fmt: skip


def shared_paths(errors: dict[str, Any], unknown: dict[str, Any], there: dict[str, Any]) -> dict[str, Any]:
    """The addresses. errors: answers that anything may meet; unknown, there: those of a name that is not, or is, registered."""
    region = {"name": "region", "in": "path", "required": True, "schema": REGION_NAME}
    regions = {"application/json": {"schema": {"$ref": "#/components/schemas/Regions"}}}
    register = {"application/json": {"schema": {"$ref": "#/components/schemas/RegisterRequest"}}}

    def get(summary: str, **more: Any) -> dict[str, Any]:
        answers = {"200": {"description": "The regions.", "content": regions}, **errors, **more}
        return {"get": {"summary": summary, "responses": answers}}

    def post(summary: str, **more: Any) -> dict[str, Any]:
        return {"post": {"summary": summary, "responses": {"200": {"description": "Done."}, **errors}, **more}}

    start = "/v2/systemsharedmemory"
    own = f"{start}/region/{{region}}"
    add = post("Registers a region of shared memory", requestBody={"required": True, "content": register})
    add["post"]["responses"] |= there
    return {
        f"{start}/status": get("The registered regions of shared memory"),
        f"{own}/status": {"parameters": [region], **get("A registered region", **unknown)},
        f"{own}/register": {"parameters": [region], **add},
        f"{own}/unregister": {"parameters": [region], **post("Forgets a region; one that is not there is no error")},
        f"{start}/unregister": post("Forgets all regions"),
    }
