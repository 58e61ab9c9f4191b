"""Makes the traces that come with jouleflow: `python training/bundled_traces.py`. All are synthetic."""

from pathlib import Path

import numpy as np

from jouleflow.trace.generate import indoor_light_trace, rf_trace, solar_trace, write_trace

FOLDER = Path(__file__).parents[1] / "src" / "jouleflow" / "trace" / "data"


def main() -> None:
    write_trace(rf_trace(np.random.default_rng(7)), FOLDER / "rf_walk.csv.gz")
    write_trace(indoor_light_trace(np.random.default_rng(7)), FOLDER / "office_light.csv.gz")
    write_trace(solar_trace(np.random.default_rng(7)), FOLDER / "sun_june.csv.gz")


if __name__ == "__main__":
    main()
