/* The intermittent inference engine: what it runs on.
 *
 * A network is a table of operators, each cut into tiles. Activations live in buffers; a buffer has a home in
 * non-volatile memory (NVM), a place in the SRAM arena, or both. Every table is const and generated; the engine and
 * the kernels are written by hand and know nothing of any particular network.
 */
#ifndef JOULEFLOW_ENGINE_H
#define JOULEFLOW_ENGINE_H

#include <stdint.h>

#define MAX_INPUTS 8
#define NOWHERE 0xFFFFFFFFu

enum { ERR_NVM = -1, ERR_TABLE = -2, ERR_INPUT = -3, ERR_CORRUPT = -4, ERR_WEIGHTS = -5 };

/* What every check value starts from; the check value of no data. */
#define NO_DATA 0x6a6f756cu
/* Inferences begun again for corrupt data before the engine gives up: a worn-out memory must be told, not hidden. */
#define MAX_RETRIES 8u

/* Storage of one activation. In the arena when sram != NOWHERE, otherwise tiles of it are staged from its home. */
struct buffer {
    uint32_t nvm;        /* byte offset of its home, NOWHERE if it never outlives a commit */
    uint32_t sram;       /* byte offset in the arena, NOWHERE if it lives at home only */
    uint32_t size_bytes;
    uint32_t unit;       /* at home, a CRC-8 follows every so many bytes; 0: none, the commit checks the whole buffer */
};

/* What of a buffer in the arena is safe at home: its first bytes, and the check value of their whole words. */
struct safe {
    uint32_t bytes, check;
};

/* How an operator sees a buffer: height x width x channels, int8, channels last. */
struct operand {
    uint16_t buffer, rows, cols, channels;
};

/* Which input pixels an output pixel reads: rows r * stride - pad ... + (kernel - 1) * dilation. */
struct window {
    uint16_t kernel_h, kernel_w;
    uint8_t stride_h, stride_w, dilation_h, dilation_w;
    int16_t pad_top, pad_left;
};

/* A rectangle of input pixels somewhere in SRAM; `at` is the address of pixel (row0, col0), channel 0. */
struct view {
    const int8_t *at;
    int32_t row_stride; /* bytes */
    int32_t row0, col0;
};

/* One tile to compute: output rows [r0, r1), columns [c0, c1), channels [m0, m1). */
struct job {
    struct view in[MAX_INPUTS];
    int8_t *out; /* address of (r0, c0, m0) */
    int32_t out_row_stride, out_col_stride;
    int32_t r0, r1, c0, c1, m0, m1;
    int8_t *scratch;
};

struct op;
typedef int kernel_fn(const struct op *op, const struct job *job);

struct op {
    kernel_fn *kernel;
    const void *constants; /* the kernel's own struct */
    const struct operand *inputs;
    struct operand output;
    struct window window;
    uint16_t tile_rows, tile_cols, tile_channels;
    uint16_t n_row_tiles, n_col_tiles, n_channel_tiles;
    uint32_t scratch;                 /* arena offsets */
    const uint32_t *stage_in;         /* per input, where its tile is staged if it is not in the arena */
    uint32_t stage_out;
    uint16_t first_live, n_live;      /* the buffers that this operator or a later one needs: part of live[] */
    uint8_t n_inputs;
    uint8_t channels_outer;           /* loop order: 0 channel tiles innermost, 1 outermost */
};

/* A position: tiles before `tile` of operator `op` are done. */
struct at {
    uint32_t op, tile;
};

struct network {
    const struct op *ops;
    const struct buffer *buffers;
    const uint16_t *live;             /* indices of buffers; see op.first_live, one more list for the end */
    const struct at *commits;         /* where to commit, in order; the last one is {n_ops, 0} */
    struct safe *safe;                /* per buffer; volatile */
    int8_t *arena;
    uint32_t n_ops, n_buffers, n_commits;
    uint16_t first_live_at_end, n_live_at_end;
    uint32_t output_nvm, output_bytes;
    const uint32_t *need_nj;          /* per commit: skip it if the store has this much, enough for the next; null: never */
    const uint32_t *rest_below_nj;    /* per commit: after it, wait for a full store if there is less than this; null: never */
    uint32_t start_nj;                /* before an inference, wait for a full store if there is less than this */
    uint8_t writes_all;               /* a commit writes all live data, not only what is new */
    const uint32_t *weights;          /* all constants of all kernels; inference k checks slice k mod n_slices of them */
    const uint32_t *slice_checks;
    uint32_t n_weight_words, slice_words, n_slices;
    uint32_t hash[2];                 /* of model, plan and layout: an older checkpoint must not be continued */
};

/* Runs inferences for ever, continuing from the last commit. Returns a negative code on a fault. */
int engine_run(const struct network *net);

/* Op 0 of every network: takes the input from the port. */
kernel_fn capture_input;

#endif
