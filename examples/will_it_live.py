"""Which capacitor does the demo's model need on this harvester? Prints a small table."""

from importlib.resources import files

from jouleflow.errors import Infeasible
from jouleflow.flow import predict_run, prepare
from jouleflow.units import format_quantity as q

MODEL = str(files("jouleflow") / "demo" / "digits_int8.onnx")


def main() -> None:
    print(f"{'capacitor':>10}  {'latency':>9}  {'energy':>9}  {'failures':>8}  commits")
    for capacitance_f in (10e-6, 22e-6, 47e-6, 100e-6, 220e-6, 470e-6, 1e-3):
        try:
            p = prepare(MODEL, "riotee", "rf_walk", capacitance_f=capacitance_f)
            e = predict_run(p, 50)
        except Infeasible as error:
            print(f"{q(capacitance_f, 'F'):>10}  {error.nearest}")
            continue
        print(
            f"{q(capacitance_f, 'F'):>10}  {q(e.latency_s, 's'):>9}  {q(e.energy_j, 'J'):>9}  {e.n_power_failures:>8.2f}  "
            f"{len(p.plan.commits)}"
        )


if __name__ == "__main__":
    main()
