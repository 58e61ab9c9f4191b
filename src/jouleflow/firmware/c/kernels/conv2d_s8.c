/* Convolution by patches: the inputs of one or two output pixels are widened once, then meet all output channels. */
#include "kernels.h"
#include "requant.h"
#include "simd.h"

/* Puts `value` at patch positions [from, to). */
static void fill(int16_t *patch, int32_t from, int32_t to, int16_t value)
{
    for (int32_t i = from; i < to; i++) patch[patch_index(i)] = value;
}

/* Widens one run that may begin or end outside the input: `skip` bytes before it and `n_in` bytes inside. */
static void gather_edge(int16_t *patch, const int8_t *inside, int32_t skip, int32_t n_in, int32_t run, int32_t padded,
                        int16_t zero)
{
    fill(patch, 0, skip, zero);
    for (int32_t i = 0; i < n_in; i++) patch[patch_index(skip + i)] = inside[i];
    fill(patch, skip + n_in, run, zero);
    fill(patch, run, padded, 0);
}

static void gather(const struct op *op, const struct conv *c, const struct view *in, int32_t r, int32_t col,
                   int16_t *patch)
{
    const struct window *w = &op->window;
    const struct operand *x = &op->inputs[0];
    int32_t depth = x->channels, per_run = c->runs_are_rows ? w->kernel_w : 1;
    int32_t x_first = col * w->stride_w - w->pad_left;
    int32_t y = r * w->stride_h - w->pad_top;
    for (int32_t run = 0, tap = 0; run < c->n_runs; run++, patch += c->run_padded) {
        int32_t x0 = x_first + tap * w->dilation_w, x1 = x0 + per_run;
        if (y < 0 || y >= x->rows || x1 <= 0 || x0 >= x->cols) {
            gather_edge(patch, 0, c->run_bytes, 0, c->run_bytes, c->run_padded, c->input_zero);
        } else {
            int32_t left = x0 < 0 ? -x0 : 0, right = x1 > x->cols ? x1 - x->cols : 0;
            const int8_t *from = in->at + (y - in->row0) * in->row_stride + (x0 + left - in->col0) * depth;
            if (left | right)
                gather_edge(patch, from, left * depth, (per_run - left - right) * depth, c->run_bytes, c->run_padded,
                            c->input_zero);
            else
                widen(patch, from, c->run_bytes);
        }
        if (c->runs_are_rows || ++tap == w->kernel_w) {
            tap = 0;
            y += w->dilation_h;
        }
    }
}

static void emit(const struct conv *c, int32_t m, int32_t m_end, const int32_t acc[2], int8_t *out)
{
    out[0] = to_int8(&c->requant, m, acc[0]);
    if (m + 1 < m_end) out[1] = to_int8(&c->requant, m + 1, acc[1]);
}

int conv2d_s8(const struct op *op, const struct job *j)
{
    const struct conv *c = op->constants;
    int32_t n = (int32_t)c->n_runs * c->run_padded;
    int16_t *a = (int16_t *)(void *)j->scratch, *b = a + n;
    int32_t n_cols = j->c1 - j->c0, n_pixels = (j->r1 - j->r0) * n_cols;
    for (int32_t p = 0; p < n_pixels; p += 2) {
        int32_t q = p + 1;
        int32_t pr = p / n_cols, pc = p % n_cols, qr = q / n_cols, qc = q % n_cols;
        int8_t *out_a = j->out + pr * j->out_row_stride + pc * j->out_col_stride;
        int8_t *out_b = j->out + qr * j->out_row_stride + qc * j->out_col_stride;
        const int8_t *w = c->weights + j->m0 * n;
        gather(op, c, &j->in[0], j->r0 + pr, j->c0 + pc, a);
        if (q == n_pixels) {
            for (int32_t m = j->m0; m < j->m1; m += 2, w += 2 * n, out_a += 2) {
                int32_t acc[2] = {c->bias[m], c->bias[m + 1]};
                dot_1x2(w, a, n, acc);
                emit(c, m, j->m1, acc, out_a);
            }
            break;
        }
        gather(op, c, &j->in[0], j->r0 + qr, j->c0 + qc, b);
        for (int32_t m = j->m0; m < j->m1; m += 2, w += 2 * n, out_a += 2, out_b += 2) {
            int32_t acc[4] = {c->bias[m], c->bias[m + 1], c->bias[m], c->bias[m + 1]};
            dot_2x2(w, a, b, n, acc);
            emit(c, m, j->m1, acc, out_a);
            emit(c, m, j->m1, acc + 2, out_b);
        }
    }
    return 0;
}

/* The whole input is one patch of one run. */
int dense_s8(const struct op *op, const struct job *j)
{
    const struct conv *c = op->constants;
    int32_t n = c->run_padded;
    int16_t *a = (int16_t *)(void *)j->scratch;
    const int8_t *w = c->weights + j->m0 * n;
    int8_t *out = j->out;
    widen(a, j->in[0].at, c->run_bytes);
    for (int32_t m = j->m0; m < j->m1; m += 2, w += 2 * n, out += 2) {
        int32_t acc[2] = {c->bias[m], c->bias[m + 1]};
        dot_1x2(w, a, n, acc);
        emit(c, m, j->m1, acc, out);
    }
    return 0;
}
