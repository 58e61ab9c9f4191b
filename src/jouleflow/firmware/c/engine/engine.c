/* The loop that survives power failures: compute tiles, make live data safe, move the commit forward.
 *
 * Why a failure anywhere is harmless. Between two commits the engine writes to NVM only (1) homes of buffers, in bytes
 * that the older commit does not need (the code generator lays homes out so), and (2) the older of two progress slots.
 * So the state that the newest valid slot describes is intact until the next slot is complete.
 */
#include "engine.h"

#include "port.h"
#include "progress.h"

/* What is staged in SRAM for tiles of an operator whose input lives at home only; lost with the power. */
struct staged {
    int32_t row0, row1, col0, col1;
    uint32_t op;
};
static struct staged staged[MAX_INPUTS];
static struct job job;

static int32_t at_least(int32_t a, int32_t b) { return a > b ? a : b; }
static int32_t at_most(int32_t a, int32_t b) { return a < b ? a : b; }

static uint32_t n_tiles(const struct op *op)
{
    return (uint32_t)op->n_row_tiles * op->n_col_tiles * op->n_channel_tiles;
}

static void place_tile(const struct op *op, uint32_t tile, struct job *j)
{
    uint32_t m, rc;
    uint32_t n_rc = (uint32_t)op->n_row_tiles * op->n_col_tiles;
    if (op->channels_outer) {
        m = tile / n_rc;
        rc = tile % n_rc;
    } else {
        m = tile % op->n_channel_tiles;
        rc = tile / op->n_channel_tiles;
    }
    j->r0 = (int32_t)(rc / op->n_col_tiles) * op->tile_rows;
    j->c0 = (int32_t)(rc % op->n_col_tiles) * op->tile_cols;
    j->m0 = (int32_t)m * op->tile_channels;
    j->r1 = at_most(j->r0 + op->tile_rows, op->output.rows);
    j->c1 = at_most(j->c0 + op->tile_cols, op->output.cols);
    j->m1 = at_most(j->m0 + op->tile_channels, op->output.channels);
}

/* Reads a rectangle of a buffer's home into SRAM, tightly packed. */
static int stage_in(const struct network *net, const struct operand *from, const struct staged *s, int8_t *to)
{
    uint32_t home = net->buffers[from->buffer].nvm, pixel = from->channels;
    uint32_t width = (uint32_t)(s->col1 - s->col0) * pixel, pitch = from->cols * pixel;
    uint32_t start = home + (uint32_t)s->row0 * pitch + (uint32_t)s->col0 * pixel;
    if (width == pitch) return port_nvm_read(start, to, width * (uint32_t)(s->row1 - s->row0));
    for (int32_t r = s->row0; r < s->row1; r++, start += pitch, to += width) {
        int err = port_nvm_read(start, to, width);
        if (err) return err;
    }
    return 0;
}

/* Points job.in[k] at the pixels that the tile reads, bringing them in from home if they are not in the arena. */
static int gather_input(const struct network *net, uint32_t op_index, uint32_t k)
{
    const struct op *op = &net->ops[op_index];
    const struct window *w = &op->window;
    const struct operand *in = &op->inputs[k];
    const struct buffer *b = &net->buffers[in->buffer];
    int32_t row = (int32_t)in->cols * in->channels;
    if (b->sram != NOWHERE) {
        job.in[k] = (struct view){net->arena + b->sram, row, 0, 0};
        return 0;
    }
    struct staged want = {
        .row0 = at_least(job.r0 * w->stride_h - w->pad_top, 0),
        .row1 = at_most((job.r1 - 1) * w->stride_h - w->pad_top + (w->kernel_h - 1) * w->dilation_h + 1, in->rows),
        .col0 = at_least(job.c0 * w->stride_w - w->pad_left, 0),
        .col1 = at_most((job.c1 - 1) * w->stride_w - w->pad_left + (w->kernel_w - 1) * w->dilation_w + 1, in->cols),
        .op = op_index + 1,
    };
    if (want.row1 <= want.row0 || want.col1 <= want.col0) { /* the tile lies in the padding */
        want.row0 = want.col0 = 0;
        want.row1 = want.col1 = 1;
    }
    int8_t *to = net->arena + op->stage_in[k];
    struct staged *have = &staged[k];
    if (have->op != want.op || have->row0 != want.row0 || have->row1 != want.row1 || have->col0 != want.col0 ||
        have->col1 != want.col1) {
        int err = stage_in(net, in, &want, to);
        if (err) return err;
        *have = want;
    }
    job.in[k] = (struct view){to, (want.col1 - want.col0) * in->channels, want.row0, want.col0};
    return 0;
}

