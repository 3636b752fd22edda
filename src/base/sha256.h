/* SHA-256 (FIPS 180-4), for fingerprints. */
#ifndef LAT_BASE_SHA256_H
#define LAT_BASE_SHA256_H
#include <stddef.h>
#include <stdint.h>

#define LAT_SHA256 32

struct lat_sha256 {
	uint32_t state[8];
	uint64_t bytes;
	uint8_t block[64];
	void (*take)(uint32_t state[8], const uint8_t *block);
};

void lat_sha256_init(struct lat_sha256 *sum);
/* The same without the processor's own instructions for it. */
void lat_sha256_init_plain(struct lat_sha256 *sum);
void lat_sha256_add(struct lat_sha256 *sum, const void *data, size_t len);
void lat_sha256_end(struct lat_sha256 *sum, uint8_t digest[LAT_SHA256]);

#endif
