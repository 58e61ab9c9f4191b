"""From `Model` to `Lowered`: the operators as the engine runs them, on buffers, with geometry and lifetimes.

Reshapes vanish (two views of one buffer); step 0 captures the input; everything is height x width x channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from jouleflow.errors import ModelError
from jouleflow.graph.model import INT8_OPS, Concat, Conv2D, Layer, Model, Pad, Pool2D

MAX_INPUTS = 8  # engine.h


@dataclass(frozen=True, slots=True)
class Operand:
    """A buffer seen as rows x cols x channels of int8."""

    buffer: int
    rows: int
    cols: int
    channels: int

    @property
    def size_bytes(self) -> int:
        return self.rows * self.cols * self.channels


@dataclass(frozen=True, slots=True)
class Window:
    """Which input pixels an output pixel reads. Stride 0 with a kernel of the whole input: all of it."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pad_top: int = 0
    pad_left: int = 0

    def rows(self, r0: int, r1: int, n_rows: int) -> tuple[int, int]:
        """Input rows that output rows [r0, r1) read, inside [0, n_rows)."""
        return _span(r0, r1, self.stride[0], self.pad_top, self.kernel[0], self.dilation[0], n_rows)

    def cols(self, c0: int, c1: int, n_cols: int) -> tuple[int, int]:
        """Input columns that output columns [c0, c1) read."""
        return _span(c0, c1, self.stride[1], self.pad_left, self.kernel[1], self.dilation[1], n_cols)


def _span(first: int, end: int, stride: int, pad: int, kernel: int, dilation: int, limit: int) -> tuple[int, int]:
    low = max(first * stride - pad, 0)
    high = min((end - 1) * stride - pad + (kernel - 1) * dilation + 1, limit)
    return (low, high) if high > low else (0, 1)


@dataclass(frozen=True, slots=True)
class Op:
    """One step of the engine. `layer` is the index in the model, -1 for the capture of the input."""

    layer: int
    kind: str
    inputs: tuple[Operand, ...]
    output: Operand
    window: Window
    macs: int


@dataclass(frozen=True, slots=True)
class Lowered:
    """The network as a list of steps over buffers. live[k]: buffers that step k or a later one needs; last: the end."""

    model: Model
    ops: tuple[Op, ...]
    buffer_bytes: tuple[int, ...]
    first: tuple[int, ...]  # per buffer: the step that writes it
    last: tuple[int, ...]  # per buffer: the last step that reads it, len(ops) for the output
    live: tuple[tuple[int, ...], ...]
    output_buffer: int


def _shape3(shape: tuple[int, ...], what: str) -> tuple[int, int, int]:
    if not shape or shape[0] != 1:
        raise ModelError(f"{what} has shape {shape}: firmware runs batches of 1; export the model with batch size 1")
    body = shape[1:] or (1,)
    if len(body) > 3:
        raise ModelError(f"{what} has shape {shape}: at most 1 x rows x columns x channels can run")
    rows, cols, channels = (1,) * (3 - len(body)) + tuple(body)
    if max(rows, cols, channels) > 65535:
        raise ModelError(f"{what} has shape {shape}: each side must be at most 65535")
    return rows, cols, channels


def _window(layer: Layer, inputs: tuple[Operand, ...]) -> Window:
    a = layer.attributes
    if isinstance(a, Conv2D):
        return Window(a.kernel, a.stride, a.dilation, a.padding[0], a.padding[2])
    if isinstance(a, Pool2D):
        return Window(a.kernel, a.stride, (1, 1), a.padding[0], a.padding[2])
    if isinstance(a, Pad):
        return Window(pad_top=a.padding[0], pad_left=a.padding[2])
    if layer.op in ("dense", "mean", "resize_nearest") or isinstance(a, Concat):
        rows = max(i.rows for i in inputs)
        cols = max(i.cols for i in inputs)
        return Window((rows, cols), (0, 0))
    return Window()


def lower(model: Model) -> Lowered:
    """The steps that firmware runs for an int8 model.

    Raises ModelError when the model is not quantised, or has operators or shapes that firmware cannot run.
    """
    if not model.quantised:
        raise ModelError(f"{model.name} is a float model: make it int8 first with `jouleflow quantize`")
    unknown = [f"{layer.name} ({layer.op})" for layer in model.layers if layer.op not in INT8_OPS]
    if unknown:
        raise ModelError(f"no int8 kernel for {', '.join(unknown)}")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ModelError(
            f"{model.name} has {len(model.inputs)} inputs and {len(model.outputs)} outputs: firmware runs models with one of each"
        )
    shape = {
        i: _shape3(t.shape, f"tensor {t.name!r}") for i, t in enumerate(model.tensors) if not t.constant and t.shape
    }
    buffer_of: dict[int, int] = {model.inputs[0]: 0}
    sizes = [model.tensors[model.inputs[0]].n_elements]
    ops = [Op(-1, "capture_input", (), Operand(0, *shape[model.inputs[0]]), Window(), 0)]
    for index, layer in enumerate(model.layers):
        sources = model.activation_inputs(layer)
        if layer.op == "reshape":
            buffer_of[layer.outputs[0]] = buffer_of[sources[0]]
            continue
        if len(sources) > MAX_INPUTS:
            raise ModelError(f"layer {layer.name!r} has {len(sources)} inputs: at most {MAX_INPUTS} can run")
        inputs = tuple(Operand(buffer_of[i], *shape[i]) for i in sources)
        out = layer.outputs[0]
        buffer_of[out] = len(sizes)
        sizes.append(model.tensors[out].n_elements)
        output = Operand(buffer_of[out], *shape[out])
        if layer.op == "dense":
            inputs = tuple(Operand(i.buffer, 1, 1, i.size_bytes) for i in inputs)
            output = Operand(output.buffer, 1, 1, output.size_bytes)
        elif layer.op == "mean":
            output = Operand(output.buffer, 1, 1, output.size_bytes)
        ops.append(Op(index, layer.op, inputs, output, _window(layer, inputs), layer.macs))
    return _with_lifetimes(model, tuple(ops), tuple(sizes), buffer_of[model.outputs[0]])


def _with_lifetimes(model: Model, ops: tuple[Op, ...], sizes: tuple[int, ...], output: int) -> Lowered:
    first = [0] * len(sizes)
    last = [0] * len(sizes)
    for k, op in enumerate(ops):
        first[op.output.buffer] = k
        last[op.output.buffer] = max(last[op.output.buffer], k)
        for operand in op.inputs:
            last[operand.buffer] = max(last[operand.buffer], k)
    last[output] = len(ops)
    live = tuple(tuple(b for b in range(len(sizes)) if first[b] <= k <= last[b]) for k in range(len(ops) + 1))
    return Lowered(model, ops, sizes, tuple(first), tuple(last), live, output)


def tiles_of(op: Op, rows: int, cols: int, channels: int) -> tuple[int, int, int]:
    """Number of tiles along rows, columns and channels."""
    o = op.output
    return -(-o.rows // rows), -(-o.cols // cols), -(-o.channels // channels)
