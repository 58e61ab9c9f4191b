#include "machine.h"

enum { READ = 1, WRITE = 2, CAPTURE = 3 };
enum reg { NVM_OFFSET = 0, NVM_ADDRESS = 4, NVM_LENGTH = 8, NVM_START = 12, MARK_OP = 16, MARK = 20, INPUT_SEQ = 24,
           ANSWER = 28, FAIL = 32, ENERGY_NJ = 36, REST = 40, SERIAL_IN = 44, SERIAL_OUT = 48, TIME_US = 52 };

/* built with -fno-math-errno, so this is one instruction and needs no library */
static double square_root(double x) { return x > 0.0 ? __builtin_sqrt(x) : 0.0; }

static void stop(struct machine *m, int32_t why)
{
    if (m->stop == STOP_NONE) m->stop = why;
    m->emu_stop(m->uc);
}

/* ---- time and energy ---- */

static void pass_time(struct machine *m, double load_w, double duration_s)
{
    if (m->continuous) {
        m->supply.now_s += duration_s;
        m->supply.spent_j += load_w * duration_s;
        m->supply.harvested_j += load_w * duration_s;
        return;
    }
    if (supply_drain(&m->supply, load_w, duration_s) < duration_s) stop(m, STOP_DEAD);
}

static void settle_cycles(struct machine *m)
{
    if (m->pending_cycles) {
        double dt = (double)m->pending_cycles * m->cycle_s;
        m->pending_cycles = 0;
        pass_time(m, m->active_w, dt);
    }
    m->budget_cycles = 0;
}

static uint64_t cycles_to_live(struct machine *m, uint64_t wanted)
{
    double life = supply_life(&m->supply, m->active_w, (double)wanted * m->cycle_s);
    double n = life / m->cycle_s + 1e-6;
    return n >= (double)wanted ? wanted : (uint64_t)n;
}

static int safe_phase(uint32_t phase) { return phase == PHASE_COMMIT || phase == PHASE_OUTPUT; }

static void close_phase(struct machine *m)
{
    double dt = m->supply.now_s - m->phase_start_s, energy = m->supply.spent_j - m->phase_spent_j;
    if (m->phase == PHASE_TILE || m->phase == PHASE_INPUT) {
        m->unsafe_compute_s += dt;
        m->unsafe_compute_j += energy;
    } else {
        m->time_by_phase_s[m->phase] += dt;
        m->energy_by_phase_j[m->phase] += energy;
    }
    if (m->events && m->phase != PHASE_OFF) {
        if (m->n_events < m->max_events)
            m->events[m->n_events++] = (struct event){
                .time_s = m->phase_start_s,
                .duration_s = dt,
                .energy_j = energy,
                .voltage_v = square_root(2.0 * m->supply.energy_j / m->capacitance_f),
                .op = m->phase_op,
                .tile = m->phase_tile,
                .kind = m->phase,
                .instructions = (uint32_t)(m->instructions - m->phase_instructions),
                .cycles = (uint32_t)(m->cycles - m->phase_cycles),
                .nvm_read_bytes = (uint32_t)(m->nvm_read_bytes - m->phase_read),
                .nvm_write_bytes = (uint32_t)(m->nvm_write_bytes - m->phase_write),
            };
        if (m->n_events + 64 >= m->max_events) stop(m, STOP_EVENTS_FULL);
    }
}

static void open_phase(struct machine *m, uint32_t phase, int32_t op, int32_t tile)
{
    m->phase = phase;
    m->phase_op = op;
    m->phase_tile = tile;
    m->phase_start_s = m->supply.now_s;
    m->phase_spent_j = m->supply.spent_j;
    m->phase_instructions = m->instructions;
    m->phase_cycles = m->cycles;
    m->phase_read = m->nvm_read_bytes;
    m->phase_write = m->nvm_write_bytes;
}

static void compute_is_safe(struct machine *m)
{
    m->time_by_phase_s[PHASE_TILE] += m->unsafe_compute_s;
    m->energy_by_phase_j[PHASE_TILE] += m->unsafe_compute_j;
    m->unsafe_compute_s = m->unsafe_compute_j = 0.0;
    m->n_commits++;
    if (m->touched)
        for (uint64_t i = 0; i < m->nvm_size; i++) m->touched[i] = 0;
}

static void mark(struct machine *m, uint32_t phase, int32_t op, int32_t tile)
{
    settle_cycles(m);
    if (m->stop == STOP_DEAD) return;
    close_phase(m);
    if (safe_phase(m->phase)) compute_is_safe(m);
    open_phase(m, phase, op, tile);
}

