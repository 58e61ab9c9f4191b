/* Softmax in single precision, in the order of operations of TFLite's table version. */
#include "kernels.h"
#include "requant.h"

int softmax_s8(const struct op *op, const struct job *j)
{
    const struct softmax *s = op->constants;
    int32_t depth = op->output.channels;
    for (int32_t r = j->r0; r < j->r1; r++)
        for (int32_t c = j->c0; c < j->c1; c++) {
            const struct view *in = &j->in[0];
            const int8_t *x = in->at + (r - in->row0) * in->row_stride + (c - in->col0) * depth;
            int8_t *out = j->out + (r - j->r0) * j->out_row_stride + (c - j->c0) * j->out_col_stride;
            int32_t top = -128;
            for (int32_t m = 0; m < depth; m++) top = x[m] > top ? x[m] : top;
            const float *table = s->exp_table + (255 - top);
            float sum = 0.0f;
            for (int32_t m = 0; m < depth; m++) sum += table[x[m]];
            float inverse = 1.0f / (sum * s->output_scale);
            for (int32_t m = 0; m < depth; m++) {
                int32_t y = (int32_t)(table[x[m]] * inverse + 0.5f) + s->output_zero;
                out[m] = (int8_t)clamp(y, -128, 127);
            }
        }
    return 0;
}
