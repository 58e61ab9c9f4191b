"""The OpenAPI document of a listener: every address, status and body of the HTTP face, with the models that are in service now, so
that a client's generator, or a person, sees what each of them takes.
"""

from __future__ import annotations

from typing import Any

import orjson

from jouleflow import __version__
from jouleflow.serve.limits import Limits
from jouleflow.serve.metrics import CONTENT_TYPE
from jouleflow.serve.oip import MAX_HEADER_BYTES
from jouleflow.serve.openapi_schemas import SCHEMAS, Schema, binary_header, infer_examples, infer_request, ref
from jouleflow.serve.openapi_shared import in_shared_memory, shared_paths, shared_schemas, wanted_in_shared_memory
from jouleflow.serve.page import PAGE
from jouleflow.serve.repository import NAME
from jouleflow.serve.server import Server

ERRORS = {
    "400": "The request cannot be understood; the text names the field and what was expected.",
    "401": "The listener has a token, and the request does not carry it.",
    "403": "This Host or Origin is not answered here.",
    "404": "There is no such model or version in service.",
    "408": "The request took too long to arrive.",
    "409": "A region of that name is registered already.",
    "413": "The body is too large, as sent or decompressed.",
    "414": "The target is too long.",
    "415": "Content-Encoding is neither gzip, deflate nor identity.",
    "429": "The queue of the model is full.",
    "431": "The headers are too large.",
    "500": "The model failed on this input.",
    "503": "Not now: it could not be answered in time, the model is being started again, or the server is full or stopping.",
    "504": "The deadline passed while the request waited.",
}
ALWAYS = ("400", "401", "403", "408", "413", "414", "415", "431", "503")
INFER = (*ALWAYS, "404", "429", "500", "504")
JSON_LENGTH = "Inference-Header-Content-Length"
MODEL_READS = {  # what is read of a model: the schema, and of what status it is besides 200
    "": ("ModelMetadata", ""),
    "/ready": ("ModelReady", "503"),
    "/stats": ("Statistics", ""),
    "/config": ("ModelConfig", ""),
}


def document(server: Server, admin: bool, needs_token: bool) -> dict[str, Any]:
    """The document of a listener. admin: whether it may load and unload models; needs_token: whether it wants one."""
    limits = server.settings.limits
    paths: dict[str, Any] = {
        "/v2": _get("Name, version and extensions of the server", "ServerMetadata"),
        "/v2/health/live": _get("Whether the server runs", "Live"),
        "/v2/health/ready": _get("Whether all models of the repository are in service", "Ready", also="503"),
        "/v2/models/stats": _get("Statistics of all models", "Statistics"),
        "/live.json": _get("The last minutes, a sample a second", "LiveSamples"),
        "/metrics": _text("OpenMetrics, for Prometheus", CONTENT_TYPE),
        "/openapi.json": _get("This document", ""),
        **{path: _text("The live page", kind.decode()) for path, (_, kind) in PAGE.items()},
        **_any_model(server),
        **_served_models(server),
        **(_repository(server) if admin else {}),
    }
    schemas = SCHEMAS
    if server.regions.on:
        paths |= shared_paths(_errors(ALWAYS), _errors(("404",)), _errors(("409",)))
        schemas = {**SCHEMAS, **shared_schemas()}
    security: Schema = {"security": [{"token": []}]} if needs_token else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": "jouleflow", "version": __version__, "description": _about(limits)},
        **security,
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {status: _error(status) for status in ERRORS},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _about(limits: Limits) -> str:
    return (
        "The Open Inference Protocol v2 with Triton's binary tensors, statistics and model repository. What is read with GET can be "
        f"asked with HEAD too. At most {limits.max_body_bytes} bytes of body (also once decompressed: Content-Encoding gzip or "
        f"deflate), {limits.max_header_bytes} of headers and {limits.max_target_bytes} of target are taken, on "
        f"{limits.max_connections} connections. Errors are JSON: what was wrong, and what to do."
    )


def _error(status: str) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": ERRORS[status], "content": _json(ref("Error"))}
    if status in ("429", "503"):
        answer["headers"] = {
            "Retry-After": {"description": "Seconds to wait.", "required": status == "429", "schema": {"type": "integer", "minimum": 1}}
        }  # fmt: skip
    if status == "401":
        answer["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}}}
    return answer


def _json(schema: Schema, **more: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema, **more}}


def _errors(statuses: tuple[str, ...]) -> dict[str, Any]:
    return {status: {"$ref": f"#/components/responses/{status}"} for status in statuses}


