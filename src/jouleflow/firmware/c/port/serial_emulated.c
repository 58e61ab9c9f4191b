/* The emulated board's serial line. */
#include "serial.h"

#define REG(offset) (*(volatile uint32_t *)(uintptr_t)(0x40000000u + (offset)))

int serial_init(void) { return 0; }
uint8_t serial_read(void) { return (uint8_t)REG(44); }
void serial_write(uint8_t byte) { REG(48) = byte; }
uint32_t serial_time_us(void) { return REG(52); }
