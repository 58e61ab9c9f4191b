/* Depthwise convolution 3 x 3 by planes: a few rows of four channels are widened and taken apart, then each channel
 * slides along its own plane, two outputs at a time, with its nine weights in registers. */
#include "kernels.h"
#include "requant.h"
#include "simd.h"

/* Input columns [x0, x0 + n_cols) of rows [y0, y0 + n_rows), channels m .. m + 3: row after row, four planes in each.
 * Outside the input stands its zero point. n_cols is even. */
static void split(const struct op *op, const struct job *j, int32_t zero, int32_t y0, int32_t n_rows, int32_t x0,
                  int32_t n_cols, int32_t m, int16_t *to)
{
    const struct operand *x = &op->inputs[0];
    const struct view *in = &j->in[0];
    int32_t depth = x->channels, left = x0 < 0 ? -x0 : 0, end = x0 + n_cols > x->cols ? x->cols - x0 : n_cols;
    for (int32_t y = y0; y < y0 + n_rows; y++, to += 4 * n_cols) {
        int inside = y >= 0 && y < x->rows;
        int32_t from = inside ? left : n_cols, until = inside ? end : n_cols;
        for (int32_t i = 0; i < 4; i++) {
            for (int32_t c = 0; c < from; c++) to[i * n_cols + c] = (int16_t)zero;
            for (int32_t c = until; c < n_cols; c++) to[i * n_cols + c] = (int16_t)zero;
        }
        if (!inside) continue;
        const int8_t *v = in->at + (y - in->row0) * in->row_stride + (x0 + from - in->col0) * depth + m;
        int32_t c = from;
        if (c & 1) { /* the first pixel alone, up to an even column */
            for (int32_t i = 0; i < 4; i++) to[i * n_cols + c] = v[i];
            c++, v += depth;
        }
        for (; c + 1 < until; c += 2, v += 2 * depth) split_pixels(to + c, 2 * n_cols, v, v + depth);
        if (c < until)
            for (int32_t i = 0; i < 4; i++) to[i * n_cols + c] = v[i];
    }
}

static int32_t at_most(int32_t a, int32_t b) { return a < b ? a : b; }

/* Some rows of outputs; of the planes and of the output, the bytes from one row to the next. */
struct strip {
    const int16_t *x;
    int32_t x_row, out_row, out_col, n_rows, n_cols;
    int8_t *out;
    int32_t *sums; /* n_cols, rounded up to even */
};

/* Channel m of a strip. First a row of accumulators, with only the weights in registers, then what becomes of them. */
static inline __attribute__((always_inline)) void slide(const struct depthwise3 *d, const struct strip *s, int32_t row_step,
                                                        int32_t stride, int32_t m, int plain)
{
    const struct requant *q = &d->requant;
    const struct channel c = q->channels[m];
    int32_t zero = 2 * q->output_zero + 1, out_col = s->out_col;
    const char *row = (const char *)s->x;
    int8_t *out_row = s->out;
    for (int32_t n_rows = s->n_rows; n_rows > 0; n_rows--, row += row_step, out_row += s->out_row) {
        int32_t *sums = s->sums;
        {
            const int16_t *x = (const int16_t *)(const void *)row;
            int32_t x_row = s->x_row, *end = sums + s->n_cols;
            uint32_t w[6];
            __builtin_memcpy(w, d->weights + 12 * m, sizeof w);
            for (; sums < end; sums += 2, x += 2 * stride) {
                int32_t acc[2] = {0, 0};
                taps_3x3(x, x_row, stride, w, acc);
                sums[0] = acc[0], sums[1] = acc[1];
            }
        }
        sums = s->sums;
        int8_t *out = out_row;
#pragma GCC unroll 2
        for (int32_t n = s->n_cols; n > 0; n--, out += out_col) {
            int32_t acc = c.bias + *sums++;
            *out = (int8_t)(plain ? to_int8_plain(&c, acc, zero) : to_int8_mixed(q, m, acc));
        }
    }
}

__attribute__((noinline)) static void slide_1(const struct depthwise3 *d, const struct strip *s, int32_t row_step, int32_t m)
{
    slide(d, s, row_step, 1, m, 1);
}

__attribute__((noinline)) static void slide_2(const struct depthwise3 *d, const struct strip *s, int32_t row_step, int32_t m)
{
    slide(d, s, row_step, 2, m, 1);
}

__attribute__((noinline)) static void slide_any(const struct depthwise3 *d, const struct strip *s, int32_t row_step, int32_t stride,
                                                int32_t m)
{
    slide(d, s, row_step, stride, m, 0);
}

int depthwise3_s8(const struct op *op, const struct job *j)
{
    const struct depthwise3 *d = op->constants;
    const struct window *w = &op->window;
    int32_t stride = w->stride_w, n_out = j->c1 - j->c0;
    int32_t *sums = (int32_t *)(void *)j->scratch;
    int16_t *planes = (int16_t *)(void *)(sums + ((n_out + 1) & ~1));
    int32_t n_cols = ((n_out + 1) & ~1) * stride + 2, x0 = j->c0 * stride - w->pad_left, x_row = 8 * n_cols;
    int32_t row_step = x_row * w->stride_h;
    for (int32_t r = j->r0; r < j->r1; r += DEPTHWISE3_ROWS) {
        int32_t n = at_most(DEPTHWISE3_ROWS, j->r1 - r);
        for (int32_t m = j->m0; m < j->m1; m += 4) {
            split(op, j, d->input_zero, r * w->stride_h - w->pad_top, (n - 1) * w->stride_h + 3, x0, n_cols, m, planes);
            for (int32_t i = 0; i < 4 && m + i < j->m1; i++) {
                struct strip s = {planes + i * n_cols, x_row, j->out_row_stride, j->out_col_stride, n, n_out,
                                  j->out + (r - j->r0) * j->out_row_stride + m + i - j->m0, sums};
                if (!d->requant.plain)
                    slide_any(d, &s, row_step, stride, m + i);
                else if (stride == 1)
                    slide_1(d, &s, row_step, m + i);
                else
                    slide_2(d, &s, row_step, m + i);
            }
        }
    }
    return 0;
}