def _get(summary: str, schema: str, also: str = "", more: tuple[str, ...] = ()) -> dict[str, Any]:
    """A read. also: another status than 200 with the same body; more: errors beyond those that anything may meet."""
    content = _json(ref(schema) if schema else {"type": "object"})
    responses = {"200": {"description": "It is.", "content": content}, **_errors((*ALWAYS, *more))}
    if also:
        either = {"anyOf": [ref(schema), ref("Error")]}
        responses[also] = {"description": "It is not, or the server is full.", "content": _json(either)}
    return {"get": {"summary": summary, "responses": responses}}


def _text(summary: str, kind: str) -> dict[str, Any]:
    content = {kind: {"schema": {"type": "string"}}}
    return {
        "get": {
            "summary": summary,
            "responses": {"200": {"description": "It is.", "content": content}, **_errors(ALWAYS)},
        }
    }


def _parameter(name: str, values: list[str]) -> dict[str, Any]:
    schema: Schema = {"enum": values} if values else {"type": "string", "pattern": f"^{NAME.pattern}$"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _any_model(server: Server) -> dict[str, Any]:
    """The addresses of a model by its name, with and without a version; those served now are listed."""
    model = _parameter("model", sorted(server.models))
    version = _parameter("version", sorted({m.spec.version for m in server.models.values()}))
    paths: dict[str, Any] = {}
    for path, parameters in (
        ("/v2/models/{model}", [model]),
        ("/v2/models/{model}/versions/{version}", [model, version]),
    ):
        for end, (schema, also) in MODEL_READS.items():
            paths[path + end] = {"parameters": parameters, **_get(f"{schema} of a model", schema, also, ("404",))}
        body = {"required": True, "content": {**_json(ref("InferRequest")), **_binary("the JSON")}}
        paths[f"{path}/infer"] = {"parameters": parameters, "post": _infer("Inference", body)}
    return paths


def _served_models(server: Server) -> dict[str, Any]:
    """Inference with each model that is in service, with exactly what it takes."""
    paths: dict[str, Any] = {}
    for name, served in sorted(server.models.items()):
        examples = infer_examples(served)
        request = infer_request(served, *((in_shared_memory, wanted_in_shared_memory) if server.regions.on else ()))
        content = _json(request, **({"examples": examples} if examples else {}))
        header = orjson.dumps(binary_header(served)).decode()
        body = {"required": True, "content": {**content, **_binary(f"such as {header}")}}
        paths[f"/v2/models/{name}/infer"] = {"post": _infer(f"Inference with {name}", body)}
    return paths


def _binary(such_as: str) -> dict[str, Any]:
    text = (
        f"JSON of {JSON_LENGTH} bytes (at most {MAX_HEADER_BYTES}), then the bytes of the tensors in their order, row-major and "
        f"little-endian; {such_as}. Strings (BYTES) are their length in four bytes, then themselves."
    )
    return {"application/octet-stream": {"schema": {"type": "string", "format": "binary", "description": text}}}


def _infer(summary: str, body: dict[str, Any]) -> dict[str, Any]:
    whole = {"type": "integer", "minimum": 0}
    length = {"description": "Bytes of JSON before binary tensors.", "schema": whole}
    binary = {
        "schema": {"type": "string", "format": "binary", "description": "JSON, then the outputs asked for as binary."}
    }
    answered = {
        "description": "The outputs.",
        "headers": {JSON_LENGTH: {**length, "required": False}},
        "content": {**_json(ref("InferResponse")), "application/octet-stream": binary},
    }
    return {
        "summary": summary,
        "parameters": [{"name": JSON_LENGTH, "in": "header", "required": False, **length}],
        "requestBody": body,
        "responses": {"200": answered, **_errors(INFER)},
    }


def _repository(server: Server) -> dict[str, Any]:
    """Model control, on the admin listener only."""
    model = _parameter("model", sorted({*server.repository.names(), *server.models}))

    def post(summary: str, asked: str, answer: dict[str, Any], *more: str) -> dict[str, Any]:
        body = {"required": False, "content": _json(ref(asked))}
        answers = {"200": {"description": "Done.", **answer}, **_errors((*ALWAYS, *more))}
        return {"post": {"summary": summary, "requestBody": body, "responses": answers}}

    return {
        "/v2/repository/index": post("The models of the repository", "IndexRequest", {"content": _json(ref("Index"))}),
        "/v2/repository/models/{model}/load": {
            "parameters": [model],
            **post("Puts a model, or its newest version, into service", "LoadRequest", {}),
        },
        "/v2/repository/models/{model}/unload": {
            "parameters": [model],
            **post("Takes a model out of service; what it took is answered", "UnloadRequest", {}, "404"),
        },
    }
