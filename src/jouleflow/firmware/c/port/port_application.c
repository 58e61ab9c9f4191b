/* Port: everything but the memory is the application's. */
#include "application.h"
#include "port.h"

int port_input_wait(uint32_t seq) { return application_input_wait(seq); }

int port_input_read(uint32_t offset, void *to, uint32_t size_bytes)
{
    return application_input_read(offset, to, size_bytes);
}

int port_answer(uint32_t seq, uint32_t nvm_offset, uint32_t size_bytes)
{
    return application_answer(seq, nvm_offset, size_bytes);
}

uint32_t port_energy_nj(void) { return application_energy_nj(); }

void port_rest(void) { application_rest(); }

void port_mark(enum mark kind, uint32_t op, uint32_t tile) { (void)kind, (void)op, (void)tile; }

_Noreturn void port_fail(int code) { application_fail(code); }
