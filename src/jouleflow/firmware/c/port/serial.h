/* A serial line and a clock: what energyrunner.c needs of a board. */
#ifndef JOULEFLOW_SERIAL_H
#define JOULEFLOW_SERIAL_H

#include <stdint.h>

int serial_init(void);            /* 115200 baud, 8N1; 9600 for energy runs */
uint8_t serial_read(void);        /* waits for a byte */
void serial_write(uint8_t byte);
uint32_t serial_time_us(void);    /* any epoch; wraps */

#endif
