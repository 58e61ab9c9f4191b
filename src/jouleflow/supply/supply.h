/* A capacitor fed by a harvest trace and drained by a load: exact for piecewise constant powers.
 *
 * harvested = stored + spent + leaked + converter loss + clipped, always. The leak is a constant power that stops at
 * 0 V; energy that would lift the store over its maximum is clipped. The trace repeats.
 */
#ifndef JOULEFLOW_SUPPLY_H
#define JOULEFLOW_SUPPLY_H

#include <stdint.h>

struct supply {
    /* constants */
    const double *time_s;  /* [n_samples] starts at 0, increasing */
    const double *power_w; /* [n_samples] before the input converter, holds until the next time */
    uint64_t n_samples;
    double duration_s;     /* of the trace */
    double input_eff_frac, leak_w;
    double on_j, off_j, max_j; /* energies from 0 V */
    /* state */
    double now_s, energy_j;
    double period_start_s; /* when the current repetition of the trace began */
    uint64_t sample;
    /* ledger */
    double harvested_j, converter_j, clipped_j, leaked_j, spent_j;
};

/* Sets the clock: the trace starts at phase_s. Clears the ledger. */
void supply_start(struct supply *s, double phase_s, double energy_j);

/* Drains load_w for at most duration_s; returns how long the store stayed above off_j (duration_s if to the end). */
double supply_drain(struct supply *s, double load_w, double duration_s);

/* How long the store would stay above off_j under load_w, at most horizon_s. Changes nothing. */
double supply_life(const struct supply *s, double load_w, double horizon_s);

/* Charges without a load until on_j, at most duration_s. Returns 1 when on_j was reached. */
int supply_charge(struct supply *s, double duration_s);

#endif
