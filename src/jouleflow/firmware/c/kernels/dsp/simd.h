/* Inner loops for cores with the DSP extension (Cortex-M4, M7, M33+dsp): two 16-bit products an instruction.
 *
 * A patch holds int16 values in groups of four in the order 0, 2, 1, 3, which is what SXTB16 makes of a word of int8
 * and what it makes of the weights, so nothing has to be shuffled. */
#ifndef JOULEFLOW_SIMD_H
#define JOULEFLOW_SIMD_H

#include <arm_acle.h>
#include <stdint.h>

static inline uint32_t load4(const int8_t *p)
{
    uint32_t v;
    __builtin_memcpy(&v, p, 4);
    return v;
}

/* (a * b + 2^31) >> 32 */
static inline int32_t mul_high_rounded(int32_t a, int32_t b)
{
    int32_t r;
    __asm__("smmulr %0, %1, %2" : "=r"(r) : "r"(a), "r"(b));
    return r;
}

/* x / 2, rounded down, kept within int8. */
static inline int32_t saturate_half(int32_t x)
{
    int32_t r;
    __asm__("ssat %0, #8, %1, asr #1" : "=r"(r) : "r"(x));
    return r;
}

#define EVEN(w) __sxtb16(w)
#define ODD(w) __sxtb16((w) >> 8 | (w) << 24)

/* int8 to patch order; n is rounded up to a multiple of 4. Returns the end of the patch. */
static inline int16_t *widen(int16_t *to, const int8_t *from, int32_t n)
{
    uint32_t *t = (uint32_t *)(void *)to;
    for (; n > 0; n -= 4, from += 4) {
        uint32_t w = load4(from);
        *t++ = (uint32_t)EVEN(w);
        *t++ = (uint32_t)ODD(w);
    }
    return (int16_t *)(void *)t;
}

/* Where element i of a patch stands. */
static inline int32_t patch_index(int32_t i)
{
    static const uint8_t order[4] = {0, 2, 1, 3};
    return (i & ~3) | order[i & 3];
}

/* acc[0..1] += patch a . weights of two channels; acc[2..3] the same for patch b. n is a multiple of 4. */
static inline void dot_2x2(const int8_t *weights, const int16_t *a, const int16_t *b, int32_t n, int32_t acc[4])
{
    const uint32_t *w = (const uint32_t *)(const void *)weights;
    const uint32_t *pa = (const uint32_t *)(const void *)a, *pb = (const uint32_t *)(const void *)b;
    int32_t a0 = acc[0], a1 = acc[1], b0 = acc[2], b1 = acc[3];
#pragma GCC unroll 4
    for (; n > 0; n -= 4) {
        uint32_t w0 = w[0], w1 = w[1], xa = pa[0], ya = pa[1], xb = pb[0], yb = pb[1];
        w += 2, pa += 2, pb += 2;
        uint32_t e0 = (uint32_t)EVEN(w0), o0 = (uint32_t)ODD(w0), e1 = (uint32_t)EVEN(w1), o1 = (uint32_t)ODD(w1);
        a0 = __smlad((int32_t)e0, (int32_t)xa, a0);
        a0 = __smlad((int32_t)o0, (int32_t)ya, a0);
        b0 = __smlad((int32_t)e0, (int32_t)xb, b0);
        b0 = __smlad((int32_t)o0, (int32_t)yb, b0);
        a1 = __smlad((int32_t)e1, (int32_t)xa, a1);
        a1 = __smlad((int32_t)o1, (int32_t)ya, a1);
        b1 = __smlad((int32_t)e1, (int32_t)xb, b1);
        b1 = __smlad((int32_t)o1, (int32_t)yb, b1);
    }
    acc[0] = a0, acc[1] = a1, acc[2] = b0, acc[3] = b1;
}

static inline void dot_1x2(const int8_t *weights, const int16_t *a, int32_t n, int32_t acc[2])
{
    const uint32_t *w = (const uint32_t *)(const void *)weights;
    const uint32_t *pa = (const uint32_t *)(const void *)a;
    int32_t a0 = acc[0], a1 = acc[1];
#pragma GCC unroll 4
    for (; n > 0; n -= 4) {
        uint32_t w0 = w[0], w1 = w[1], xa = pa[0], ya = pa[1];
        w += 2, pa += 2;
        a0 = __smlad((int32_t)EVEN(w0), (int32_t)xa, a0);
        a0 = __smlad((int32_t)ODD(w0), (int32_t)ya, a0);
        a1 = __smlad((int32_t)EVEN(w1), (int32_t)xa, a1);
        a1 = __smlad((int32_t)ODD(w1), (int32_t)ya, a1);
    }
    acc[0] = a0, acc[1] = a1;
}

