/* Moving values without computing: concat, pad, resize. */
#include "kernels.h"

static int8_t *out_pixel(const struct job *j, int32_t r, int32_t c)
{
    return j->out + (r - j->r0) * j->out_row_stride + (c - j->c0) * j->out_col_stride;
}

static int8_t mapped(const int8_t *table, int8_t x) { return table ? table[x + 128] : x; }

int concat_s8(const struct op *op, const struct job *j)
{
    const struct concat *k = op->constants;
    for (int32_t r = j->r0; r < j->r1; r++)
        for (int32_t c = j->c0; c < j->c1; c++)
            for (int32_t m = j->m0; m < j->m1; m++) {
                int32_t at[3] = {r, c, m};
                uint32_t i = op->n_inputs - 1u;
                while (at[k->axis] < k->start[i]) i--;
                at[k->axis] -= k->start[i];
                const struct view *v = &j->in[i];
                const int8_t *x =
                    v->at + (at[0] - v->row0) * v->row_stride + (at[1] - v->col0) * op->inputs[i].channels + at[2];
                out_pixel(j, r, c)[m - j->m0] = mapped(k->table[i], *x);
            }
    return 0;
}

int pad_s8(const struct op *op, const struct job *j)
{
    const struct pad *p = op->constants;
    const struct operand *x = &op->inputs[0];
    const struct view *in = &j->in[0];
    for (int32_t r = j->r0; r < j->r1; r++)
        for (int32_t c = j->c0; c < j->c1; c++) {
            int32_t y = r - op->window.pad_top, xx = c - op->window.pad_left;
            int inside = y >= 0 && y < x->rows && xx >= 0 && xx < x->cols;
            const int8_t *v = in->at + (y - in->row0) * in->row_stride + (xx - in->col0) * x->channels;
            int8_t *out = out_pixel(j, r, c);
            for (int32_t m = j->m0; m < j->m1; m++) *out++ = inside ? v[m] : p->value;
        }
    return 0;
}

int resize_nearest_s8(const struct op *op, const struct job *j)
{
    const struct resize *k = op->constants;
    const struct view *in = &j->in[0];
    for (int32_t r = j->r0; r < j->r1; r++)
        for (int32_t c = j->c0; c < j->c1; c++) {
            const int8_t *v = in->at + (k->row[r] - in->row0) * in->row_stride +
                              (k->col[c] - in->col0) * op->inputs[0].channels;
            int8_t *out = out_pixel(j, r, c);
            for (int32_t m = j->m0; m < j->m1; m++) *out++ = v[m];
        }
    return 0;
}
