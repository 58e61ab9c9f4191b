/* Cores that need nothing before C runs. */
void core_init(void);
void core_init(void) {}
