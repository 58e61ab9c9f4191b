/* Port: SPI FRAM of the CY15B104Q kind (opcode, three address bytes) on whatever SPI master the chip has.
 *
 * A FRAM write takes effect byte by byte as the clock runs, so a power failure leaves a prefix, which is what the engine
 * expects. The sensor and the answer are the application's: see application.h.
 * Source: CY15B104Q datasheet (001-94240), opcodes. */
#include "application.h"
#include "port.h"
#include "spi_master.h"

enum opcode { WRITE = 0x02, READ = 0x03, WRITE_ENABLE = 0x06 };

static uint8_t command[4]; /* in SRAM: some masters cannot send from flash */

static void start(uint8_t opcode, uint32_t offset)
{
    command[0] = opcode;
    command[1] = (uint8_t)(offset >> 16);
    command[2] = (uint8_t)(offset >> 8);
    command[3] = (uint8_t)offset;
    spi_select();
    spi_send(command, 4);
}

int port_init(void)
{
    int err = spi_init();
    return err ? err : application_init();
}

int port_nvm_read(uint32_t offset, void *to, uint32_t size_bytes)
{
    if (size_bytes == 0) return 0;
    start(READ, offset);
    spi_receive(to, size_bytes);
    spi_deselect();
    return 0;
}

int port_nvm_write(uint32_t offset, const void *from, uint32_t size_bytes)
{
    if (size_bytes == 0) return 0;
    command[0] = WRITE_ENABLE; /* the FRAM forgets it at the end of each write */
    spi_select();
    spi_send(command, 1);
    spi_deselect();
    start(WRITE, offset);
    spi_send(from, size_bytes);
    spi_deselect();
    return 0;
}
