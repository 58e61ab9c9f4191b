"""JSON Schemas of what goes in and out over HTTP, for the OpenAPI document. What a served model takes is described exactly as far
as a schema can: that a tensor's data has as many values as its shape says is beyond it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from jouleflow.runtime.tensors import NUMPY, Port
from jouleflow.serve.fields import MAX_ELEMENTS, MAX_NAME, MAX_PRIORITY, MAX_RANK, MAX_TENSORS, MAX_TIMEOUT_US
from jouleflow.serve.history import ENDS
from jouleflow.serve.served import ServedModel
from jouleflow.serve.tensor_data import limits_of

Schema = dict[str, Any]
MAX_EXAMPLE_VALUES = 1024
TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
AMOUNT: Schema = {"type": "number", "minimum": 0}
AMOUNT_OR_NULL: Schema = {"type": ["number", "null"], "minimum": 0}
NAME: Schema = {"type": "string", "maxLength": MAX_NAME}
DATATYPE: Schema = {"type": "string", "enum": [*NUMPY, "BYTES"]}


def ref(name: str) -> Schema:
    """A reference to one of `SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(optional: tuple[str, ...] = (), /, **fields: Schema) -> Schema:
    """An object with those fields."""
    return {"type": "object", "required": [k for k in fields if k not in optional], "properties": fields}


def listing(of: Schema, **limits: int) -> Schema:
    """A list."""
    return {"type": "array", "items": of, **limits}


def table(of: Schema) -> Schema:
    """An object whose fields are names of things, all of one kind."""
    return {"type": "object", "additionalProperties": of}


SIDES = listing(COUNT, maxItems=MAX_RANK)
PORT = record(name=TEXT, datatype=DATATYPE, shape=listing({"type": "integer", "minimum": -1}))
SPENT = record(count=COUNT, ns=COUNT)
STAGES = ("compute_input", "compute_infer", "compute_output")
WANTED = record(
    ("parameters",), name=NAME, parameters={"type": "object", "properties": {"binary_data": FLAG, "classification": False}}
)  # fmt: skip
PARAMETERS: Schema = {
    "type": "object",
    "properties": {
        "timeout": {
            **COUNT, "maximum": MAX_TIMEOUT_US,
            "description": "Microseconds that the sender will wait; 0: as the model is set up. What would be later is refused at once.",
        },
        "priority": {
            **COUNT, "maximum": MAX_PRIORITY,
            "description": "The smaller goes first. Above the model's own, the request lets others go first; at or below it changes nothing.",
        },
        "binary_data_output": {**FLAG, "description": "Whether all outputs come as bytes after the JSON."},
    },
}  # fmt: skip
VALUES: Schema = {
    "type": "array",
    "description": "Row by row, flat or nested. In an answer it is flat, and null is a number that JSON cannot write (NaN, infinity).",
}
ONLY_JSON: Schema = {"type": "object", "properties": {"binary_data_size": False, "shared_memory_region": False}}

SCHEMAS: dict[str, Schema] = {
    "Error": record(error=TEXT),
    "Live": record(live=FLAG),
    "Ready": record(ready=FLAG),
    "ModelReady": record(name=TEXT, ready=FLAG),
    "ServerMetadata": record(name=TEXT, version=TEXT, extensions=listing(TEXT)),
    "ModelMetadata": record(name=TEXT, versions=listing(TEXT), platform=TEXT, inputs=listing(PORT), outputs=listing(PORT)),
    "ModelConfig": record(
        name=TEXT, platform=TEXT, max_batch_size=COUNT, instance_group=listing(record(kind=TEXT, count=COUNT)),
        parameters=table(record(string_value=TEXT)),
    ),
    "Statistics": record(
        model_stats=listing(
            record(
                name=TEXT, version=TEXT, last_inference=COUNT, inference_count=COUNT, execution_count=COUNT,
                inference_stats=record(**dict.fromkeys(("success", "fail", "queue", *STAGES), SPENT)),
                batch_stats=listing(record(batch_size=COUNT, **dict.fromkeys(STAGES, SPENT))),
                jouleflow=record(
                    accepted=COUNT, **dict.fromkeys(ENDS, COUNT), waiting=COUNT, running_batches=COUNT,
                    latency_s_by_rows=table(AMOUNT),
                ),
            )
        )
    ),
    "Index": listing(record(name=TEXT, version=TEXT, state={"enum": ["READY", "UNAVAILABLE"]}, reason=TEXT)),
    "IndexRequest": {"type": "object", "properties": {"ready": FLAG}},
    "LoadRequest": {
        "type": "object",
        "properties": {"parameters": {"type": "object", "maxProperties": 0, "description": "The repository decides; nothing is taken from a request."}},
    },
    "UnloadRequest": {
        "type": "object",
        "properties": {
            "parameters": {"type": "object", "properties": {"unload_dependents": FLAG}, "additionalProperties": False}
        },
    },
    "LiveSamples": record(
        policy=TEXT, n_cores=COUNT, meter=record(provenance={"enum": ["measured", "modelled"]}, source=TEXT), energy_j=NUMBER, problems=table(TEXT),
        models=table(
            record(
                version=TEXT, ready=FLAG, slo_s=AMOUNT, max_batch=COUNT, instances=COUNT, deaths=COUNT,
                totals=record(accepted=COUNT, **dict.fromkeys(ENDS, COUNT)),
            )
        ),
        samples=listing(
            record(
                power_w=NUMBER, j_per_request=AMOUNT_OR_NULL,
                models=table(
                    record(
                        accepted=AMOUNT, **dict.fromkeys(ENDS, AMOUNT), waiting=COUNT, running=COUNT, batch=AMOUNT_OR_NULL,
                        p50_s=AMOUNT_OR_NULL, p99_s=AMOUNT_OR_NULL,
                    )
                ),
            )
        ),
    ),
    "InferRequest": record(
        ("id", "outputs", "parameters"),
        id=NAME, parameters=PARAMETERS, outputs=listing(WANTED, maxItems=MAX_TENSORS),
        inputs=listing(
            record(
                ("parameters",), name=NAME, datatype=DATATYPE, parameters=ONLY_JSON, data=VALUES,
                shape={**SIDES, "description": f"Of at most {MAX_ELEMENTS} elements."},
            ),
            minItems=1, maxItems=MAX_TENSORS,
        ),
    ),
    "InferResponse": record(
        ("id",), model_name=TEXT, model_version=TEXT, id=TEXT,
        outputs=listing(
            record(
                ("data", "parameters"), name=TEXT, datatype=DATATYPE, shape=SIDES, data=VALUES,
                parameters=record(binary_data_size=COUNT),
            )
        ),
    ),
}  # fmt: skip


def same(schema: Schema) -> Schema:
    """The schema."""
    return schema


def infer_request(
    served: ServedModel, of_input: Callable[[Schema], Schema] = same, of_output: Callable[[Schema], Schema] = same
) -> Schema:
    """What one model takes as JSON. of_input, of_output: what else than the schema of a tensor may stand there."""
    most = served.queue.max_batch if served.batchable else 0
    inputs = [of_input(_input(port, most)) for port in served.process.inputs]
    each: Schema = inputs[0] if len(inputs) == 1 else {"oneOf": inputs}
    tensors = listing(each, minItems=len(inputs), maxItems=len(inputs))
    if len(inputs) > 1:
        tensors["allOf"] = [{"contains": {"properties": {"name": {"const": p.name}}}} for p in served.process.inputs]
    names = [p.name for p in served.process.outputs]
    wanted = {**WANTED, "properties": {**WANTED["properties"], "name": {"enum": names}}}
    outputs = {
        **listing(of_output(wanted), maxItems=len(names)),
        "description": "Each at most once; none: all of them.",
    }
    return record(
        ("id", "outputs", "parameters"),
        id=NAME, inputs=tensors, parameters=PARAMETERS, outputs=outputs,
    )  # fmt: skip


def infer_examples(served: ServedModel) -> dict[str, Any]:
    """Requests that the model answers, by name: one row, and two in a batch. None for a model whose rows are too large to write out."""
    examples = {}
    for n_rows in (1, 2) if served.batchable and served.queue.max_batch > 1 else (1,):
        shapes = [_example_shape(p, n_rows if served.batchable else 0) for p in served.process.inputs]
        if all(prod(shape) <= MAX_EXAMPLE_VALUES for shape in shapes):
            pairs = zip(served.process.inputs, shapes, strict=True)
            inputs = [
                {"name": p.name, "datatype": p.datatype, "shape": s, "data": _example(p.datatype, s)} for p, s in pairs
            ]
            examples["one row" if n_rows == 1 else "two rows"] = {"value": {"inputs": inputs}}
    return examples


def binary_header(served: ServedModel) -> dict[str, Any]:
    """The JSON before the bytes of one row, for a model without strings."""
    shapes = [_example_shape(p, 1 if served.batchable else 0) for p in served.process.inputs]
    inputs = [
        {"name": p.name, "datatype": p.datatype, "shape": s,
         "parameters": {"binary_data_size": prod(s) * NUMPY[p.datatype].itemsize if p.datatype in NUMPY else 0}}
        for p, s in zip(served.process.inputs, shapes, strict=True)
    ]  # fmt: skip
    return {"inputs": inputs, "parameters": {"binary_data_output": True}}


def _example_shape(port: Port, n_rows: int) -> list[int]:
    """n_rows 0: the model takes no rows."""
    sides = [side if side >= 0 else 1 for side in port.shape]
    return [n_rows, *sides[1:]] if n_rows else sides


def _example(datatype: str, shape: list[int]) -> list[Any]:
    value: Any = "" if datatype == "BYTES" else False if datatype == "BOOL" else 0
    return [value] * prod(shape)


def _input(port: Port, max_rows: int) -> Schema:
    """max_rows 0: the model takes no rows."""
    sides = [{"const": side} if side >= 0 else {**COUNT, "maximum": MAX_ELEMENTS} for side in port.shape]
    if sides and port.shape[0] == -1:
        sides[0] = {"type": "integer", "minimum": 1, **({"maximum": max_rows} if max_rows else {})}
    shape: Schema = {"type": "array", "minItems": len(sides), "maxItems": len(sides)}
    if sides:
        shape["prefixItems"] = sides
    value = value_schema(port.datatype)
    nested = value
    for side in reversed(port.shape):
        nested = listing(nested, **({"minItems": side, "maxItems": side} if side >= 0 else {}))
    size = prod(port.shape)
    flat = listing(value, **({"minItems": size, "maxItems": size} if -1 not in port.shape else {}))
    data = flat if len(port.shape) < 2 else {"anyOf": [flat, nested]}
    return record(
        ("parameters",), name={"const": port.name}, datatype={"const": port.datatype}, shape=shape, data=data, parameters=ONLY_JSON,
    )  # fmt: skip


def value_schema(datatype: str) -> Schema:
    """One value of a tensor in JSON."""
    if datatype == "BYTES":
        return TEXT
    kind = NUMPY[datatype]
    if kind.kind == "b":
        return FLAG
    least, most = limits_of(kind)
    return {"type": "number" if kind.kind == "f" else "integer", "minimum": least, "maximum": most}
