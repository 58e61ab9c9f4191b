/* Element by element: add, mul, lookup tables. */
#include "kernels.h"
#include "requant.h"

static const int8_t *pixel(const struct op *op, const struct view *v, int32_t k, int32_t r, int32_t c)
{
    return v->at + (r - v->row0) * v->row_stride + (c - v->col0) * op->inputs[k].channels;
}

int add_s8(const struct op *op, const struct job *j)
{
    const struct add *a = op->constants;
    for (int32_t r = j->r0; r < j->r1; r++)
        for (int32_t c = j->c0; c < j->c1; c++) {
            const int8_t *x = pixel(op, &j->in[0], 0, r, c);
            const int8_t *y = a->constant ? a->constant + r * a->constant_row + c * a->constant_col
                                          : pixel(op, &j->in[1], 1, r, c);
            int32_t step = a->constant ? a->constant_channel : 1;
            int8_t *out = j->out + (r - j->r0) * j->out_row_stride + (c - j->c0) * j->out_col_stride;
            for (int32_t m = j->m0; m < j->m1; m++) {
                int32_t sum = a->table[0][x[m] + 128] + a->table[1][y[m * step] + 128];
                *out++ = (int8_t)clamp(scale_int32(sum, a->multiplier, a->shift) + a->output_zero, a->act_min, a->act_max);
            }
        }
    return 0;
}

int mul_s8(const struct op *op, const struct job *j)
{
    const struct mul *a = op->constants;
    for (int32_t r = j->r0; r < j->r1; r++)
        for (int32_t c = j->c0; c < j->c1; c++) {
            const int8_t *x = pixel(op, &j->in[0], 0, r, c);
            const int8_t *y = a->constant ? a->constant + r * a->constant_row + c * a->constant_col
                                          : pixel(op, &j->in[1], 1, r, c);
            int32_t step = a->constant ? a->constant_channel : 1;
            int8_t *out = j->out + (r - j->r0) * j->out_row_stride + (c - j->c0) * j->out_col_stride;
            for (int32_t m = j->m0; m < j->m1; m++) {
                int32_t product = (x[m] - a->zero[0]) * (y[m * step] - a->zero[1]);
                *out++ = (int8_t)clamp(scale_int32(product, a->multiplier, a->shift) + a->output_zero, a->act_min, a->act_max);
            }
        }
    return 0;
}

int lookup_s8(const struct op *op, const struct job *j)
{
    const struct lookup *l = op->constants;
    for (int32_t r = j->r0; r < j->r1; r++)
        for (int32_t c = j->c0; c < j->c1; c++) {
            const int8_t *x = pixel(op, &j->in[0], 0, r, c);
            int8_t *out = j->out + (r - j->r0) * j->out_row_stride + (c - j->c0) * j->out_col_stride;
            int32_t first = (r * op->output.cols + c) * op->output.channels;
            for (int32_t m = j->m0; m < j->m1; m++) *out++ = (first + m < l->n_first ? l->table : l->last_table)[x[m] + 128];
        }
    return 0;
}
