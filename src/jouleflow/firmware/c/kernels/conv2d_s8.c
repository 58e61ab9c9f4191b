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

/* acc of channels 0 and 1 of one pixel. */
static inline __attribute__((always_inline)) void emit(const struct requant *q, const struct channel *c, int plain, int32_t zero, const int32_t acc[2],
                        int8_t *out, int both)
{
    out[0] = (int8_t)(plain ? to_int8_plain(c, acc[0], zero) : to_int8(q, c, acc[0]));
    if (both) out[1] = (int8_t)(plain ? to_int8_plain(c + 1, acc[1], zero) : to_int8(q, c + 1, acc[1]));
}

/* The sum of a patch, without what was read past the end of each run. */
static int32_t sum_of(const struct conv *k, const int16_t *patch)
{
    int32_t sum = 0;
    for (int32_t run = 0; run < k->n_runs; run++, patch += k->run_padded) {
        sum += sum_patch(patch, k->run_padded);
        for (int32_t i = k->run_bytes; i < k->run_padded; i++) sum -= patch[patch_index(i)];
    }
    return sum;
}

/* Patch a (and b, unless null) meet channels [m0, m1). plain is a constant. Layers whose weights have a zero point are
 * never plain, so that the others keep their registers. */
static inline __attribute__((always_inline)) void channels(const struct conv *k, const int8_t *w, const int16_t *a, const int16_t *b, int32_t n, int32_t m0,
                            int32_t m1, int plain, int8_t *out_a, int8_t *out_b)
{
    const struct requant *q = &k->requant;
    const struct channel *c = q->channels + m0, *last = q->channels + m1;
    int32_t zero = 2 * q->output_zero + 1, off_a = 0, off_b = 0;
    if (!plain && k->weight_zero) { /* the same for all channels */
        off_a = k->weight_zero * sum_of(k, a);
        if (b) off_b = k->weight_zero * sum_of(k, b);
    }
    for (; c < last; c += 2, w += 2 * n, out_a += 2, out_b += 2) {
        int both = c + 1 < last;
        if (b) {
            int32_t acc[4] = {c[0].bias - off_a, c[1].bias - off_a, c[0].bias - off_b, c[1].bias - off_b};
            dot_2x2(w, a, b, n, acc);
            emit(q, c, plain, zero, acc, out_a, both);
            emit(q, c, plain, zero, acc + 2, out_b, both);
        } else {
            int32_t acc[2] = {c[0].bias - off_a, c[1].bias - off_a};
            dot_1x2(w, a, n, acc);
            emit(q, c, plain, zero, acc, out_a, both);
        }
    }
}

static inline __attribute__((always_inline)) void pixels(const struct op *op, const struct job *j, int plain)
{
    const struct conv *k = op->constants;
    const struct view *in = &j->in[0];
    const struct window *w = &op->window;
    int32_t n = (int32_t)k->n_runs * k->run_padded, depth = op->inputs[0].channels;
    int16_t *a = (int16_t *)(void *)j->scratch, *b = a + n;
    const int8_t *weights = k->weights + j->m0 * n;
    int one_tap = k->n_runs == 1 && w->kernel_w == 1 && !w->pad_top && !w->pad_left;
    int8_t *out_of[2];
    int32_t waiting = 0; /* pixels gathered and not yet multiplied */
    for (int32_t r = j->r0; r < j->r1; r++) {
        int8_t *out = j->out + (r - j->r0) * j->out_row_stride;
        const int8_t *row = in->at + (r * w->stride_h - in->row0) * in->row_stride - in->col0 * depth;
        for (int32_t col = j->c0; col < j->c1; col++, out += j->out_col_stride) {
            int16_t *patch = waiting ? b : a;
            if (one_tap)
                widen(patch, row + col * w->stride_w * depth, depth);
            else
                gather(op, k, in, r, col, patch);
            out_of[waiting++] = out;
            if (waiting == 2) {
                channels(k, weights, a, b, n, j->m0, j->m1, plain, out_of[0], out_of[1]);
                waiting = 0;
            }
        }
    }
    if (waiting) channels(k, weights, a, 0, n, j->m0, j->m1, plain, out_of[0], out_of[0]);
}

int conv2d_s8(const struct op *op, const struct job *j)
{
    const struct conv *k = op->constants;
    if (k->requant.plain)
        pixels(op, j, 1);
    else
        pixels(op, j, 0);
    return 0;
}

/* The whole input is one patch of one run. */
int dense_s8(const struct op *op, const struct job *j)
{
    const struct conv *k = op->constants;
    int32_t n = k->run_padded;
    int16_t *a = (int16_t *)(void *)j->scratch;
    widen(a, j->in[0].at, k->run_bytes);
    if (k->requant.plain)
        channels(k, k->weights + j->m0 * n, a, 0, n, j->m0, j->m1, 1, j->out, j->out);
    else
        channels(k, k->weights + j->m0 * n, a, 0, n, j->m0, j->m1, 0, j->out, j->out);
    return 0;
}
