"""The nouns of a network: `Model`, `Layer`, `Tensor`, and the attributes of each operator.

Activations are NHWC whatever the file used: shape (1, height, width, channels), or (1, features). Loaders
convert; nothing past them knows the file format. Quantised values are integers here, floats only in float models.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Quantisation:
    """Affine quantisation: real = scale * (integer - zero_point). One element each, or one per slice along `axis`."""

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int32]
    axis: int | None = None

    @property
    def per_channel(self) -> bool:
        return self.scale.size > 1


@dataclass(frozen=True, slots=True)
class Tensor:
    """One value of the graph. `data` is set for constants (weights, biases), None for activations."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # int8, uint8, int16, int32, float32, ...
    quantisation: Quantisation | None = None
    data: NDArray[np.generic] | None = None

    @property
    def n_elements(self) -> int:
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.n_elements * np.dtype(self.dtype).itemsize

    @property
    def constant(self) -> bool:
        return self.data is not None


@dataclass(frozen=True, slots=True)
class Conv2D:
    """Convolution, depthwise when groups == input channels. Weights are [out, kernel_h, kernel_w, in / groups].

    Inputs: activation, weights (int8), bias (int32, zero when the file has none). Padding is (top, bottom, left, right).
    For a depthwise layer with multiplier m, output channel o reads input channel o // m.
    act_min and act_max clamp the quantised output: fused ReLU and ReLU6 live there.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    act_min: int
    act_max: int


@dataclass(frozen=True, slots=True)
class Dense:
    """Fully connected. Weights are [out, in]; inputs: activation (flattened), weights (int8), bias (int32)."""

    act_min: int
    act_max: int


@dataclass(frozen=True, slots=True)
class Elementwise:
    """add and mul of two activations of one shape, or of one activation and a constant that broadcasts to it."""

    act_min: int
    act_max: int


@dataclass(frozen=True, slots=True)
class Pool2D:
    """avg_pool and max_pool; a global pool has the kernel of its input. Padding is never counted in an average.

    halves_up: averages round halves up, as files quantised to uint8 do, and not away from zero.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    act_min: int
    act_max: int
    halves_up: bool = False


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean over height and width: [1, h, w, c] to [1, 1, 1, c] or [1, c], rounded as TFLite's MEAN does."""


@dataclass(frozen=True, slots=True)
class Pad:
    """Padding (top, bottom, left, right) with the quantised constant `value`."""

    padding: tuple[int, int, int, int]
    value: int


@dataclass(frozen=True, slots=True)
class Concat:
    """Concatenation along NHWC `axis`; inputs may differ in quantisation and are then requantised."""

    axis: int


@dataclass(frozen=True, slots=True)
class Reshape:
    """The same bytes under another shape."""


@dataclass(frozen=True, slots=True)
class Softmax:
    """Softmax over the last axis."""

    beta: float


@dataclass(frozen=True, slots=True)
class Logistic:
    """Sigmoid."""


@dataclass(frozen=True, slots=True)
class Requantize:
    """int8 or uint8 in one quantisation to int8 in another; standalone relu and relu6 are this with a clamp."""

    act_min: int
    act_max: int


@dataclass(frozen=True, slots=True)
class ResizeNearest:
    """Nearest-neighbour resize by whole input/output shapes; rounding as the source format says."""

    align_corners: bool
    half_pixel_centers: bool


Attributes = (
    Conv2D
    | Dense
    | Elementwise
    | Pool2D
    | Mean
    | Pad
    | Concat
    | Reshape
    | Softmax
    | Logistic
    | Requantize
    | ResizeNearest
    | None
)

# The operators that firmware can run; a float model may hold others, for analysis only.
INT8_OPS = (
    "conv2d",
    "depthwise_conv2d",
    "dense",
    "add",
    "mul",
    "avg_pool",
    "max_pool",
    "mean",
    "pad",
    "concat",
    "reshape",
    "softmax",
    "logistic",
    "requantize",
    "resize_nearest",
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One operator. `inputs` and `outputs` index `Model.tensors`; activations come before weights and bias."""

    name: str
    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    attributes: Attributes = None
    macs: int = 0


@dataclass(frozen=True, slots=True)
class Model:
    """A network in topological order. `sha256` is that of the file. `quantised` models can become firmware."""

    name: str
    sha256: str
    tensors: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    source_format: str = ""
    quantised: bool = True
    exits: tuple[int, ...] = field(default=())

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants."""
        return sum(t.size_bytes for t in self.tensors if t.constant)

    def activation_inputs(self, layer: Layer) -> tuple[int, ...]:
        """Indices of the layer's inputs that are computed, not constant."""
        return tuple(i for i in layer.inputs if not self.tensors[i].constant)

    def constant_inputs(self, layer: Layer) -> tuple[int, ...]:
        """Indices of the layer's constant inputs."""
        return tuple(i for i in layer.inputs if self.tensors[i].constant)

    def layer_weight_bytes(self, layer: Layer) -> int:
        return sum(self.tensors[i].size_bytes for i in self.constant_inputs(layer))

    def last_use(self) -> dict[int, int]:
        """Tensor index -> index of the last layer that reads it (len(layers) for model outputs)."""
        last: dict[int, int] = {}
        for k, layer in enumerate(self.layers):
            for i in self.activation_inputs(layer):
                last[i] = k
        for i in self.outputs:
            last[i] = len(self.layers)
        return last

    def cuts(self) -> tuple[tuple[int, ...], ...]:
        """For each boundary after layer k: indices of the activations that are live across it."""
        last = self.last_use()
        live: set[int] = {i for i in self.inputs if i in last}
        result = []
        for k, layer in enumerate(self.layers):
            live |= {o for o in layer.outputs if o in last}
            live = {i for i in live if last[i] > k}
            result.append(tuple(sorted(live)))
        return tuple(result)