void machine_settle(struct machine *m)
{
    settle_cycles(m);
    close_phase(m);
    open_phase(m, m->phase, m->phase_op, m->phase_tile);
}

void machine_power_off(struct machine *m)
{
    m->pending_cycles = 0;
    if (m->stop == STOP_REST) { /* just after a commit */
        close_phase(m);
        compute_is_safe(m);
    } else if (safe_phase(m->phase)) { /* a commit that was cut is lost work too */
        m->lost_s += m->supply.now_s - m->phase_start_s;
        m->lost_j += m->supply.spent_j - m->phase_spent_j;
        uint32_t phase = m->phase;
        double t = m->time_by_phase_s[phase], e = m->energy_by_phase_j[phase];
        close_phase(m);
        m->time_by_phase_s[phase] = t;
        m->energy_by_phase_j[phase] = e;
    } else {
        close_phase(m);
    }
    m->lost_s += m->unsafe_compute_s;
    m->lost_j += m->unsafe_compute_j;
    m->unsafe_compute_s = m->unsafe_compute_j = 0.0;
    open_phase(m, PHASE_OFF, -1, -1);
    if (m->stop != STOP_REST) m->n_failures++;
    if (m->touched)
        for (uint64_t i = 0; i < m->nvm_size; i++) m->touched[i] = 0;
}

int machine_power_on(struct machine *m, double until_s)
{
    m->stop = STOP_NONE;
    m->spi_end = m->spi_fifo = m->spi_fifo_count = 0;
    m->fram_opcode = m->fram_enabled = m->fram_selected = m->fram_command_bytes = 0;
    m->block_end = 0;
    m->budget_cycles = 0;
    if (!m->continuous) {
        double start = m->supply.now_s;
        int on = supply_charge(&m->supply, until_s - start);
        m->charging_s += m->supply.now_s - start;
        if (m->events && m->n_events < m->max_events && m->supply.now_s > start)
            m->events[m->n_events++] = (struct event){
                .time_s = start, .duration_s = m->supply.now_s - start, .op = -1, .tile = -1, .kind = PHASE_OFF,
                .voltage_v = square_root(2.0 * m->supply.energy_j / m->capacitance_f)};
        if (!on) return 0;
    }
    m->n_boots++;
    open_phase(m, PHASE_BOOT, -1, -1);
    if (m->boot_s > 0.0) {
        if (m->continuous)
            m->supply.now_s += m->boot_s, m->supply.spent_j += m->boot_w * m->boot_s,
                m->supply.harvested_j += m->boot_w * m->boot_s;
        else if (supply_drain(&m->supply, m->boot_w, m->boot_s) < m->boot_s)
            return -1;
    }
    return 1;
}

/* ---- flash ---- */

/* Whether a line is in a cache; it is afterwards. The one unused longest makes room. */
static int cached_line(uint32_t *lines, uint32_t *used, uint32_t n, uint32_t line, uint32_t now)
{
    uint32_t oldest = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (lines[i] == line + 1) {
            used[i] = now;
            return 1;
        }
        if (used[i] < used[oldest]) oldest = i;
    }
    lines[oldest] = line + 1;
    used[oldest] = now;
    return 0;
}

/* Stalls of fetching a block. A line that follows the one before was fetched ahead. */
static uint32_t fetch_stalls(struct machine *m, uint64_t address, uint32_t size)
{
    uint32_t stalls = 0;
    uint32_t first = (uint32_t)address / m->flash_line_bytes, last = (uint32_t)(address + size - 1) / m->flash_line_bytes;
    for (uint32_t line = first; line <= last; line++) {
        int hit = cached_line(m->code_lines, m->code_used, m->n_code_lines, line, ++m->flash_clock);
        if (!hit && line != m->flash_last_line + 1) stalls += m->flash_wait;
        m->flash_last_line = line;
    }
    return stalls;
}

void machine_flash_read(void *uc, int type, uint64_t address, int size, int64_t value, struct machine *m)
{
    (void)uc, (void)type, (void)size, (void)value;
    if (address < m->flash_base || address >= m->flash_base + m->flash_size) return;
    uint32_t line = (uint32_t)address / m->flash_line_bytes;
    if (cached_line(m->data_lines, m->data_used, m->n_data_lines, line, ++m->flash_clock)) return;
    m->pending_cycles += m->flash_wait;
    m->cycles += m->flash_wait;
    m->flash_stalls += m->flash_wait;
}

