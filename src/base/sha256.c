/* See sha256.h. */
#include "base/sha256.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>
#endif

/* The first bits of the fractions of the cube roots of the first 64 primes. */
static const uint32_t keys[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate(uint32_t x, int n)
{
	return x >> n | x << (32 - n);
}

static void take_plain(uint32_t state[8], const uint8_t *block)
{
	uint32_t w[64], v[8];

	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
			(uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
	for (int i = 16; i < 64; i++) {
		uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
		uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;

		w[i] = w[i - 16] + s0 + w[i - 7] + s1;
	}
	memcpy(v, state, sizeof(v));
	for (int i = 0; i < 64; i++) {
		uint32_t s1 = rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25);
		uint32_t s0 = rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22);
		uint32_t t1 = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + keys[i] + w[i];
		uint32_t t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));

		for (int k = 7; k > 0; k--)
			v[k] = v[k - 1];
		v[4] += t1;
		v[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		state[i] += v[i];
}

#ifdef __x86_64__
/* By the processor's instructions, four rounds a turn. They want the state as two registers, A B E F and C D G H. */
__attribute__((target("sha,sse4.1"))) static void take_fast(uint32_t state[8], const uint8_t *block)
{
	const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
	__m128i low = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xb1);
	__m128i high = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1b);
	__m128i abef = _mm_alignr_epi8(low, high, 8), cdgh = _mm_blend_epi16(high, low, 0xf0);
	__m128i abef_before = abef, cdgh_before = cdgh, w[4];

	for (int i = 0; i < 4; i++)
		w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(block + 16 * i)), swap);
	for (int i = 0; i < 16; i++) {
		__m128i *now = &w[i & 3], last = w[(i + 3) & 3];
		__m128i sum = _mm_add_epi32(*now, _mm_loadu_si128((const __m128i *)(keys + 4 * i)));

		cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
		abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
		*now = _mm_add_epi32(_mm_sha256msg1_epu32(*now, w[(i + 1) & 3]), _mm_alignr_epi8(last, w[(i + 2) & 3], 4));
		*now = _mm_sha256msg2_epu32(*now, last);
	}
	low = _mm_shuffle_epi32(_mm_add_epi32(abef, abef_before), 0x1b);
	high = _mm_shuffle_epi32(_mm_add_epi32(cdgh, cdgh_before), 0xb1);
	_mm_storeu_si128((__m128i *)state, _mm_blend_epi16(low, high, 0xf0));
	_mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(high, low, 8));
}

static bool has_instructions(void)
{
	static atomic_int known; /* 1: no, 2: yes; asking is slow in a virtual machine */
	unsigned a, b, c, d;

	if (!known)
		known = 1 + (__get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA) &&
				    __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_1));
	return known == 2;
}
#endif

void lat_sha256_init_plain(struct lat_sha256 *sum)
{
	/* Of the square roots of the first 8. */
	static const uint32_t first[8] = {
		0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
	};

	memset(sum, 0, sizeof(*sum));
	memcpy(sum->state, first, sizeof(first));
	sum->take = take_plain;
}

void lat_sha256_init(struct lat_sha256 *sum)
{
	lat_sha256_init_plain(sum);
#ifdef __x86_64__
	if (has_instructions())
		sum->take = take_fast;
#endif
}

void lat_sha256_add(struct lat_sha256 *sum, const void *data, size_t len)
{
	const uint8_t *p = data;

	while (len) {
		size_t at = sum->bytes % 64, n = 64 - at < len ? 64 - at : len;

		memcpy(sum->block + at, p, n);
		sum->bytes += n;
		p += n;
		len -= n;
		if (at + n == 64)
			sum->take(sum->state, sum->block);
	}
}

void lat_sha256_end(struct lat_sha256 *sum, uint8_t digest[LAT_SHA256])
{
	static const uint8_t padding[64] = { 0x80 };
	uint64_t bits = sum->bytes * 8;
	uint8_t length[8];

	for (int i = 0; i < 8; i++)
		length[i] = (uint8_t)(bits >> (56 - 8 * i));
	lat_sha256_add(sum, padding, 1 + (119 - sum->bytes % 64) % 64);
	lat_sha256_add(sum, length, sizeof(length));
	for (int i = 0; i < LAT_SHA256; i++)
		digest[i] = (uint8_t)(sum->state[i / 4] >> (24 - 8 * (i % 4)));
}