/* Sum of a patch; n is even. */
static inline int32_t sum_patch(const int16_t *a, int32_t n)
{
    const uint32_t *p = (const uint32_t *)(const void *)a;
    int32_t sum = 0;
    for (; n > 0; n -= 2) sum = __smlad((int32_t)*p++, 0x00010001, sum);
    return sum;
}

/* acc[0..3] += over taps of x(tap)[channel .. channel + 3] * weight; n_taps is even. */
static inline void depthwise_4(const int8_t *const *taps, int32_t channel, const int8_t *weights, int32_t n_taps,
                               int32_t acc[4])
{
    const uint32_t *w = (const uint32_t *)(const void *)weights;
    int32_t a0 = acc[0], a1 = acc[1], a2 = acc[2], a3 = acc[3];
    for (; n_taps > 0; n_taps -= 2) {
        uint32_t x0 = load4(taps[0] + channel), x1 = load4(taps[1] + channel);
        uint32_t w01 = w[0], w23 = w[1];
        taps += 2, w += 2;
        uint32_t e0 = (uint32_t)EVEN(x0), e1 = (uint32_t)EVEN(x1), o0 = (uint32_t)ODD(x0), o1 = (uint32_t)ODD(x1);
        uint32_t c0 = (e0 & 0xffffu) | (e1 << 16), c2 = (e0 >> 16) | (e1 & 0xffff0000u);
        uint32_t c1 = (o0 & 0xffffu) | (o1 << 16), c3 = (o0 >> 16) | (o1 & 0xffff0000u);
        a0 = __smlad((int32_t)c0, (int32_t)EVEN(w01), a0);
        a1 = __smlad((int32_t)c1, (int32_t)ODD(w01), a1);
        a2 = __smlad((int32_t)c2, (int32_t)EVEN(w23), a2);
        a3 = __smlad((int32_t)c3, (int32_t)ODD(w23), a3);
    }
    acc[0] = a0, acc[1] = a1, acc[2] = a2, acc[3] = a3;
}

/* The four channels of two neighbouring pixels, widened, to four planes that are `pitch` bytes apart. */
static inline void split_pixels(int16_t *to, int32_t pitch, const int8_t *x, const int8_t *next)
{
    uint32_t a = load4(x), b = load4(next);
    uint32_t ea = (uint32_t)EVEN(a), oa = (uint32_t)ODD(a), eb = (uint32_t)EVEN(b), ob = (uint32_t)ODD(b);
    char *t = (char *)to;
    *(uint32_t *)(void *)t = (ea & 0xffffu) | eb << 16;
    *(uint32_t *)(void *)(t + pitch) = (oa & 0xffffu) | ob << 16;
    *(uint32_t *)(void *)(t + 2 * pitch) = ea >> 16 | (eb & 0xffff0000u);
    *(uint32_t *)(void *)(t + 3 * pitch) = oa >> 16 | (ob & 0xffff0000u);
}

/* Two neighbouring outputs of one channel: rows of the plane are row_bytes apart, weights as struct depthwise3 has them.
 * The outputs are at x[0] and x[stride]. */
static inline void taps_3x3(const int16_t *x, int32_t row_bytes, int32_t stride, const uint32_t w[6], int32_t acc[2])
{
    int32_t a = acc[0], b = acc[1];
    const char *p = (const char *)x;
#pragma GCC unroll 3
    for (int row = 0; row < 3; row++) {
        const int32_t *q = (const int32_t *)(const void *)(p + row * row_bytes);
        int32_t w01 = (int32_t)w[2 * row], w12 = (int32_t)w[2 * row + 1], x01 = q[0], x23 = q[1];
        a = __smlad(x01, w01, a);
        a = __smlabt(x23, w12, a);
        if (stride == 1) {
            b = __smlatb(x01, w01, b);
            b = __smlad(x23, w12, b);
        } else {
            b = __smlad(x23, w01, b);
            b = __smlabt(q[2], w12, b);
        }
    }
    acc[0] = a, acc[1] = b;
}

#endif
