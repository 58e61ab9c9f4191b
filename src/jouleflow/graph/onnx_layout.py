"""How a value that ONNX numbers one way (NCHW) lies in our memory (NHWC), followed through reshapes and transposes.

Transposes and reshapes move no byte here: they change the layout, and the operator that reads the value says whether it
can. Sides of 1 never matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


class MixedSides(Exception):
    """A reshape joins and splits sides so that no order of whole sides describes the result."""


@dataclass(frozen=True, slots=True)
class Layout:
    """shape: the sides as ONNX sees them. atoms: a finer factorisation of them, outermost first, without ones.
    order: memory holds atoms[order[0]] outermost, atoms[order[-1]] innermost."""

    shape: tuple[int, ...]
    atoms: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def plain(self) -> bool:
        """Memory has the order that ONNX sees."""
        return self.order == tuple(range(len(self.order)))


def plain(shape: tuple[int, ...]) -> Layout:
    """A value that lies in memory as ONNX sees it."""
    atoms = tuple(s for s in shape if s != 1)
    return Layout(shape, atoms, tuple(range(len(atoms))))


def channels_last(shape: tuple[int, ...]) -> Layout:
    """A 4-D NCHW value that lies in memory as NHWC."""
    return stored(shape, (0, 2, 3, 1))


def stored(shape: tuple[int, ...], sides: tuple[int, ...]) -> Layout:
    """A value whose memory has the given sides of `shape` from the outermost to the innermost."""
    at: dict[int, int] = {}
    for k, side in enumerate(shape):
        if side != 1:
            at[k] = len(at)
    return merged(Layout(shape, tuple(shape[k] for k in at), tuple(at[k] for k in sides if k in at)))


def merged(layout: Layout) -> Layout:
    """The same layout with atoms joined that are neighbours in both orders: equal layouts then compare equal."""
    where = {atom: k for k, atom in enumerate(layout.order)}
    groups: list[list[int]] = []
    for atom in range(len(layout.atoms)):
        if groups and where[atom] == where[groups[-1][-1]] + 1:
            groups[-1].append(atom)
        else:
            groups.append([atom])
    atoms = tuple(prod(layout.atoms[a] for a in group) for group in groups)
    order = tuple(sorted(range(len(groups)), key=lambda g: where[groups[g][0]]))
    return Layout(layout.shape, atoms, order)


def split(layout: Layout) -> tuple[Layout, tuple[tuple[int, ...], ...]]:
    """The layout with atoms that respect its sides, and per side its atoms.

    Raises MixedSides when an atom straddles two sides.
    """
    pieces: list[list[int]] = [[] for _ in layout.atoms]  # per old atom its new ones
    sides: list[tuple[int, ...]] = []
    atoms: list[int] = []
    atom, left = -1, 1
    for side in layout.shape:
        mine = []
        while side != 1:
            if left == 1:
                atom += 1
                left = layout.atoms[atom]
            small, large = min(side, left), max(side, left)
            if large % small:
                raise MixedSides
            mine.append(len(atoms))
            pieces[atom].append(len(atoms))
            atoms.append(small)
            side //= small
            left //= small
        sides.append(tuple(mine))
    order = tuple(new for old in layout.order for new in pieces[old])
    return Layout(layout.shape, tuple(atoms), order), tuple(sides)


def reshaped(layout: Layout, shape: tuple[int, ...]) -> Layout:
    """The same memory under another shape of as many elements."""
    return Layout(shape, layout.atoms, layout.order)


def transposed(layout: Layout, permutation: tuple[int, ...]) -> Layout:
    """The same memory with sides permuted: side k of the result is side permutation[k].

    Raises MixedSides.
    """
    fine, sides = split(layout)
    sequence = [atom for k in permutation for atom in sides[k]]
    new_at = {old: new for new, old in enumerate(sequence)}
    shape = tuple(layout.shape[k] for k in permutation)
    return merged(Layout(shape, tuple(fine.atoms[a] for a in sequence), tuple(new_at[a] for a in fine.order)))


def lies_as(layout: Layout, sides: tuple[int, ...]) -> bool:
    """Whether memory has the given sides from the outermost to the innermost (sides of 1 may stand anywhere)."""
    try:
        fine, of_side = split(layout)
    except MixedSides:
        return False
    return fine.order == tuple(atom for k in sides for atom in of_side[k])


def memory_sides(layout: Layout) -> tuple[int, ...] | None:
    """The sides from the outermost to the innermost as they lie in memory; None when sides are interleaved."""
    rank = len(layout.shape)
    for sides in (tuple(range(rank)), *(((0, 2, 3, 1),) if rank == 4 else ())):
        if lies_as(layout, sides):
            return sides
    try:
        fine, of_side = split(layout)
    except MixedSides:
        return None
    at = {atom: k for k, atom in enumerate(fine.order)}
    ranked = sorted(range(rank), key=lambda k: at[of_side[k][0]] if of_side[k] else -1)
    return tuple(ranked) if lies_as(layout, tuple(ranked)) else None
