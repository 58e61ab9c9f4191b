/* An SPI master with one memory on it: what spi_fram.c needs of a chip. Mode 0, most significant bit first. */
#ifndef JOULEFLOW_SPI_MASTER_H
#define JOULEFLOW_SPI_MASTER_H

#include <stdint.h>

/* Clocks, pins and the SPI master, from reset. */
int spi_init(void);
/* Drives the memory's chip select. */
void spi_select(void);
void spi_deselect(void);
/* Sends n bytes (from SRAM), or receives n. Returns when the last bit is over. */
void spi_send(const uint8_t *from, uint32_t n);
void spi_receive(uint8_t *to, uint32_t n);

#endif
