/* Port: non-volatile memory through Zephyr's EEPROM interface (drivers exist for SPI and I2C FRAM). The devicetree alias
 * jouleflow-nvm names the device. */
#include <zephyr/device.h>
#include <zephyr/drivers/eeprom.h>

#include "application.h"
#include "engine.h"
#include "port.h"

static const struct device *const nvm = DEVICE_DT_GET(DT_ALIAS(jouleflow_nvm));

int port_init(void)
{
    if (!device_is_ready(nvm)) return ERR_NVM;
    return application_init();
}

int port_nvm_read(uint32_t offset, void *to, uint32_t size_bytes)
{
    return size_bytes && eeprom_read(nvm, (off_t)offset, to, size_bytes) ? ERR_NVM : 0;
}

int port_nvm_write(uint32_t offset, const void *from, uint32_t size_bytes)
{
    return size_bytes && eeprom_write(nvm, (off_t)offset, from, size_bytes) ? ERR_NVM : 0;
}
