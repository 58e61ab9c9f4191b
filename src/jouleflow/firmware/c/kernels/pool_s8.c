/* Pooling: average, maximum, mean. Padding is never counted. */
#include "kernels.h"
#include "requant.h"

/* The part of a pooling window that lies inside the input. */
struct area {
    int32_t y0, y1, x0, x1;
};

static struct area inside(const struct op *op, int32_t r, int32_t c)
{
    const struct window *w = &op->window;
    const struct operand *x = &op->inputs[0];
    int32_t y = r * w->stride_h - w->pad_top, xx = c * w->stride_w - w->pad_left;
    return (struct area){y < 0 ? 0 : y, y + w->kernel_h > x->rows ? x->rows : y + w->kernel_h, xx < 0 ? 0 : xx,
                         xx + w->kernel_w > x->cols ? x->cols : xx + w->kernel_w};
}

static int32_t sum_over(const struct op *op, const struct view *in, struct area a, int32_t m)
{
    int32_t acc = 0, depth = op->inputs[0].channels;
    for (int32_t y = a.y0; y < a.y1; y++) {
        const int8_t *v = in->at + (y - in->row0) * in->row_stride + (a.x0 - in->col0) * depth + m;
        for (int32_t x = a.x0; x < a.x1; x++, v += depth) acc += *v;
    }
    return acc;
}

static int8_t *out_pixel(const struct job *j, int32_t r, int32_t c)
{
    return j->out + (r - j->r0) * j->out_row_stride + (c - j->c0) * j->out_col_stride;
}

int avg_pool_s8(const struct op *op, const struct job *j)
{
    const struct pool *p = op->constants;
    for (int32_t r = j->r0; r < j->r1; r++)
        for (int32_t c = j->c0; c < j->c1; c++) {
            struct area a = inside(op, r, c);
            int32_t n = (a.y1 - a.y0) * (a.x1 - a.x0);
            int8_t *out = out_pixel(j, r, c);
            for (int32_t m = j->m0; m < j->m1; m++) {
                int32_t acc = sum_over(op, &j->in[0], a, m);
                int32_t mean = p->halves_up ? (acc + 128 * n + n / 2) / n - 128 : (acc > 0 ? acc + n / 2 : acc - n / 2) / n;
                *out++ = (int8_t)clamp(mean, p->act_min, p->act_max);
            }
        }
    return 0;
}

int max_pool_s8(const struct op *op, const struct job *j)
{
    const struct pool *p = op->constants;
    const struct view *in = &j->in[0];
    int32_t depth = op->inputs[0].channels;
    for (int32_t r = j->r0; r < j->r1; r++)
        for (int32_t c = j->c0; c < j->c1; c++) {
            struct area a = inside(op, r, c);
            int8_t *out = out_pixel(j, r, c);
            for (int32_t m = j->m0; m < j->m1; m++) {
                int32_t best = -128;
                for (int32_t y = a.y0; y < a.y1; y++) {
                    const int8_t *v = in->at + (y - in->row0) * in->row_stride + (a.x0 - in->col0) * depth + m;
                    for (int32_t x = a.x0; x < a.x1; x++, v += depth) best = *v > best ? *v : best;
                }
                *out++ = (int8_t)clamp(best, p->act_min, p->act_max);
            }
        }
    return 0;
}

int mean_s8(const struct op *op, const struct job *j)
{
    const struct mean *p = op->constants;
    struct area a = {0, op->inputs[0].rows, 0, op->inputs[0].cols};
    int8_t *out = j->out;
    for (int32_t m = j->m0; m < j->m1; m++) {
        int32_t acc = sum_over(op, &j->in[0], a, m) - p->input_zero_sum;
        *out++ = (int8_t)clamp(scale_int32(acc, p->multiplier, p->shift) + p->output_zero, -128, 127);
    }
    return 0;
}
