/* Inferences for ever, through power failures. */
#include "engine.h"
#include "port.h"

extern const struct network network;

int main(void)
{
    int err = port_init();
    if (!err) err = engine_run(&network); /* returns on a fault only */
    port_fail(err);
}
