/* The int8 kernels: their constants, as the code generator lays them out, and their entry points.
 *
 * Rounding is that of TFLite's reference with double rounding: the results equal it bit for bit.
 * A kernel writes only its own tile; it reads up to 3 bytes past a row, which count for nothing.
 */
#ifndef JOULEFLOW_KERNELS_H
#define JOULEFLOW_KERNELS_H

#include "engine.h"

/* One output channel: its accumulator starts at bias; real = multiplier * 2^(shift - 31). */
struct channel {
    int32_t bias, multiplier, shift;
};

struct requant {
    const struct channel *channels;
    int32_t output_zero, act_min, act_max;
    int32_t n_halves_up; /* the right shift rounds halves up in so many channels, away from 0 in the rest */
    int32_t plain;       /* accumulators stay below 2^30, all shifts are to the right, halves go up, nothing is clamped
                            but to int8: then `shift` is the right shift less 1, and three instructions do */
};

/* conv2d_s8, dense_s8. The input's zero point is folded into bias.
 * Weights: pairs of output channels; for each 4 inputs, 4 weights of the first channel and then 4 of the second.
 * The input patch is n_runs runs of run_bytes contiguous bytes, each padded to run_padded (a multiple of 4). */
struct conv {
    const int8_t *weights;
    struct requant requant;
    uint16_t n_runs, run_bytes, run_padded;
    uint8_t runs_are_rows; /* a run is a kernel row (dilation_w == 1), otherwise one tap */
    int8_t input_zero;
    int16_t weight_zero;   /* for files of uint8 origin; times the sum of a patch it is taken off each accumulator */
};

/* conv2d_small_s8: no scratch; also grouped convolutions. Weights [out][kernel_h][kernel_w][in / groups]. */
struct conv_small {
    const int8_t *weights;
    struct requant requant; /* the zero point is not folded into bias */
    int32_t input_zero, weight_zero;
    uint16_t in_per_group, out_per_group;
};

/* depthwise_s8. Weights: per 4 channels, per 2 taps, bytes (c0 t0, c1 t0, c0 t1, c1 t1), (c2 t0, c3 t0, c2 t1, c3 t1).
 * zero_row: the input's zero point, as many bytes as the input has channels, and 3 more. */
struct depthwise {
    const int8_t *weights;
    const int8_t *zero_row;
    struct requant requant;
};

/* depthwise3_s8: 3 x 3, not dilated. Weights int16, per channel and kernel row: w0 w1, w1 w2. */
struct depthwise3 {
    const int16_t *weights;
    struct requant requant;
    int32_t input_zero;
};
enum { DEPTHWISE3_ROWS = 6 }; /* output rows at a time: what its scratch is for */

/* add_s8: the two inputs as tables of int32 on a common scale. `constant` replaces input 1 when not null. */
struct add {
    const int32_t *table[2];
    const int8_t *constant;
    int32_t constant_row, constant_col, constant_channel; /* its strides in bytes */
    int32_t multiplier, shift;
    int32_t output_zero, act_min, act_max;
};

/* mul_s8 */
struct mul {
    int32_t zero[2];
    const int8_t *constant;
    int32_t constant_row, constant_col, constant_channel;
    int32_t multiplier, shift;
    int32_t output_zero, act_min, act_max;
};

/* avg_pool_s8, max_pool_s8 */
struct pool {
    int32_t act_min, act_max;
    int32_t halves_up; /* averages round halves up (files of uint8 origin), not away from 0 */
};

/* mean_s8: sum over height and width, scaled once. */
struct mean {
    int32_t input_zero_sum, multiplier, shift, output_zero;
};

/* lookup_s8: any function of one int8: requantize, relu, logistic. Indexed by value + 128. */
struct lookup {
    const int8_t *table, *last_table; /* last_table for the elements from n_first on */
    int32_t n_first;
};

/* concat_s8: per input its lookup table (null: as it is), the axis, and where it starts on it. */
struct concat {
    const int8_t *const *table;
    const uint16_t *start;
    uint8_t axis; /* 0 rows, 1 columns, 2 channels */
};

/* pad_s8 */
struct pad {
    int8_t value;
};

/* resize_nearest_s8: the source row of each output row, the source column of each output column. */
struct resize {
    const uint16_t *row, *col;
};

/* softmax_s8: exp_table[255 + x - max], single precision. Rows of `depth` values. */
struct softmax {
    const float *exp_table;
    float output_scale;
    int32_t output_zero;
};

kernel_fn conv2d_s8, conv2d_small_s8, depthwise_s8, depthwise3_s8, dense_s8, add_s8, mul_s8, avg_pool_s8, max_pool_s8, mean_s8,
    lookup_s8, concat_s8, pad_s8, resize_nearest_s8, softmax_s8;

#endif