/* Writes the staged output tile to its home. */
static int stage_out(const struct network *net, const struct op *op)
{
    const struct operand *o = &op->output;
    uint32_t home = net->buffers[o->buffer].nvm, pixel = o->channels;
    uint32_t part = (uint32_t)(job.m1 - job.m0), n_cols = (uint32_t)(job.c1 - job.c0);
    const int8_t *from = job.out;
    int whole_pixels = part == pixel, whole_rows = whole_pixels && n_cols == o->cols;
    for (int32_t r = job.r0; r < job.r1; r++) {
        uint32_t start = home + ((uint32_t)r * o->cols + (uint32_t)job.c0) * pixel + (uint32_t)job.m0;
        int err;
        if (whole_rows) return port_nvm_write(start, from, (uint32_t)(job.r1 - job.r0) * n_cols * pixel);
        if (whole_pixels) {
            if ((err = port_nvm_write(start, from, n_cols * pixel))) return err;
            from += n_cols * pixel;
        } else {
            for (uint32_t c = 0; c < n_cols; c++, start += pixel, from += part)
                if ((err = port_nvm_write(start, from, part))) return err;
        }
    }
    return 0;
}

static int run_tile(const struct network *net, uint32_t op_index, uint32_t tile)
{
    const struct op *op = &net->ops[op_index];
    const struct operand *o = &op->output;
    const struct buffer *b = &net->buffers[o->buffer];
    int err;
    place_tile(op, tile, &job);
    for (uint32_t k = 0; k < op->n_inputs; k++)
        if ((err = gather_input(net, op_index, k))) return err;
    job.scratch = net->arena + op->scratch;
    if (b->sram != NOWHERE) {
        job.out_col_stride = o->channels;
        job.out_row_stride = (int32_t)o->cols * o->channels;
        job.out = net->arena + b->sram + job.r0 * job.out_row_stride + job.c0 * job.out_col_stride + job.m0;
        return op->kernel(op, &job);
    }
    job.out_col_stride = job.m1 - job.m0;
    job.out_row_stride = (job.c1 - job.c0) * job.out_col_stride;
    job.out = net->arena + op->stage_out;
    if ((err = op->kernel(op, &job))) return err;
    return stage_out(net, op);
}

/* Bytes of the operator's output that are final once `tile` tiles are done; arena outputs grow from the front. */
static uint32_t produced_by(const struct op *op, uint32_t tile)
{
    struct job j;
    if (tile == 0) return 0;
    if (tile >= n_tiles(op)) return (uint32_t)op->output.rows * op->output.cols * op->output.channels;
    place_tile(op, tile, &j);
    return ((uint32_t)j.r0 * op->output.cols + (uint32_t)j.c0) * op->output.channels + (uint32_t)j.m0;
}

static uint32_t produced(const struct network *net, uint16_t buffer, struct at at)
{
    if (at.op < net->n_ops && net->ops[at.op].output.buffer == buffer) return produced_by(&net->ops[at.op], at.tile);
    return net->buffers[buffer].size_bytes;
}

static const uint16_t *live_at(const struct network *net, struct at at, uint32_t *n)
{
    if (at.op == net->n_ops) {
        *n = net->n_live_at_end;
        return net->live + net->first_live_at_end;
    }
    *n = net->ops[at.op].n_live;
    return net->live + net->ops[at.op].first_live;
}

