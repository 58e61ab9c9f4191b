/* The emulated board around the CPU emulator: power supply, non-volatile memory, and the observer's registers.
 *
 * The CPU emulator calls block() before each basic block and the mmio functions for the board's registers. Time and
 * energy pass with cycles and transfers; when the store falls to off_j the power is gone at that very instruction.
 */
#ifndef JOULEFLOW_MACHINE_H
#define JOULEFLOW_MACHINE_H

#include <stdint.h>

#include "supply.h"

enum stop { STOP_NONE, STOP_DOOMED, STOP_DEAD, STOP_DONE, STOP_FAIL, STOP_EVENTS_FULL, STOP_SLICE, STOP_CUT, STOP_REST };

enum phase { PHASE_OFF, PHASE_BOOT, PHASE_RECOVER, PHASE_INPUT, PHASE_TILE, PHASE_COMMIT, PHASE_OUTPUT, PHASE_IDLE, N_PHASES };

struct event {
    double time_s, duration_s, energy_j, voltage_v;
    int32_t op, tile;
    uint32_t kind, instructions, cycles, reserved;
    uint32_t nvm_read_bytes, nvm_write_bytes;
};

struct machine {
    struct supply supply;
    double capacitance_f;
    /* CPU emulator */
    void *uc;
    int (*emu_stop)(void *uc);
    uint64_t code_base, code_size;
    const uint32_t *sum_cycles, *sum_instructions; /* [code_size / 2 + 1] running sums by halfword */
    /* memory as host pointers */
    uint8_t *sram, *nvm;
    const uint8_t *flash;
    uint64_t sram_base, sram_size, flash_base, flash_size, nvm_size;
    /* costs, at the capacitor */
    double cycle_s, active_w, wait_w;
    double read_s_per_byte, write_s_per_byte, read_j_per_byte, write_j_per_byte, setup_s, setup_j;
    double boot_s, boot_w, sense_s;
    uint64_t n_rests;
    uint32_t sensed_nj_limit; /* not 0: the energy sensor gives random values below it, for crash tests */
    uint32_t branch_cycles, write_block; /* bytes that NVM writes at once */
    int32_t continuous; /* 1: powered for ever, no supply */
    /* inputs and answers */
    const uint8_t *inputs; /* [n_inputs][input_bytes] */
    uint8_t *answers;      /* [n_inputs][answer_bytes] */
    double *answer_time_s; /* [n_inputs] */
    uint64_t n_inputs, input_bytes, answer_bytes, n_answers;
    /* registers written by the firmware */
    uint32_t offset, address, length, fail_code, mark_op;
    /* run state */
    int32_t stop, stepping;
    uint64_t instructions, cycles, pending_cycles, budget_cycles, slice_end;
    uint64_t block_address, block_end, doomed_instructions;
    uint64_t n_failures, n_commits, n_boots;
    uint64_t nvm_read_bytes, nvm_write_bytes;
    /* the phase now and what it has used so far */
    uint32_t phase;
    int32_t phase_op, phase_tile;
    double phase_start_s, phase_spent_j;
    uint64_t phase_instructions, phase_cycles, phase_read, phase_write;
    double time_by_phase_s[N_PHASES], energy_by_phase_j[N_PHASES];
    double unsafe_compute_s, unsafe_compute_j; /* since the last commit: lost by a failure */
    double lost_s, lost_j, charging_s;
    struct event *events;
    uint64_t n_events, max_events;
    /* checks; null when not wanted */
    uint8_t *journal;       /* bytes of NVM writes in order: (offset u32, value u8, phase u8, pad u16) */
    uint64_t n_journal, max_journal;
    uint8_t *touched;       /* [nvm_size]: 1 read since the last commit, 2 written since */
    uint64_t hazard_from;   /* bytes below are the progress slots, guarded by checksums */
    uint64_t n_hazards, first_hazard;
    uint32_t *wear;         /* [nvm_size] writes */
    uint64_t cut_after_bytes; /* power is cut in the write after so many written bytes; ~0: never */
    uint64_t random_state;  /* xorshift, for torn bytes */
    /* SPI masters (with DMA: nRF52 SPIM; byte by byte: STM32) and a FRAM on them, for firmware with a real board's port */
    uint32_t spi_tx, spi_tx_count, spi_rx, spi_rx_count, spi_end;
    uint32_t spi_fifo, spi_fifo_count; /* bytes received and not yet read, oldest lowest */
    uint32_t fram_opcode, fram_address, fram_enabled, fram_selected, fram_command_bytes;
    double spi_last_s; /* end of the last byte */
    /* flash with wait states behind two caches, where asked for: a line that is in neither costs flash_wait cycles */
    uint32_t flash_wait, flash_line_bytes, n_code_lines, n_data_lines, flash_clock, flash_last_line;
    uint32_t code_lines[64], data_lines[64], code_used[64], data_used[64]; /* line numbers + 1, and when they were used */
    uint64_t flash_stalls;
    /* serial line: what the firmware reads, and what it has written */
    const uint8_t *serial_in;
    uint64_t serial_in_bytes, serial_in_at;
    uint8_t *serial_out;
    uint64_t serial_out_bytes, serial_out_at;
};

void machine_block(void *uc, uint64_t address, uint32_t size, struct machine *m);
uint64_t machine_mmio_read(void *uc, uint64_t offset, unsigned size, struct machine *m);
void machine_mmio_write(void *uc, uint64_t offset, unsigned size, uint64_t value, struct machine *m);

/* A data read by the core, for flash with wait states. */
void machine_flash_read(void *uc, int type, uint64_t address, int size, int64_t value, struct machine *m);

/* The same for the SPI masters' pages, the port pins' page, and a clock controller that is always ready. */
uint64_t machine_spi_read(void *uc, uint64_t offset, unsigned size, struct machine *m);
void machine_spi_write(void *uc, uint64_t offset, unsigned size, uint64_t value, struct machine *m);
uint64_t machine_stm32_spi_read(void *uc, uint64_t offset, unsigned size, struct machine *m);
void machine_stm32_spi_write(void *uc, uint64_t offset, unsigned size, uint64_t value, struct machine *m);
uint64_t machine_clocks_read(void *uc, uint64_t offset, unsigned size, struct machine *m);
void machine_clocks_write(void *uc, uint64_t offset, unsigned size, uint64_t value, struct machine *m);
uint64_t machine_pins_read(void *uc, uint64_t offset, unsigned size, struct machine *m);
void machine_pins_write(void *uc, uint64_t offset, unsigned size, uint64_t value, struct machine *m);

/* Charges until on and pays the boot. Returns 1 powered, 0 out of time, -1 died while booting. */
int machine_power_on(struct machine *m, double until_s);
/* Books what is pending and closes the running phase. */
void machine_settle(struct machine *m);
/* The power is gone now: books the unsafe work as lost. */
void machine_power_off(struct machine *m);

#endif
