"""Arduino and Zephyr libraries compile without a warning, against stubs of what the frameworks provide."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from jouleflow.firmware.build import Firmware
from jouleflow.firmware.export_library import export_arduino, export_zephyr
from jouleflow.flow import build, prepare

MODEL = Path(str(files("jouleflow") / "demo" / "digits_int8.onnx"))
FLAGS = [
    "-target",
    "thumb-linux-musleabihf",
    "-mcpu=cortex_m4+vfp4d16sp",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-c",
]
ARDUINO_H = """#pragma once
#include <stdint.h>
#include <string.h>
enum { OUTPUT = 1, LOW = 0, HIGH = 1 };
void pinMode(int, int);
void digitalWrite(int, int);
struct SerialClass {
  void begin(long);
  void print(char);
  void print(const char *);
  void print(long);
  void print(unsigned);
  void print(int);
  void println(int);
  void println();
  void print(uint32_t *) = delete;
};
extern SerialClass Serial;
"""
SPI_H = """#pragma once
#include <Arduino.h>
enum { MSBFIRST = 1, SPI_MODE0 = 0 };
struct SPISettings { SPISettings(long, int, int) {} };
struct SPIClass { void begin(); void beginTransaction(SPISettings); uint8_t transfer(uint8_t); };
extern SPIClass SPI;
"""
EEPROM_H = """#pragma once
#include <stddef.h>
#include <sys/types.h>
struct device { int unused; };
int eeprom_read(const struct device *, off_t, void *, size_t);
int eeprom_write(const struct device *, off_t, const void *, size_t);
"""
DEVICE_H = """#pragma once
#include <stdbool.h>
struct device;
extern const struct device stub;
#define DT_ALIAS(name) name
#define DEVICE_DT_GET(node) (&stub)
bool device_is_ready(const struct device *);
"""


@pytest.fixture(scope="module")
def firmware() -> Firmware:
    return build(prepare(MODEL, "riotee", "rf_walk", capacitance_f=100e-6))


def check(compiler: str, sources: list[Path], include: list[Path], folder: Path) -> None:
    for source in sources:
        command = [sys.executable, "-m", "ziglang", compiler, *FLAGS, *(f"-I{p}" for p in include), str(source)]
        done = subprocess.run([*command, "-o", str(folder / "x.o")], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr


def test_arduino(firmware: Firmware, tmp_path: Path) -> None:
    library, stubs = tmp_path / "library", tmp_path / "stubs"
    written = export_arduino(firmware, library)
    assert {name.split("/")[0] for name, _ in written} == {"library.properties", "src", "examples"}
    stubs.mkdir()
    (stubs / "Arduino.h").write_text(ARDUINO_H)
    (stubs / "SPI.h").write_text(SPI_H)
    check("cc", sorted((library / "src").glob("*.c")), [library / "src"], tmp_path)
    sketch = tmp_path / "infer.cpp"
    sketch.write_text("#include <Arduino.h>\n" + (library / "examples" / "infer" / "infer.ino").read_text())
    check("c++", [sketch], [library / "src", stubs], tmp_path)
    properties = dict(line.split("=", 1) for line in (library / "library.properties").read_text().splitlines())
    needed = {"name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url", "architectures"}
    assert needed <= set(properties)


def test_zephyr(firmware: Firmware, tmp_path: Path) -> None:
    module, stubs = tmp_path / "module", tmp_path / "stubs"
    export_zephyr(firmware, module)
    (stubs / "zephyr" / "drivers").mkdir(parents=True)
    (stubs / "zephyr" / "device.h").write_text(DEVICE_H)
    (stubs / "zephyr" / "drivers" / "eeprom.h").write_text(EEPROM_H)
    listed = [w for w in (module / "CMakeLists.txt").read_text().split() if w.endswith(".c")]
    assert sorted(listed) == sorted(f"src/{p.name}" for p in (module / "src").glob("*.c"))
    sources = [module / name for name in listed] + sorted((module / "samples" / "infer" / "src").glob("*.c"))
    check("cc", sources, [module / "src", stubs], tmp_path)
