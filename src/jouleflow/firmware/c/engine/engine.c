/* The loop that survives power failures: compute tiles, make live data safe, move the commit forward.
 *
 * Why a failure anywhere is harmless. Between two commits the engine writes to NVM only (1) homes of buffers, in bytes
 * that the older commit does not need (the code generator lays homes out so), and (2) the older of two progress slots.
 * So the state that the newest valid slot describes is intact until the next slot is complete.
 *
 * Why memory that changes by itself gives no wrong answer unnoticed. All that is read back is checked: a buffer for the
 * arena as a whole, against the commit; a staged one unit by unit. The inference is then begun again, a few times.
 */
#include "engine.h"

#include "integrity.h"
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

/* The check value that a unit of a buffer starts from, so that another buffer's data are not taken for its own. */
static uint8_t unit_seed(const struct network *net, const struct buffer *b) { return (uint8_t)(b - net->buffers + 1); }

/* Reads bytes [from, from + size) of a buffer's home; between them, after each unit, stand its checks: a byte more in `to`
 * for each. Both ends lie between units. */
static int read_home(const struct network *net, const struct buffer *b, uint32_t from, uint32_t size, int8_t *to)
{
    uint32_t unit = b->unit;
    if (!unit) return port_nvm_read(b->nvm + from, to, size);
    uint32_t n = size / unit;
    int err = port_nvm_read(b->nvm + from / unit * (unit + 1), to, n * (unit + 1));
    const uint8_t *raw = (const uint8_t *)to;
    for (uint8_t *t = (uint8_t *)to; n-- && !err; t += unit, raw += unit + 1)
        if (crc8_move(unit_seed(net, b), t, raw, unit) != raw[unit]) err = ERR_CORRUPT;
    return err;
}

