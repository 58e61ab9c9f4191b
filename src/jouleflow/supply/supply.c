#include "supply.h"

static double segment_end(const struct supply *s)
{
    double end = s->sample + 1 < s->n_samples ? s->time_s[s->sample + 1] : s->duration_s;
    return s->period_start_s + end;
}

static void next_segment(struct supply *s)
{
    if (++s->sample == s->n_samples) {
        s->sample = 0;
        s->period_start_s += s->duration_s;
    }
}

void supply_start(struct supply *s, double phase_s, double energy_j)
{
    s->now_s = 0.0;
    s->energy_j = energy_j;
    s->period_start_s = -phase_s;
    s->sample = 0;
    while (segment_end(s) <= 0.0) next_segment(s);
    s->harvested_j = s->converter_j = s->clipped_j = s->leaked_j = s->spent_j = 0.0;
}

/* One stretch of constant powers, known to stay above 0 J. */
static void book(struct supply *s, double load_w, double dt_s)
{
    double raw = s->power_w[s->sample] * dt_s, in = raw * s->input_eff_frac;
    double leak = s->leak_w * dt_s, load = load_w * dt_s;
    double energy = s->energy_j + in - leak - load;
    if (energy < 0.0) { /* an empty store has nothing to leak */
        leak += energy;
        energy = 0.0;
    }
    if (energy > s->max_j) {
        s->clipped_j += energy - s->max_j;
        energy = s->max_j;
    }
    s->harvested_j += raw;
    s->converter_j += raw - in;
    s->leaked_j += leak;
    s->spent_j += load;
    s->energy_j = energy;
    s->now_s += dt_s;
}

double supply_drain(struct supply *s, double load_w, double duration_s)
{
    double left_s = duration_s;
    while (left_s > 0.0) {
        double dt = segment_end(s) - s->now_s;
        int crosses = dt <= left_s;
        if (!crosses) dt = left_s;
        double net_w = s->power_w[s->sample] * s->input_eff_frac - s->leak_w - load_w;
        if (net_w < 0.0) {
            double life = (s->energy_j - s->off_j) / -net_w;
            if (life < dt) {
                book(s, load_w, life > 0.0 ? life : 0.0);
                s->energy_j = s->energy_j < s->off_j ? s->energy_j : s->off_j;
                return duration_s - left_s + (life > 0.0 ? life : 0.0);
            }
        }
        if (dt > 0.0) book(s, load_w, dt);
        left_s -= dt;
        if (crosses) {
            s->now_s = segment_end(s); /* no drift by rounding */
            next_segment(s);
        }
    }
    return duration_s;
}

double supply_life(const struct supply *s, double load_w, double horizon_s)
{
    struct supply copy = *s;
    return supply_drain(&copy, load_w, horizon_s);
}

int supply_charge(struct supply *s, double duration_s)
{
    double end_s = s->now_s + duration_s;
    while (s->energy_j < s->on_j) {
        if (s->now_s >= end_s) return 0;
        double dt = segment_end(s) - s->now_s;
        int crosses = 1;
        if (s->now_s + dt > end_s) {
            dt = end_s - s->now_s;
            crosses = 0;
        }
        double net_w = s->power_w[s->sample] * s->input_eff_frac - s->leak_w;
        if (net_w > 0.0) {
            double need = (s->on_j - s->energy_j) / net_w;
            if (need <= dt) {
                book(s, 0.0, need);
                s->energy_j = s->on_j;
                return 1;
            }
        }
        if (dt > 0.0) book(s, 0.0, dt);
        if (crosses) {
            s->now_s = segment_end(s);
            next_segment(s);
        } else {
            s->now_s = end_s;
        }
    }
    return 1;
}
