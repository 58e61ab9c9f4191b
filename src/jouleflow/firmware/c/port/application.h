/* What the maker of a device adds to a board's port: where inputs come from and where answers go.
 * As port.h, but without the memory. `application_example.c` shows the form. */
#ifndef JOULEFLOW_APPLICATION_H
#define JOULEFLOW_APPLICATION_H

#include <stdint.h>

int application_init(void);
/* Waits (asleep, if there is nothing) until input number seq, from 1, has been captured. */
int application_input_wait(uint32_t seq);
int application_input_read(uint32_t offset, void *to, uint32_t size_bytes);
/* The answer stands in non-volatile memory; read it with port_nvm_read. */
int application_answer(uint32_t seq, uint32_t nvm_offset, uint32_t size_bytes);
/* The energy left in the store, from its voltage, in nJ; 0 if the board cannot measure it: then every commit is made. */
uint32_t application_energy_nj(void);
/* Switches off, or sleeps, until the store is full; return at once if neither is possible. */
void application_rest(void);
_Noreturn void application_fail(int code);

#endif