/* Reads a rectangle of a buffer's home into SRAM, tightly packed. */
static int stage_in(const struct network *net, const struct operand *from, const struct staged *s, int8_t *to)
{
    const struct buffer *b = &net->buffers[from->buffer];
    uint32_t pixel = from->channels, width = (uint32_t)(s->col1 - s->col0) * pixel, pitch = from->cols * pixel;
    uint32_t start = (uint32_t)s->row0 * pitch + (uint32_t)s->col0 * pixel;
    if (width == pitch) return read_home(net, b, start, width * (uint32_t)(s->row1 - s->row0), to);
    for (int32_t r = s->row0; r < s->row1; r++, start += pitch, to += width) {
        int err = read_home(net, b, start, width, to);
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

/* Writes the staged output tile to its home. Each pixel stands in SRAM with room for its check after it. */
static int stage_out(const struct network *net, const struct op *op)
{
    const struct operand *o = &op->output;
    const struct buffer *b = &net->buffers[o->buffer];
    uint32_t part = (uint32_t)(job.m1 - job.m0), n_cols = (uint32_t)(job.c1 - job.c0), n_rows = (uint32_t)(job.r1 - job.r0);
    uint32_t step = (uint32_t)job.out_col_stride, checks = step - part; /* a byte a pixel, or none */
    uint32_t parts = o->channels / part;                                /* units of a pixel where there are checks */
    uint32_t pixel = o->channels + checks * parts, first = checks ? (uint32_t)job.m0 / part * step : (uint32_t)job.m0;
    int8_t *from = job.out;
    if (checks)
        for (uint32_t i = 0; i < n_rows * n_cols; i++) {
            uint8_t *unit = (uint8_t *)from + i * step;
            unit[part] = crc8(unit_seed(net, b), unit, part);
        }
    int whole_pixels = step == pixel, whole_rows = whole_pixels && n_cols == o->cols;
    for (int32_t r = job.r0; r < job.r1; r++) {
        uint32_t start = b->nvm + ((uint32_t)r * o->cols + (uint32_t)job.c0) * pixel + first;
        int err;
        if (whole_rows) return port_nvm_write(start, from, n_rows * n_cols * pixel);
        if (whole_pixels) {
            if ((err = port_nvm_write(start, from, n_cols * pixel))) return err;
            from += n_cols * pixel;
        } else {
            for (uint32_t c = 0; c < n_cols; c++, start += pixel, from += step)
                if ((err = port_nvm_write(start, from, step))) return err;
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
    job.out_col_stride = job.m1 - job.m0 + (b->unit != 0);
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

/* Carries the check value of a buffer in the arena forward to its first `to` bytes, whole words only. */
static void extend_check(const struct network *net, const struct buffer *b, struct safe *s, uint32_t to)
{
    uint32_t from_word = s->bytes / 4, n_words = to / 4 - from_word;
    s->check = mix_words(s->check, (const uint32_t *)(const void *)(net->arena + b->sram) + from_word, n_words);
    s->bytes = to;
}

/* One value for all buffers: each one's check and its last bytes, which fill no word. */
static uint32_t add_to_check(const struct network *net, uint32_t check, const struct buffer *b, const struct safe *s)
{
    check = mix(check, s->check);
    for (uint32_t i = s->bytes & ~3u; i < s->bytes; i++) check = mix(check, (uint8_t)net->arena[b->sram + i]);
    return check;
}

/* Makes everything that is needed after `at` safe at home. *check: its check value. */
static int flush(const struct network *net, struct at at, uint32_t *check)
{
    uint32_t n;
    const uint16_t *live = live_at(net, at, &n);
    *check = NO_DATA;
    for (uint32_t i = 0; i < n; i++) {
        const struct buffer *b = &net->buffers[live[i]];
        if (b->sram == NOWHERE) continue;
        struct safe *s = &net->safe[live[i]];
        if (net->writes_all) *s = (struct safe){0, NO_DATA};
        uint32_t done = s->bytes, to = produced(net, live[i], at);
        if (done < to) {
            int err = port_nvm_write(b->nvm + done, net->arena + b->sram + done, to - done);
            if (err) return err;
            extend_check(net, b, s, to);
        }
        if (to) *check = add_to_check(net, *check, b, s);
    }
    return 0;
}

/* Brings back what the rest of the inference needs, after a power failure. ERR_CORRUPT if it is not what was put there. */
static int reload(const struct network *net, const struct progress *p)
{
    struct at at = {p->op, p->tile};
    uint32_t n, check = NO_DATA;
    const uint16_t *live = live_at(net, at, &n);
    for (uint32_t b = 0; b < net->n_buffers; b++) net->safe[b] = (struct safe){0, NO_DATA};
    for (uint32_t k = 0; k < MAX_INPUTS; k++) staged[k].op = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct buffer *b = &net->buffers[live[i]];
        struct safe *s = &net->safe[live[i]];
        uint32_t size = produced(net, live[i], at);
        if (b->sram == NOWHERE || size == 0) continue;
        int err = port_nvm_read(b->nvm, net->arena + b->sram, size);
        if (err) return err;
        extend_check(net, b, s, size);
        check = add_to_check(net, check, b, s);
    }
    return check == p->data ? 0 : ERR_CORRUPT;
}

/* Checks a slice of the weights, another one each inference. */
static int check_weights(const struct network *net, uint32_t seq)
{
    if (!net->n_slices) return 0;
    uint32_t k = seq % net->n_slices, from = k * net->slice_words, left = net->n_weight_words - from;
    uint32_t n = left < net->slice_words ? left : net->slice_words;
    return mix_words(NO_DATA, net->weights + from, n) == net->slice_checks[k] ? 0 : ERR_WEIGHTS;
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

/* From the committed place to the end of the inference. */
static int infer(const struct network *net, struct progress *p)
{
    struct at at = {p->op, p->tile};
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
                uint32_t this_one = next++;
                if (net->need_nj && port_energy_nj() >= net->need_nj[this_one]) continue;
                port_mark(MARK_COMMIT, here.op, here.tile);
                if ((err = flush(net, here, &p->data))) return err;
                p->op = (uint16_t)here.op, p->tile = (uint16_t)here.tile;
                if ((err = progress_commit(p))) return err;
                if (net->rest_below_nj && port_energy_nj() < net->rest_below_nj[this_one]) port_rest();
            }
        }
        at = (struct at){at.op + 1, 0};
    }
    return 0;
}

/* Moves the committed place to the start of inference seq. */
static int begin(struct progress *p, uint32_t seq, uint16_t retries)
{
    p->op = p->tile = 0;
    p->data = NO_DATA;
    p->seq = seq;
    p->retries = retries;
    return progress_commit(p);
}

static int one_inference(const struct network *net, struct progress *p)
{
    int err;
    if (p->op == 0 && p->tile == 0) {
        port_mark(MARK_IDLE, 0, 0);
        if (net->start_nj && port_energy_nj() < net->start_nj) port_rest();
        if ((err = port_input_wait(p->seq))) return err;
        if ((err = check_weights(net, p->seq))) return err;
        if ((err = reload(net, p))) return err;
    }
    if ((err = infer(net, p))) return err;
    port_mark(MARK_OUTPUT, 0, 0);
    if ((err = port_answer(p->seq, net->output_nvm, net->output_bytes))) return err;
    /* Committed before the next inference overwrites the answer, so that it is never told again wrongly. */
    return begin(p, p->seq + 1, 0);
}

int engine_run(const struct network *net)
{
    struct progress p;
    port_mark(MARK_RECOVER, 0, 0);
    int err = progress_restore(net, &p);
    if (!err) err = reload(net, &p);
    for (;;) {
        if (err == ERR_CORRUPT && p.retries < MAX_RETRIES) {
            /* Committed at once: beginning again overwrites what the old place needs. */
            port_mark(MARK_RECOVER, 0, 0);
            err = begin(&p, p.seq, p.retries + 1);
        }
        if (err) return err;
        err = one_inference(net, &p);
    }
}

int capture_input(const struct op *op, const struct job *j)
{
    uint32_t pixel = op->output.channels, width = (uint32_t)(j->c1 - j->c0) * pixel;
    if (j->c0 == 0 && j->c1 == op->output.cols && (uint32_t)j->out_col_stride == pixel) /* whole rows lie together */
        return port_input_read((uint32_t)j->r0 * width, j->out, (uint32_t)(j->r1 - j->r0) * width);
    for (int32_t r = j->r0; r < j->r1; r++) {
        uint32_t start = ((uint32_t)r * op->output.cols + (uint32_t)j->c0) * pixel;
        int8_t *row = j->out + (r - j->r0) * j->out_row_stride;
        int err = port_input_read(start, row, width);
        if (err) return err;
        if ((uint32_t)j->out_col_stride != pixel) /* spread from the end, so that nothing is overwritten too early */
            for (int32_t c = j->c1 - j->c0 - 1; c > 0; c--)
                __builtin_memmove(row + c * j->out_col_stride, row + c * (int32_t)pixel, pixel);
    }
    return 0;
}
