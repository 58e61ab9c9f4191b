"""What a tile of a convolution costs on an MSP430FR5994 with external FRAM, as published with iNAS and TiNAS.

Source: EMCLab-Sinica/Intermittent-aware-NAS at 18bb84e (constants and formulas; measured there on the board). 16-bit
words; energies in joules, latencies in seconds at 16 MHz. The same equations give either: a `Primitives` holds one.
"""

from __future__ import annotations

from dataclasses import dataclass

CLOCK_HZ = 16e6
VM_BYTES = 2048
WORD_BYTES = 2


@dataclass(frozen=True, slots=True)
class Primitives:
    """Costs of what the chip does, all in joules or all in seconds. (per word, per command) where it depends on words."""

    read: tuple[float, float]  # FRAM to SRAM by DMA
    write: tuple[float, float]
    vmac: tuple[float, float]  # vector multiply-accumulate on the LEA
    add: float
    mul: float
    max: float
    reboot: float
    weight_muls: int  # multiplications to address a weight command, and a partial sum: counted differently for time
    psum_muls: int

    def overhead(self, adds: int, muls: int) -> float:
        """Address arithmetic of one command."""
        return adds * self.add + muls * self.mul


def _at(cost: tuple[float, float], words: float) -> float:
    return cost[0] * words + cost[1]


def _seconds(per_word: float, per_command: float) -> tuple[float, float]:
    return per_word / CLOCK_HZ, per_command / CLOCK_HZ


ENERGY = Primitives(
    (2.7e-8, 2.0e-7), (2.6815e-8, 1.9336e-7), (5.273e-10, 2.0441e-7), 3.936e-9, 1.925e-8, 4.228e-9, 77.88e-6, 9, 5
)
LATENCY = Primitives(
    _seconds(64, 424),
    _seconds(64, 422.2),
    _seconds(1.5, 616),
    12 / CLOCK_HZ,
    44 / CLOCK_HZ,
    14 / CLOCK_HZ,
    70e-3,
    10,
    10,
)


@dataclass(frozen=True, slots=True)
class ConvLayer:
    """A convolution: out_ch x rows x cols from in_ch channels. Dense layers are 1 x 1."""

    rows: int
    cols: int
    out_ch: int
    in_ch: int
    kernel: tuple[int, int]
    stride: int


@dataclass(frozen=True, slots=True)
class LoopTile:
    """Tile sides, and what stays in SRAM from one tile to the next: order is reuse_I, reuse_W or reuse_O."""

    rows: int
    cols: int
    out_ch: int
    in_ch: int
    order: str

    def buffer_words(self, layer: ConvLayer, outputs_held: int) -> int:
        """SRAM words: inputs, weights, and so many output tiles."""
        (kernel_h, kernel_w), s = layer.kernel, layer.stride
        n_in = (s * self.rows + kernel_h - s) * (s * self.cols + kernel_w - s)
        return (
            n_in + kernel_h * kernel_w * self.out_ch
        ) * self.in_ch + self.rows * self.cols * self.out_ch * outputs_held

    def n_tiles(self, layer: ConvLayer) -> tuple[int, int, int]:
        """Tiles along space, output channels and input channels."""
        space = -(-layer.rows // self.rows) * -(-layer.cols // self.cols)
        return space, -(-layer.out_ch // self.out_ch), -(-layer.in_ch // self.in_ch)


@dataclass(frozen=True, slots=True)
class MeanTile:
    """A layer's tiles on average: the last ones along a side are smaller where the side is no multiple of the tile's."""

    inputs: float  # DMA commands to fetch a tile's inputs, its weights, its partial sums
    weights: float
    pixels: float
    in_ch: float  # words of a command
    out_ch: float


def mean_tile(layer: ConvLayer, tile: LoopTile) -> MeanTile:
    """Exact where tiles divide the layer, as iNAS's do."""
    (kernel_h, kernel_w), s = layer.kernel, layer.stride
    n_rows, n_cols = -(-layer.rows // tile.rows), -(-layer.cols // tile.cols)
    rows, cols = layer.rows / n_rows, layer.cols / n_cols
    _, n_out, n_in = tile.n_tiles(layer)
    out_ch, in_ch = layer.out_ch / n_out, layer.in_ch / n_in
    return MeanTile(
        (s * rows + kernel_h - s) * (s * cols + kernel_w - s), kernel_h * kernel_w * out_ch, rows * cols, in_ch, out_ch
    )


@dataclass(frozen=True, slots=True)
class TileCost:
    """Pieces of the cost of one tile, joules or seconds."""

    fetch_in: float
    fetch_weights: float
    fetch_psums: float
    compute: float


def tile_cost(p: Primitives, layer: ConvLayer, tile: LoopTile) -> TileCost:
    """The pieces that a plan combines, by what is fetched anew and what is still there."""
    t = mean_tile(layer, tile)
    psum_muls = 5 if tile.order == "reuse_I" else 4
    per_output = _at(p.vmac, t.in_ch) + p.add + p.overhead(7, p.psum_muls) + p.overhead(3, 3)
    return TileCost(
        t.inputs * (_at(p.read, t.in_ch) + p.overhead(7, 5)),
        t.weights * (_at(p.read, t.in_ch) + p.overhead(8, p.weight_muls)),
        t.pixels * (_at(p.read, t.out_ch) + p.overhead(7, psum_muls)),
        t.weights * t.pixels * per_output,
    )


def backup_cost(p: Primitives, layer: ConvLayer, tile: LoopTile, n_tiles: float) -> float:
    """Writing back what n_tiles consecutive tiles have made."""
    t = mean_tile(layer, tile)
    if tile.order == "reuse_I":
        return t.pixels * (_at(p.write, n_tiles * t.out_ch) + p.overhead(9, 8))
    if tile.order == "reuse_W":
        return n_tiles * t.pixels * (_at(p.write, t.out_ch) + p.overhead(11, 9))
    return t.pixels * (_at(p.write, t.out_ch) + p.overhead(7, 5))


def progress_cost(p: Primitives) -> tuple[float, float]:
    """(read, write) of the progress indicator, four words."""
    return _at(p.read, 4), _at(p.write, 4)
