/* An application to start from: inputs of all zeros, the last answer kept where a debugger finds it. */
#include "application.h"
#include "port.h"

enum { ANSWER_BYTES = 64 };
volatile int8_t last_answer[ANSWER_BYTES];
volatile uint32_t answers;

int application_init(void) { return 0; }

int application_input_wait(uint32_t seq)
{
    (void)seq; /* here: sleep until the sensor has a new sample */
    return 0;
}

int application_input_read(uint32_t offset, void *to, uint32_t size_bytes)
{
    (void)offset; /* here: copy from the sensor's buffer; the same sample until application_answer */
    int8_t *t = to;
    for (uint32_t i = 0; i < size_bytes; i++) t[i] = 0;
    return 0;
}

int application_answer(uint32_t seq, uint32_t nvm_offset, uint32_t size_bytes)
{
    int8_t copy[ANSWER_BYTES];
    uint32_t n = size_bytes < ANSWER_BYTES ? size_bytes : ANSWER_BYTES;
    int err = port_nvm_read(nvm_offset, copy, n);
    for (uint32_t i = 0; i < n; i++) last_answer[i] = copy[i];
    answers = seq;
    return err;
}

uint32_t application_energy_nj(void) { return 0; /* here: sample the store, C (V^2 - V_off^2) / 2 */ }

void application_rest(void) { /* here: the power switch's hold pin, or deep sleep with a comparator to wake */ }

_Noreturn void application_fail(int code)
{
    (void)code;
    for (;;) {
    }
}
