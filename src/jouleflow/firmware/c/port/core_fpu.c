/* Cores with a floating-point unit: it is off after reset. */
#include <stdint.h>

void core_init(void);
void core_init(void)
{
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* CPACR: full access to CP10 and CP11 */
    __asm__ volatile("dsb\nisb" ::: "memory");
}
