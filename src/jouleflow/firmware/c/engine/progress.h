/* Progress in non-volatile memory: two slots, each with a checksum; a commit replaces the older one. */
#ifndef JOULEFLOW_PROGRESS_H
#define JOULEFLOW_PROGRESS_H

#include "engine.h"

struct progress {
    uint16_t version;  /* layout of this record */
    uint16_t retries;  /* times that this inference was begun again because its data had changed by themselves */
    uint32_t hash[2];  /* network.hash */
    uint32_t count;    /* commits so far; the larger of two valid slots is the newer */
    uint32_t seq;      /* number of the inference */
    uint16_t op;       /* continue at this tile of this operator */
    uint16_t tile;
    uint32_t data;     /* check value of what reload() brings back */
    uint32_t crc;      /* of everything above */
};

#define PROGRESS_VERSION 2u
#define PROGRESS_SLOT_BYTES 32u
#define PROGRESS_BYTES (2u * PROGRESS_SLOT_BYTES)

/* Fills in the newest valid record of this network; a fresh start (inference 1, position 0) when there is none. */
int progress_restore(const struct network *net, struct progress *out);

/* Makes (seq, op, tile) the place to continue from. Atomic: a power failure leaves the old place or the new one. */
int progress_commit(struct progress *now);

#endif
