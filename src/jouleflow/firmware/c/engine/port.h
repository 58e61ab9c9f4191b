/* What a board gives the engine. One file a board implements it; see kernels and engine for who calls what.
 *
 * Offsets address the non-volatile memory from 0 to its size. A write may be cut by a power failure anywhere: each byte
 * then holds its old value, its new one, or rubbish if it was in flight. Functions return 0, or a negative code.
 */
#ifndef JOULEFLOW_PORT_H
#define JOULEFLOW_PORT_H

#include <stdint.h>

enum mark { MARK_BOOT = 1, MARK_RECOVER, MARK_INPUT, MARK_TILE, MARK_COMMIT, MARK_OUTPUT, MARK_IDLE };

int port_init(void);
int port_nvm_read(uint32_t offset, void *to, uint32_t size_bytes);
int port_nvm_write(uint32_t offset, const void *from, uint32_t size_bytes);

/* Waits until input number `seq` exists (the first is 1). */
int port_input_wait(uint32_t seq);
/* Bytes [offset, offset + size) of the current input. All reads of one inference see one sample. */
int port_input_read(uint32_t offset, void *to, uint32_t size_bytes);
/* Delivers the answer to input `seq`, which stands in NVM. May be called again for the same seq after a failure. */
int port_answer(uint32_t seq, uint32_t nvm_offset, uint32_t size_bytes);

/* Energy in the store above the point of failure, in nJ; 0 where the board cannot tell. */
uint32_t port_energy_nj(void);
/* Sleeps or shuts down until the store is full. It may return (SRAM kept), or the next thing is the reset vector. */
void port_rest(void);

/* Tells an observer (emulator, logic analyser) what begins now. Empty on boards without one. */
void port_mark(enum mark kind, uint32_t op, uint32_t tile);
/* A fault that the engine cannot get over. Does not return. */
_Noreturn void port_fail(int code);

#endif