/* ---- CPU ---- */

void machine_block(void *uc, uint64_t address, uint32_t size, struct machine *m)
{
    (void)uc;
    if (m->stop != STOP_NONE) {
        m->emu_stop(m->uc);
        return;
    }
    uint64_t from = (address - m->code_base) >> 1, to = (address + size - m->code_base) >> 1;
    uint32_t cycles = m->sum_cycles[to] - m->sum_cycles[from];
    uint32_t instructions = m->sum_instructions[to] - m->sum_instructions[from];
    if (m->block_end != address) cycles += m->branch_cycles; /* the block before ended in a taken branch */
    if (m->flash_wait && !m->stepping) {
        uint32_t stalls = fetch_stalls(m, address, size);
        cycles += stalls;
        m->flash_stalls += stalls;
    }
    if (m->stepping) { /* the last instructions before death: already paid for */
        m->instructions += m->doomed_instructions;
        m->doomed_instructions = 0;
        m->stepping = 0;
        return;
    }
    if (!m->continuous && m->pending_cycles + cycles > m->budget_cycles) {
        settle_cycles(m);
        if (m->stop != STOP_NONE) return;
        m->budget_cycles = cycles_to_live(m, cycles > 20000 ? cycles : 20000);
        if (cycles > m->budget_cycles) {
            uint64_t k = 0; /* instructions of this block that still run */
            uint32_t lead = cycles - (m->sum_cycles[to] - m->sum_cycles[from]);
            for (uint64_t h = from; h < to; h++) {
                if (m->sum_cycles[h + 1] - m->sum_cycles[from] + lead > m->budget_cycles) break;
                k += m->sum_instructions[h + 1] - m->sum_instructions[h];
            }
            m->doomed_instructions = k;
            m->block_address = address;
            m->pending_cycles = m->budget_cycles;
            m->cycles += m->budget_cycles;
            stop(m, STOP_DOOMED);
            return;
        }
    }
    m->block_end = address + size;
    m->pending_cycles += cycles;
    m->cycles += cycles;
    m->instructions += instructions;
    if (m->instructions >= m->slice_end) { /* let the host breathe; the block is run again, so take it back */
        m->pending_cycles -= cycles;
        m->cycles -= cycles;
        m->instructions -= instructions;
        m->block_address = address;
        m->block_end = address; /* costs no branch when continued */
        stop(m, STOP_SLICE);
    }
}

/* ---- non-volatile memory ---- */

static uint32_t random32(struct machine *m)
{
    uint64_t x = m->random_state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    m->random_state = x;
    return (uint32_t)(x >> 16);
}

static uint8_t *host(struct machine *m, uint64_t address, uint64_t n, int for_write)
{
    if (address >= m->sram_base && address + n <= m->sram_base + m->sram_size) return m->sram + (address - m->sram_base);
    if (!for_write && address >= m->flash_base && address + n <= m->flash_base + m->flash_size)
        return (uint8_t *)(uintptr_t)(m->flash + (address - m->flash_base));
    return 0;
}

static void write_byte(struct machine *m, uint64_t at, uint8_t value)
{
    if (m->touched && at >= m->hazard_from) {
        if (m->touched[at] == 1) {
            if (m->n_hazards++ == 0) m->first_hazard = at;
        }
        m->touched[at] |= 2;
    }
    if (m->wear) m->wear[at]++;
    if (m->journal && m->n_journal < m->max_journal) {
        uint8_t *j = m->journal + 8 * m->n_journal++;
        j[0] = (uint8_t)at, j[1] = (uint8_t)(at >> 8), j[2] = (uint8_t)(at >> 16), j[3] = (uint8_t)(at >> 24);
        j[4] = value, j[5] = (uint8_t)m->phase, j[6] = j[7] = 0;
    }
    m->nvm[at] = value;
}

/* The byte in flight when the power goes: old, new, erased or rubbish. */
static void tear(struct machine *m, uint64_t at, uint8_t value)
{
    switch (random32(m) & 3) {
    case 0: break;
    case 1: m->nvm[at] = value; break;
    case 2: m->nvm[at] = 0xff; break;
    default: m->nvm[at] = (uint8_t)random32(m);
    }
}

static void move(struct machine *m, uint32_t what, uint8_t *ram, uint64_t at, uint64_t n, double setup_s, double s_per_byte);

