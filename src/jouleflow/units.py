"""Quantities as people write them: "470uF", "32kB", "4.7 mJ". Inside jouleflow everything is base SI.

Bytes: kB and MB are 1024 and 1024^2 bytes, as data sheets of microcontrollers mean them; so are KiB and MiB.
"""

from __future__ import annotations

import math
import re

from jouleflow.errors import InputError

PREFIXES = {"p": 1e-12, "n": 1e-9, "u": 1e-6, "µ": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
BYTE_PREFIXES = {"": 1.0, "k": 1024.0, "K": 1024.0, "Ki": 1024.0, "M": 1024.0**2, "Mi": 1024.0**2}
EXAMPLES = {"F": "470uF", "B": "32kB", "s": "10s", "W": "2mW", "J": "4.7mJ", "V": "3.3V", "Hz": "64MHz"}


def parse_quantity(text: str, unit: str) -> float:
    """The value in base units of text such as "470uF" for unit "F"; a bare number is in base units.

    Raises InputError naming the text, with an example.
    """
    match = re.fullmatch(r"\s*([0-9.+\-eE]+?)\s*([a-zA-Zµ]*)\s*", text)
    example = EXAMPLES.get(unit, f"1{unit}")
    if match is None:
        raise InputError(f"{text!r} is not a quantity in {unit}: write for example {example}")
    number, suffix = match.groups()
    prefixes = BYTE_PREFIXES if unit == "B" else PREFIXES
    prefix = suffix[: -len(unit)] if suffix.endswith(unit) else suffix if suffix in prefixes and suffix else None
    if suffix == "":
        prefix = ""
    if prefix is None or prefix not in prefixes:
        raise InputError(
            f"{text!r}: unit {suffix!r} is not {unit} with a prefix ({', '.join(p for p in prefixes if p)}): write for example {example}"
        )
    try:
        value = float(number) * prefixes[prefix]
    except ValueError as error:
        raise InputError(f"{text!r} is not a quantity in {unit}: write for example {example}") from error
    if not math.isfinite(value) or value <= 0:
        raise InputError(f"{text!r} must be a finite number > 0: write for example {example}")
    return value


def format_quantity(value: float, unit: str, digits: int = 3) -> str:
    """For people: 0.0047, "J" -> "4.7 mJ"; 131072, "B" -> "128 kB"."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    if unit == "s" and abs(value) >= 7200:
        return f"{value / 3600:.{digits}g} h"
    if unit == "B":
        for prefix, size in (("M", 1024.0**2), ("k", 1024.0)):
            if abs(value) >= size:
                return f"{value / size:.{digits}g} {prefix}B"
        return f"{value:g} B"
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0), ("m", 1e-3), ("µ", 1e-6), ("n", 1e-9)):
        if abs(value) >= size * 0.9995:
            if unit == "s" and size > 1:
                break  # nobody says kiloseconds
            return f"{value / size:.{digits}g} {prefix}{unit}"
    return (
        f"{value:.{max(digits, len(str(int(abs(value)))))}g} {unit}"
        if abs(value) >= 1
        else f"{value / 1e-12:.{digits}g} p{unit}"
    )
