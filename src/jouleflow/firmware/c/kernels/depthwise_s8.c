/* Depthwise convolution, one filter a channel, four channels at a time. Taps outside the input read its zero point. */
#include "kernels.h"
#include "requant.h"
#include "simd.h"

/* The channels that are left over: fewer than four, or rounded another way. */
__attribute__((noinline)) static void emit_last(const struct depthwise *d, int32_t m, int32_t m_end, const int32_t *acc,
                                                int8_t *out)
{
    for (int32_t i = 0; i < 4 && m + i < m_end; i++) out[i] = (int8_t)to_int8_mixed(&d->requant, m + i, acc[i]);
}

int depthwise_s8(const struct op *op, const struct job *j)
{
    const struct depthwise *d = op->constants;
    const struct window *w = &op->window;
    const struct operand *x = &op->inputs[0];
    const struct view *in = &j->in[0];
    const int8_t **taps = (const int8_t **)(void *)j->scratch;
    int32_t whole = j->m1 < d->requant.n_halves_up ? j->m1 : d->requant.n_halves_up;
    int32_t n_taps = (int32_t)w->kernel_h * w->kernel_w, even = (n_taps + 1) & ~1;
    for (int32_t r = j->r0; r < j->r1; r++)
        for (int32_t col = j->c0; col < j->c1; col++) {
            int8_t *out = j->out + (r - j->r0) * j->out_row_stride + (col - j->c0) * j->out_col_stride;
            int32_t y = r * w->stride_h - w->pad_top, t = 0;
            for (int32_t ky = 0; ky < w->kernel_h; ky++, y += w->dilation_h) {
                int32_t xx = col * w->stride_w - w->pad_left;
                int row_inside = y >= 0 && y < x->rows;
                for (int32_t kx = 0; kx < w->kernel_w; kx++, xx += w->dilation_w)
                    taps[t++] = row_inside && xx >= 0 && xx < x->cols
                                    ? in->at + (y - in->row0) * in->row_stride + (xx - in->col0) * x->channels
                                    : d->zero_row;
            }
            if (n_taps < even) taps[n_taps] = d->zero_row; /* its weights are 0 */
            const int8_t *weights = d->weights + j->m0 * even;
            for (int32_t m = j->m0; m < j->m1; m += 4, weights += 4 * even, out += 4) {
                const struct channel *c = d->requant.channels + m;
                int32_t acc[4] = {c[0].bias, c[1].bias, c[2].bias, c[3].bias};
                depthwise_4(taps, m, weights, even, acc);
                if (m + 4 <= whole)
                    for (int32_t i = 0; i < 4; i++) out[i] = (int8_t)to_int8(&d->requant, c + i, acc[i]);
                else
                    emit_last(d, m, j->m1, acc, out);
            }
        }
    return 0;
}
