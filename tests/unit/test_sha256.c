/* The fingerprints are those of the standard, whatever the pieces. */
#include "base/sha256.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static void check_by(void (*init)(struct lat_sha256 *sum), const char *text, size_t piece, const char *want)
{
	struct lat_sha256 sum;
	uint8_t digest[LAT_SHA256];
	char hex[2 * LAT_SHA256 + 1];
	size_t len = strlen(text);

	init(&sum);
	for (size_t at = 0; at < len; at += piece)
		lat_sha256_add(&sum, text + at, len - at < piece ? len - at : piece);
	lat_sha256_end(&sum, digest);
	for (size_t i = 0; i < LAT_SHA256; i++)
		snprintf(hex + 2 * i, 3, "%02x", digest[i]);
	assert_string_equal(hex, want);
}

static void check(const char *text, size_t piece, const char *want)
{
	check_by(lat_sha256_init, text, piece, want);
	check_by(lat_sha256_init_plain, text, piece, want);
}

static void known_texts_have_their_fingerprints(void **state)
{
	static const char two[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";

	check("", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	check("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	for (size_t piece = 1; piece < sizeof(two); piece++)
		check(two, piece, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

static void both_ways_agree_on_long_texts(void **state)
{
	uint8_t text[4096], digests[2][LAT_SHA256];
	struct lat_sha256 sum;

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)(i * 2654435761u >> 13);
	for (size_t len = 0; len <= sizeof(text); len += 61) {
		lat_sha256_init(&sum);
		lat_sha256_add(&sum, text, len);
		lat_sha256_end(&sum, digests[0]);
		lat_sha256_init_plain(&sum);
		lat_sha256_add(&sum, text, len);
		lat_sha256_end(&sum, digests[1]);
		assert_memory_equal(digests[0], digests[1], LAT_SHA256);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(known_texts_have_their_fingerprints),
		cmocka_unit_test(both_ways_agree_on_long_texts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
