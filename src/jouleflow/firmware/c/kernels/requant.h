/* From accumulators to int8, rounded twice as TFLite does. */
#ifndef JOULEFLOW_REQUANT_H
#define JOULEFLOW_REQUANT_H

#include "kernels.h"
#include "simd.h"

/* x * multiplier * 2^(shift - 31): a doubling high product rounded to nearest, then a right shift rounded away from 0.
 * Left shifts wrap as TFLite's do, which is why they are done unsigned. */
static inline int32_t scale_int32(int32_t x, int32_t multiplier, int32_t shift)
{
    if (shift > 0) {
        int64_t wide = (int64_t)(int32_t)((uint32_t)x << shift) * multiplier;
        return (int32_t)((wide + (1 << 30)) >> 31);
    }
    int32_t high = (int32_t)(((int64_t)x * multiplier + (1 << 30)) >> 31);
    int32_t right = -shift, mask = (int32_t)((1u << right) - 1u);
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0));
}

static inline int32_t clamp(int32_t x, int32_t low, int32_t high)
{
    return x < low ? low : x > high ? high : x;
}

/* The same for accumulators of convolution and dense layers, where TFLite's right shift rounds halves up. */
static inline int32_t scale_accumulator(int32_t x, int32_t multiplier, int32_t shift)
{
    if (shift > 0) return scale_int32(x, multiplier, shift);
    int32_t high = (int32_t)(((int64_t)x * multiplier + (1 << 30)) >> 31);
    return (high + (int32_t)((1u << -shift) >> 1)) >> -shift;
}

/* For kernels whose channels all round halves up. */
static inline int32_t to_int8(const struct requant *q, const struct channel *c, int32_t acc)
{
    return clamp(scale_accumulator(acc, c->multiplier, c->shift) + q->output_zero, q->act_min, q->act_max);
}

static inline int32_t to_int8_mixed(const struct requant *q, int32_t channel, int32_t acc)
{
    const struct channel *c = &q->channels[channel];
    if (channel < q->n_halves_up) return to_int8(q, c, acc);
    return clamp(scale_int32(acc, c->multiplier, c->shift) + q->output_zero, q->act_min, q->act_max);
}

/* The same for a plain requant: the doubled accumulator's high product rounded, then two shifts with a half between them. */
static inline int32_t to_int8_plain(const struct channel *c, int32_t acc, int32_t twice_zero_and_one)
{
    return saturate_half((mul_high_rounded((int32_t)((uint32_t)acc << 1), c->multiplier) >> c->shift) + twice_zero_and_one);
}

#endif
