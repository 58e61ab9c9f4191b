/* An application that speaks the MLPerf Tiny / EEMBC EnergyRunner serial protocol: the runner loads an input, asks for
 * inferences, and reads results. Commands end with '%'. The protocol's facts are from MLCommons' public harness.
 *
 * Meant for a board on steady power: what the runner has said is kept in SRAM only. */
#include "application.h"
#include "energyrunner_model.h"
#include "port.h"
#include "serial.h"

enum { COMMAND_BYTES = 80, DEFAULT_WARMUP = 10 };

static uint8_t input[INPUT_BYTES];
static uint32_t loaded, expected;  /* bytes of `db load` so far, and in all */
static uint32_t warmups, wanted;   /* inferences still to run: before and while time is taken */
static uint32_t n_asked;
static int8_t results[OUTPUT_BYTES];

static void print(const char *text)
{
    while (*text) serial_write((uint8_t)*text++);
}

static void print_number(uint32_t n)
{
    char digits[11];
    uint32_t i = sizeof digits;
    digits[--i] = 0;
    do digits[--i] = (char)('0' + n % 10);
    while (n /= 10);
    print(digits + i);
}

/* Three decimals. */
static void print_real(float x)
{
    if (x < 0.0f) {
        serial_write('-');
        x = -x;
    }
    uint32_t thousandths = (uint32_t)(x * 1000.0f + 0.5f);
    print_number(thousandths / 1000);
    serial_write('.');
    for (uint32_t unit = 100; unit; unit /= 10) serial_write((uint8_t)('0' + thousandths / unit % 10));
}

static void print_with_number(const char *before, uint32_t n, const char *after)
{
    print(before);
    print_number(n);
    print(after);
}

static void print_time(void) { print_with_number("m-lap-us-", serial_time_us(), "\r\n"); }

static void print_results(void)
{
    print("m-results-[");
    for (uint32_t i = 0; i < OUTPUT_BYTES; i++) {
        if (i) serial_write(',');
        print_real((float)(results[i] - OUTPUT_ZERO) * OUTPUT_SCALE);
    }
    print("]\r\n");
}

/* The next word of a command, and the rest after it. */
static char *word(char **rest)
{
    char *start = *rest;
    while (*start == ' ') start++;
    char *end = start;
    while (*end && *end != ' ') end++;
    *rest = *end ? end + 1 : end;
    *end = 0;
    return start;
}

static int same(const char *a, const char *b)
{
    while (*a && *a == *b) a++, b++;
    return *a == *b;
}

/* A decimal number, at most 2^31; `absent` when there is none. */
static uint32_t number(const char *text, uint32_t absent)
{
    if (*text < '0' || *text > '9') return absent;
    uint32_t n = 0;
    for (; *text >= '0' && *text <= '9'; text++) n = n < 0x0ccccccc ? 10 * n + (uint32_t)(*text - '0') : 0x7fffffff;
    return n;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static void load(char *rest)
{
    char *what = word(&rest);
    if (same(what, "load")) {
        expected = number(word(&rest), 0);
        loaded = 0;
        if (expected != INPUT_BYTES) {
            print_with_number("e-[This model takes ", INPUT_BYTES, " bytes]\r\n");
            expected = 0;
        } else {
            print_with_number("m-[Expecting ", expected, " bytes]\r\n");
        }
        return;
    }
    for (; what[0] && what[1]; what += 2) {
        int high = hex(what[0]), low = hex(what[1]);
        if (high < 0 || low < 0 || loaded >= expected) {
            print("e-[Command 'db' takes pairs of hex digits, no more than were announced by 'db load']\r\n");
            return;
        }
        input[loaded++] = (uint8_t)(high << 4 | low);
        if (loaded == expected) print("m-load-done\r\n");
    }
}

/* Whether inferences were asked for. */
static int obey(char *command)
{
    char *rest = command, *what = word(&rest);
    if (same(what, "name")) {
        print("m-name-dut-[jouleflow]\r\n");
    } else if (same(what, "timestamp")) {
        print_time();
    } else if (same(what, "profile")) {
        print("m-profile-[ULPMark for tinyML Firmware V0.0.1]\r\nm-model-[" MODEL_NAME "]\r\n");
    } else if (same(what, "help")) {
        print("name, timestamp, profile, db load N, db HEX, infer N [W], results\r\n");
    } else if (same(what, "db")) {
        load(rest);
    } else if (same(what, "results")) {
        print_results();
    } else if (same(what, "infer")) {
        wanted = number(word(&rest), 1);
        warmups = number(word(&rest), DEFAULT_WARMUP);
        if (wanted == 0) {
            print("e-[Inference iterations must be >0]\r\n");
        } else if (loaded != INPUT_BYTES) {
            print("e-[Load an input first]\r\n");
            wanted = 0;
        } else {
            n_asked = wanted;
            print_with_number("m-warmup-start-", warmups, "\r\n");
            return 1;
        }
    } else {
        print("e-[Unknown command: ");
        print(what);
        print("]\r\n");
    }
    return 0;
}

static void begin_timed(void)
{
    print_with_number("m-warmup-done\r\nm-infer-start-", n_asked, "\r\n");
    print_time();
}

int application_init(void)
{
    int err = serial_init();
    print("m-init-done\r\nm-ready\r\n");
    return err;
}

int application_input_wait(uint32_t seq)
{
    static char command[COMMAND_BYTES + 1];
    uint32_t n = 0;
    (void)seq;
    while (!wanted) {
        uint8_t c = serial_read();
        if (c != '%') { /* line ends are not part of a command; one that is too long is cut, and so unknown */
            if (c != '\r' && c != '\n' && n < COMMAND_BYTES) command[n++] = (char)c;
            continue;
        }
        command[n] = 0;
        n = 0;
        if (!obey(command))
            print("m-ready\r\n");
        else if (!warmups)
            begin_timed();
    }
    return 0;
}

int application_input_read(uint32_t offset, void *to, uint32_t size_bytes)
{
    int8_t *t = to;
    for (uint32_t i = 0; i < size_bytes; i++) t[i] = (int8_t)(input[offset + i] - INPUT_OFFSET);
    return 0;
}

int application_answer(uint32_t seq, uint32_t nvm_offset, uint32_t size_bytes)
{
    (void)seq;
    if (!wanted) return 0; /* of an inference that was begun before the power came back */
    int err = port_nvm_read(nvm_offset, results, size_bytes < OUTPUT_BYTES ? size_bytes : OUTPUT_BYTES);
    if (err) return err;
    if (warmups) {
        if (--warmups == 0) begin_timed();
    } else if (--wanted == 0) {
        print_time();
        print("m-infer-done\r\n");
        print_results();
        print("m-ready\r\n");
    }
    return 0;
}

uint32_t application_energy_nj(void) { return 0; }

void application_rest(void) {}

_Noreturn void application_fail(int code)
{
    print_with_number("e-[jouleflow failed: -", (uint32_t)-code, "]\r\n");
    for (;;) {
    }
}
