/* The arena of a Lua state: blocks keep their bytes through any order of growing, shrinking and giving back. */
#include "lua/arena.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define BLOCKS 500
#define ROUNDS 200000

struct block {
	unsigned char *bytes;
	size_t size;
	unsigned char mark;
};

static uint32_t random_state = 12345;

static uint32_t next_random(void)
{
	random_state = random_state * 1664525u + 1013904223u;
	return random_state >> 8;
}

static void check(const struct block *b, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (b->bytes[i] != b->mark)
			fail_msg("byte %zu of %zu changed", i, b->size);
}

static size_t some_size(void)
{
	switch (next_random() % 4) {
	case 0:
		return 1 + next_random() % 32;
	case 1:
		return 1 + next_random() % LAT_ARENA_SMALL;
	case 2:
		return LAT_ARENA_SMALL - 2 + next_random() % 5;
	default:
		return 1 + next_random() % 2000;
	}
}

static void blocks_keep_their_bytes(void **state)
{
	static struct block blocks[BLOCKS];
	struct lat_arena arena = { 0 };

	for (int i = 0; i < ROUNDS; i++) {
		struct block *b = &blocks[next_random() % BLOCKS];
		size_t size = some_size();

		check(b, b->size);
		if (b->bytes && next_random() % 3 == 0) {
			lat_arena_free(&arena, b->bytes, b->size);
			b->bytes = NULL;
			b->size = 0;
			continue;
		}
		b->bytes = lat_arena_resize(&arena, b->bytes, b->size, size);
		assert_non_null(b->bytes);
		assert_int_equal((uintptr_t)b->bytes % LAT_ARENA_STEP, 0);
		check(b, b->size < size ? b->size : size);
		b->size = size;
		b->mark = (unsigned char)next_random();
		memset(b->bytes, b->mark, size);
	}
	for (int i = 0; i < BLOCKS; i++) {
		check(&blocks[i], blocks[i].size);
		lat_arena_free(&arena, blocks[i].bytes, blocks[i].size);
	}
	lat_arena_end(&arena);
	lat_arena_end(&arena);
}

static void what_is_given_back_is_used_again(void **state)
{
	struct lat_arena arena = { 0 };
	size_t total = 0;

	for (int i = 0; i < 100000; i++) {
		void *block = lat_arena_resize(&arena, NULL, 0, 64);

		assert_non_null(block);
		lat_arena_free(&arena, block, 64);
		if (i == 0)
			total = arena.total;
	}
	assert_int_equal(arena.total, total);
	lat_arena_free(&arena, NULL, 0);
	lat_arena_end(&arena);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_keep_their_bytes),
		cmocka_unit_test(what_is_given_back_is_used_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