static void transfer(struct machine *m, uint32_t what)
{
    uint64_t n = m->length, at = m->offset;
    if (m->stop == STOP_DEAD || m->stop == STOP_CUT) return;
    settle_cycles(m);
    if (m->stop == STOP_DEAD) return;
    if (what == CAPTURE) {
        uint8_t *to = host(m, m->address, n, 1);
        if (!to || at + n > m->input_bytes || m->n_answers >= m->n_inputs) {
            m->fail_code = 0x1001;
            stop(m, STOP_FAIL);
            return;
        }
        const uint8_t *from = m->inputs + m->n_answers * m->input_bytes + at;
        for (uint64_t i = 0; i < n; i++) to[i] = from[i];
        return;
    }
    uint8_t *ram = host(m, m->address, n, what == READ);
    if (!ram || at + n > m->nvm_size) {
        m->fail_code = 0x1002;
        stop(m, STOP_FAIL);
        return;
    }
    move(m, what, ram, at, n, m->setup_s, what == READ ? m->read_s_per_byte : m->write_s_per_byte);
}

/* Bytes between host memory and NVM, paid for, torn if the power does not last. */
static void move(struct machine *m, uint32_t what, uint8_t *ram, uint64_t at, uint64_t n, double setup_s, double s_per_byte)
{
    /* a write takes whole blocks: what it does not cover of the first and the last is written again as it was */
    uint64_t block = what == WRITE ? m->write_block : 1, first = at - at % block;
    uint64_t total = (at + n + block - 1) / block * block - first;
    double j_per_byte = what == READ ? m->read_j_per_byte : m->write_j_per_byte;
    double duration = setup_s + (double)total * s_per_byte;
    double load = m->wait_w + (duration > 0.0 ? ((setup_s > 0.0 ? m->setup_j : 0.0) + (double)total * j_per_byte) / duration : 0.0);
    double lived = duration;
    if (m->continuous)
        pass_time(m, load, duration);
    else
        lived = supply_drain(&m->supply, load, duration);
    uint64_t done = total;
    int dead = lived < duration;
    if (dead) {
        double in_data = lived - setup_s;
        done = in_data <= 0.0 || s_per_byte <= 0.0 ? 0 : (uint64_t)(in_data / s_per_byte);
        if (done > total) done = total;
    }
    int cut = what == WRITE && m->nvm_write_bytes + done > m->cut_after_bytes;
    if (cut) done = m->cut_after_bytes - m->nvm_write_bytes;
    if (what == READ) {
        for (uint64_t i = 0; i < done; i++) {
            ram[i] = m->nvm[at + i];
            if (m->touched && m->touched[at + i] == 0) m->touched[at + i] = 1;
        }
        m->nvm_read_bytes += done;
    } else {
        uint64_t whole = done - done % block;
        for (uint64_t i = 0; i < total && i < whole + block; i++) {
            uint64_t to = first + i;
            uint8_t value = to >= at && to < at + n ? ram[to - at] : m->nvm[to];
            if (i < whole)
                write_byte(m, to, value);
            else
                tear(m, to, value);
        }
        m->nvm_write_bytes += done;
    }
    if (dead) stop(m, STOP_DEAD);
    if (cut) stop(m, STOP_CUT);
}

/* ---- registers ---- */

uint64_t machine_mmio_read(void *uc, uint64_t offset, unsigned size, struct machine *m)
{
    (void)uc, (void)size;
    if (offset == INPUT_SEQ) return m->n_answers + 1;
    if (offset == TIME_US) {
        settle_cycles(m);
        return (uint32_t)(uint64_t)(m->supply.now_s * 1e6);
    }
    if (offset == SERIAL_IN) {
        if (m->serial_in_at < m->serial_in_bytes) return m->serial_in[m->serial_in_at++];
        stop(m, STOP_DONE); /* nothing more will be said */
        return 0;
    }
    if (offset != ENERGY_NJ) return 0;
    if (m->sensed_nj_limit) return random32(m) % m->sensed_nj_limit;
    if (m->continuous) return 0xfffffffeu; /* all ones is what no reading reaches */
    settle_cycles(m);
    if (m->stop != STOP_NONE) return 0;
    pass_time(m, m->active_w, m->sense_s);
    double left_nj = (m->supply.energy_j - m->supply.off_j) * 1e9;
    return left_nj <= 0.0 ? 0u : left_nj >= 4e9 ? 0xfffffffeu : (uint32_t)left_nj;
}

