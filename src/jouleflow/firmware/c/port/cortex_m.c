/* Start-up of a Cortex-M: vector table, zeroed statics, then the engine. Nothing here depends on the maker. */
#include "engine.h"
#include "port.h"

extern uint32_t bss_start[], bss_end[], stack_top[];
extern const struct network network;
void reset_handler(void);
void fault_handler(void);
void core_init(void);

void reset_handler(void)
{
    for (uint32_t *p = bss_start; p < bss_end; p++) *p = 0;
    core_init();
    int err = port_init();
    if (!err) err = engine_run(&network);
    port_fail(err);
}

void fault_handler(void) { port_fail(ERR_TABLE); }

typedef void vector(void);
__attribute__((section(".vectors"), used)) static vector *const vectors[16] = {
    (vector *)(uintptr_t)stack_top, reset_handler, fault_handler, fault_handler, fault_handler, fault_handler,
    fault_handler, 0, 0, 0, 0, fault_handler, fault_handler, 0, fault_handler, fault_handler,
};
