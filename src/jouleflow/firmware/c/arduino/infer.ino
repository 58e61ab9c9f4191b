// Inferences for ever, through power failures: an SPI FRAM keeps the progress. Put your sensor and your radio below.
#include <SPI.h>
#include <jouleflow_model.h>

const int SELECT_PIN = 10;  // the FRAM's chip select

extern "C" {

// ---- the FRAM's bus ----

int spi_init(void) {
  pinMode(SELECT_PIN, OUTPUT);
  digitalWrite(SELECT_PIN, HIGH);
  SPI.begin();
  SPI.beginTransaction(SPISettings(8000000, MSBFIRST, SPI_MODE0));
  return 0;
}
void spi_select(void) { digitalWrite(SELECT_PIN, LOW); }
void spi_deselect(void) { digitalWrite(SELECT_PIN, HIGH); }
void spi_send(const uint8_t *from, uint32_t n) {
  while (n--) SPI.transfer(*from++);
}
void spi_receive(uint8_t *to, uint32_t n) {
  while (n--) *to++ = SPI.transfer(0);
}

// ---- your application ----

int application_init(void) { return 0; }
int application_input_wait(uint32_t seq) { (void)seq; return 0; }  // wait for the sensor
int application_input_read(uint32_t offset, void *to, uint32_t n) {  // the same sample until the answer is out
  (void)offset;
  memset(to, 0, n);
  return 0;
}
int application_answer(uint32_t seq, uint32_t offset, uint32_t n) {
  Serial.print(seq);
  for (uint32_t i = 0; i < n; i++) {
    int8_t value;
    int err = port_nvm_read(offset + i, &value, 1);
    if (err) return err;
    Serial.print(' ');
    Serial.print(value);
  }
  Serial.println();
  return 0;
}
uint32_t application_energy_nj(void) { return 0; }  // the store's energy, if you can measure it
void application_rest(void) {}                      // sleep until it is full
void application_fail(int code) {
  Serial.print("jouleflow failed: ");
  Serial.println(code);
  for (;;) {
  }
}

}  // extern "C"

void setup() {
  Serial.begin(115200);
  int err = port_init();
  if (!err) err = engine_run(&network);  // returns on a fault only
  application_fail(err);
}

void loop() {}