static void answer(struct machine *m, uint32_t seq)
{
    if (seq == m->n_answers + 1 && seq <= m->n_inputs) {
        for (uint64_t i = 0; i < m->answer_bytes; i++)
            m->answers[m->n_answers * m->answer_bytes + i] = m->nvm[m->offset + i];
        m->answer_time_s[m->n_answers] = m->supply.now_s;
        m->n_answers++;
    } else if (seq > m->n_answers + 1) {
        m->fail_code = 0x1003; /* an answer to a question that was not asked */
        stop(m, STOP_FAIL);
    }
}

void machine_mmio_write(void *uc, uint64_t offset, unsigned size, uint64_t value, struct machine *m)
{
    (void)uc, (void)size;
    uint32_t v = (uint32_t)value;
    if (m->stop == STOP_DEAD || m->stop == STOP_CUT || m->stop == STOP_REST) return;
    switch (offset) {
    case NVM_OFFSET: m->offset = v; break;
    case NVM_ADDRESS: m->address = v; break;
    case NVM_LENGTH: m->length = v; break;
    case NVM_START: transfer(m, v); break;
    case MARK_OP: m->mark_op = v; break;
    case MARK:
        mark(m, v >> 28, (int32_t)m->mark_op, (int32_t)(v & 0x0fffffff));
        if (v >> 28 == PHASE_IDLE && m->n_answers == m->n_inputs) stop(m, STOP_DONE);
        break;
    case ANSWER:
        settle_cycles(m);
        if (m->stop == STOP_NONE) answer(m, v);
        break;
    case REST:
        if (m->continuous) break;
        settle_cycles(m);
        if (m->stop == STOP_NONE) {
            m->n_rests++;
            stop(m, STOP_REST);
        }
        break;
    case SERIAL_OUT:
        if (m->serial_out_at < m->serial_out_bytes) m->serial_out[m->serial_out_at++] = (uint8_t)v;
        break;
    case FAIL:
        m->fail_code = v;
        stop(m, STOP_FAIL);
        break;
    }
}

/* ---- SPI master with DMA, and the FRAM on it ---- */

enum spim { TASKS_START = 0x010, EVENTS_END = 0x118, RXD_PTR = 0x534, RXD_MAXCNT = 0x538, TXD_PTR = 0x544, TXD_MAXCNT = 0x548 };
enum fram { FRAM_IDLE = 0, FRAM_WRITE = 2, FRAM_READ = 3, FRAM_ENABLE = 6 };

static void spi_exchange(struct machine *m)
{
    if (m->spi_end || !m->fram_selected) return;
    if (m->fram_opcode == FRAM_IDLE) { /* the first bytes after selection are the opcode, and an address for two of them */
        const uint8_t *out = host(m, m->spi_tx, m->spi_tx_count, 1);
        if (!out) { /* as the chip: EasyDMA cannot reach flash */
            m->fail_code = 0x1002;
            stop(m, STOP_FAIL);
            return;
        }
        m->fram_opcode = m->spi_tx_count ? out[0] : FRAM_IDLE;
        if (m->fram_opcode == FRAM_ENABLE) m->fram_enabled = 1;
        if (m->spi_tx_count == 4) m->fram_address = (uint32_t)out[1] << 16 | (uint32_t)out[2] << 8 | out[3];
    } else {
        int reads = m->fram_opcode == FRAM_READ;
        m->offset = m->fram_address;
        m->address = reads ? m->spi_rx : m->spi_tx;
        m->length = reads ? m->spi_rx_count : m->spi_tx_count;
        if (reads || (m->fram_opcode == FRAM_WRITE && m->fram_enabled)) transfer(m, reads ? READ : WRITE);
        m->fram_address += m->length;
    }
    m->spi_end = 1;
}

uint64_t machine_spi_read(void *uc, uint64_t offset, unsigned size, struct machine *m)
{
    (void)uc, (void)size;
    return offset == EVENTS_END ? m->spi_end : 0;
}

void machine_spi_write(void *uc, uint64_t offset, unsigned size, uint64_t value, struct machine *m)
{
    (void)uc, (void)size;
    uint32_t v = (uint32_t)value;
    if (m->stop == STOP_DEAD || m->stop == STOP_CUT) return;
    switch (offset) {
    case RXD_PTR: m->spi_rx = v; break;
    case RXD_MAXCNT: m->spi_rx_count = v; break;
    case TXD_PTR: m->spi_tx = v; break;
    case TXD_MAXCNT: m->spi_tx_count = v; break;
    case EVENTS_END: m->spi_end = v; break;
    case TASKS_START: spi_exchange(m); break;
    }
}

