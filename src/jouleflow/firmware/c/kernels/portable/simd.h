/* The inner loops of dsp/simd.h in plain C, for every core. Patches hold their values in order. */
#ifndef JOULEFLOW_SIMD_H
#define JOULEFLOW_SIMD_H

#include <stdint.h>

static inline int16_t *widen(int16_t *to, const int8_t *from, int32_t n)
{
    for (; n > 0; n -= 4, from += 4, to += 4)
        to[0] = from[0], to[1] = from[1], to[2] = from[2], to[3] = from[3];
    return to;
}

static inline int32_t patch_index(int32_t i) { return i; }

static inline void dot_2x2(const int8_t *w, const int16_t *a, const int16_t *b, int32_t n, int32_t acc[4])
{
    for (; n > 0; n -= 4, w += 8, a += 4, b += 4)
        for (int i = 0; i < 4; i++) {
            acc[0] += w[i] * a[i];
            acc[1] += w[4 + i] * a[i];
            acc[2] += w[i] * b[i];
            acc[3] += w[4 + i] * b[i];
        }
}

static inline void dot_1x2(const int8_t *w, const int16_t *a, int32_t n, int32_t acc[2])
{
    for (; n > 0; n -= 4, w += 8, a += 4)
        for (int i = 0; i < 4; i++) {
            acc[0] += w[i] * a[i];
            acc[1] += w[4 + i] * a[i];
        }
}

static inline int32_t sum_patch(const int16_t *a, int32_t n)
{
    int32_t sum = 0;
    while (n-- > 0) sum += *a++;
    return sum;
}

static inline void depthwise_4(const int8_t *const *taps, int32_t channel, const int8_t *w, int32_t n_taps,
                               int32_t acc[4])
{
    for (; n_taps > 0; n_taps -= 2, taps += 2, w += 8) {
        const int8_t *x0 = taps[0] + channel, *x1 = taps[1] + channel;
        acc[0] += x0[0] * w[0] + x1[0] * w[2];
        acc[1] += x0[1] * w[1] + x1[1] * w[3];
        acc[2] += x0[2] * w[4] + x1[2] * w[6];
        acc[3] += x0[3] * w[5] + x1[3] * w[7];
    }
}

static inline int32_t mul_high_rounded(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b + 0x80000000LL) >> 32);
}

static inline int32_t saturate_half(int32_t x)
{
    x >>= 1;
    return x < -128 ? -128 : x > 127 ? 127 : x;
}

static inline void split_pixels(int16_t *to, int32_t pitch, const int8_t *x, const int8_t *next)
{
    for (int32_t i = 0; i < 4; i++, to += pitch / 2) to[0] = x[i], to[1] = next[i];
}

static inline void taps_3x3(const int16_t *x, int32_t row_bytes, int32_t stride, const uint32_t w[6], int32_t acc[2])
{
    for (int32_t row = 0; row < 3; row++, x += row_bytes / 2) {
        int32_t w0 = (int16_t)w[2 * row], w1 = (int16_t)w[2 * row + 1], w2 = (int32_t)w[2 * row + 1] >> 16;
        acc[0] += x[0] * w0 + x[1] * w1 + x[2] * w2;
        acc[1] += x[stride] * w0 + x[stride + 1] * w1 + x[stride + 2] * w2;
    }
}

#endif
