/* Convolution without scratch memory: slower, for the tightest SRAM budgets, groups, and weights with a zero point. */
#include "kernels.h"
#include "requant.h"

int conv2d_small_s8(const struct op *op, const struct job *j)
{
    const struct conv_small *c = op->constants;
    const struct window *w = &op->window;
    const struct operand *x = &op->inputs[0];
    const struct view *in = &j->in[0];
    int32_t taps_bytes = (int32_t)w->kernel_h * w->kernel_w * c->in_per_group;
    for (int32_t r = j->r0; r < j->r1; r++)
        for (int32_t col = j->c0; col < j->c1; col++) {
            int8_t *out = j->out + (r - j->r0) * j->out_row_stride + (col - j->c0) * j->out_col_stride;
            int32_t y0 = r * w->stride_h - w->pad_top, x0 = col * w->stride_w - w->pad_left;
            for (int32_t m = j->m0; m < j->m1; m++) {
                int32_t acc = c->requant.channels[m].bias, first = m / c->out_per_group * c->in_per_group;
                const int8_t *k = c->weights + m * taps_bytes;
                for (int32_t ky = 0; ky < w->kernel_h; ky++)
                    for (int32_t kx = 0; kx < w->kernel_w; kx++, k += c->in_per_group) {
                        int32_t y = y0 + ky * w->dilation_h, xx = x0 + kx * w->dilation_w;
                        if (y < 0 || y >= x->rows || xx < 0 || xx >= x->cols) continue;
                        const int8_t *v = in->at + (y - in->row0) * in->row_stride + (xx - in->col0) * x->channels;
                        for (int32_t i = 0; i < c->in_per_group; i++)
                            acc += (v[first + i] - c->input_zero) * (k[i] - c->weight_zero);
                    }
                *out++ = (int8_t)to_int8_mixed(&c->requant, m, acc);
            }
        }
    return 0;
}