/* ---- SPI master of an STM32: v1 (one data register) and v3 (two), told apart by the size of the access ---- */

enum stm32 { V1_STATUS = 0x08, V1_DATA = 0x0C, V3_STATUS = 0x14, V3_SEND = 0x20, V3_RECEIVE = 0x30 };

/* One byte to the FRAM, one back. */
static uint8_t fram_exchange(struct machine *m, uint8_t out)
{
    uint8_t in = 0xff;
    if (!m->fram_selected) return in;
    if (m->fram_command_bytes == 0) {
        m->fram_opcode = out;
        m->fram_address = 0;
        if (out == FRAM_ENABLE) m->fram_enabled = 1;
    } else if (m->fram_command_bytes < 4) {
        m->fram_address = m->fram_address << 8 | out;
    } else if (m->fram_address >= m->nvm_size) {
        m->fail_code = 0x1002;
        stop(m, STOP_FAIL);
    } else {
        settle_cycles(m);
        if (m->stop == STOP_DEAD) return in;
        uint32_t what = m->fram_opcode;
        double since_s = m->supply.now_s - m->spi_last_s, byte_s = what == FRAM_READ ? m->read_s_per_byte : m->write_s_per_byte;
        double wait_s = since_s < byte_s ? byte_s - since_s : 1e-10; /* the core was at work while the last byte went */
        if (what == FRAM_READ) move(m, READ, &in, m->fram_address, 1, 0.0, wait_s);
        if (what == FRAM_WRITE && m->fram_enabled) move(m, WRITE, &out, m->fram_address, 1, 0.0, wait_s);
        m->fram_address++;
    }
    m->spi_last_s = m->supply.now_s;
    m->fram_command_bytes++;
    return in;
}

uint64_t machine_stm32_spi_read(void *uc, uint64_t offset, unsigned size, struct machine *m)
{
    (void)uc;
    if (offset == V1_STATUS || offset == V3_STATUS) return (m->spi_fifo_count ? 1u : 0u) | 2u | 1u << 12;
    if (size != 1 || (offset != V1_DATA && offset != V3_RECEIVE) || !m->spi_fifo_count) return 0;
    uint32_t oldest = m->spi_fifo & 0xff;
    m->spi_fifo >>= 8;
    m->spi_fifo_count--;
    return oldest;
}

void machine_stm32_spi_write(void *uc, uint64_t offset, unsigned size, uint64_t value, struct machine *m)
{
    (void)uc;
    if (m->stop == STOP_DEAD || m->stop == STOP_CUT) return;
    if (size != 1 || (offset != V1_DATA && offset != V3_SEND)) return;
    uint32_t in = fram_exchange(m, (uint8_t)value);
    if (m->spi_fifo_count < 4) m->spi_fifo |= in << (8 * m->spi_fifo_count++); /* a fifth byte is lost, as on the chip */
}

uint64_t machine_clocks_read(void *uc, uint64_t offset, unsigned size, struct machine *m)
{
    (void)uc, (void)offset, (void)size, (void)m;
    return 0xffffffffu;
}

void machine_clocks_write(void *uc, uint64_t offset, unsigned size, uint64_t value, struct machine *m)
{
    (void)uc, (void)offset, (void)size, (void)value, (void)m;
}

/* ---- the pin that selects the FRAM: P0.30 of an nRF52, PA4 of an STM32 ---- */

enum pins { BSRR = 0x18, OUTSET = 0x508, OUTCLR = 0x50C };
#define NRF_SELECT (1u << 30)
#define STM32_SELECT (1u << 4)

uint64_t machine_pins_read(void *uc, uint64_t offset, unsigned size, struct machine *m)
{
    (void)uc, (void)offset, (void)size, (void)m;
    return 0;
}

void machine_pins_write(void *uc, uint64_t offset, unsigned size, uint64_t value, struct machine *m)
{
    (void)uc, (void)size;
    int low = (offset == OUTCLR && (value & NRF_SELECT)) || (offset == BSRR && (value & STM32_SELECT << 16));
    int high = (offset == OUTSET && (value & NRF_SELECT)) || (offset == BSRR && (value & STM32_SELECT));
    if (low) {
        m->fram_selected = 1;
        m->fram_command_bytes = 0;
    }
    if (high) {
        if (m->fram_opcode == FRAM_WRITE) m->fram_enabled = 0;
        m->fram_selected = 0;
        m->fram_opcode = FRAM_IDLE;
    }
}