/* Makes everything that is needed after `at` safe at home. */
static int flush(const struct network *net, struct at at)
{
    uint32_t n;
    const uint16_t *live = live_at(net, at, &n);
    for (uint32_t i = 0; i < n; i++) {
        const struct buffer *b = &net->buffers[live[i]];
        if (b->sram == NOWHERE) continue;
        uint32_t done = net->persisted[live[i]], to = produced(net, live[i], at);
        if (done >= to) continue;
        int err = port_nvm_write(b->nvm + done, net->arena + b->sram + done, to - done);
        if (err) return err;
        net->persisted[live[i]] = to;
    }
    return 0;
}

/* Brings back what the rest of the inference needs, after a power failure. */
static int reload(const struct network *net, struct at at)
{
    uint32_t n;
    const uint16_t *live = live_at(net, at, &n);
    for (uint32_t b = 0; b < net->n_buffers; b++) net->persisted[b] = 0;
    for (uint32_t k = 0; k < MAX_INPUTS; k++) staged[k].op = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct buffer *b = &net->buffers[live[i]];
        uint32_t size = produced(net, live[i], at);
        if (b->sram == NOWHERE || size == 0) continue;
        int err = port_nvm_read(b->nvm, net->arena + b->sram, size);
        if (err) return err;
        net->persisted[live[i]] = size;
    }
    return 0;
}

/* Index of the first commit point after `at`. */
static uint32_t next_commit(const struct network *net, struct at at)
{
    uint32_t lo = 0, hi = net->n_commits;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        struct at c = net->commits[mid];
        if (c.op > at.op || (c.op == at.op && c.tile > at.tile))
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

/* From p->at to the end of the inference. */
static int infer(const struct network *net, struct progress *p)
{
    struct at at = p->at;
    uint32_t next = next_commit(net, at);
    for (; at.op < net->n_ops; ) {
        uint32_t end = n_tiles(&net->ops[at.op]);
        while (at.tile < end) {
            port_mark(MARK_TILE, at.op, at.tile);
            int err = run_tile(net, at.op, at.tile);
            if (err) return err;
            at.tile++;
            struct at here = at.tile < end ? at : (struct at){at.op + 1, 0};
            if (net->commits[next].op == here.op && net->commits[next].tile == here.tile) {
                port_mark(MARK_COMMIT, here.op, here.tile);
                if ((err = flush(net, here))) return err;
                p->at = here;
                if ((err = progress_commit(p))) return err;
                next++;
            }
        }
        at = (struct at){at.op + 1, 0};
    }
    return 0;
}

int engine_run(const struct network *net)
{
    struct progress p;
    port_mark(MARK_RECOVER, 0, 0);
    int err = progress_restore(net, &p);
    if (err) return err;
    if ((err = reload(net, p.at))) return err;
    for (;;) {
        if (p.at.op < net->n_ops) {
            if (p.at.op == 0 && p.at.tile == 0) {
                port_mark(MARK_IDLE, 0, 0);
                if ((err = port_input_wait(p.seq))) return err;
                if ((err = reload(net, p.at))) return err;
            }
            if ((err = infer(net, &p))) return err;
        }
        port_mark(MARK_OUTPUT, 0, 0);
        if ((err = port_answer(p.seq, net->output_nvm, net->output_bytes))) return err;
        /* Committed before the next inference overwrites the answer, so that it is never told again wrongly. */
        p.at = (struct at){0, 0};
        p.seq++;
        if ((err = progress_commit(&p))) return err;
    }
}

int capture_input(const struct op *op, const struct job *j)
{
    uint32_t pixel = op->output.channels, width = (uint32_t)(j->c1 - j->c0) * pixel;
    if (j->c0 == 0 && j->c1 == op->output.cols) /* whole rows lie together */
        return port_input_read((uint32_t)j->r0 * width, j->out, (uint32_t)(j->r1 - j->r0) * width);
    for (int32_t r = j->r0; r < j->r1; r++) {
        uint32_t start = ((uint32_t)r * op->output.cols + (uint32_t)j->c0) * pixel;
        int err = port_input_read(start, j->out + (r - j->r0) * j->out_row_stride, width);
        if (err) return err;
    }
    return 0;
}
