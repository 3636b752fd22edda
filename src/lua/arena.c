/* See arena.h. Under the address sanitizer every block is malloc's, so that it is watched. */
#include "lua/arena.h"
#include <stdalign.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CHUNK (32u << 10)
#define LARGEST_CHUNK (1u << 20)

struct lat_arena_chunk {
	alignas(LAT_ARENA_STEP) struct lat_arena_chunk *before;
};

#ifdef __has_feature
#define SANITIZED __has_feature(address_sanitizer)
#elif defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static bool is_small(size_t size)
{
	return !SANITIZED && size <= LAT_ARENA_SMALL;
}

static size_t class_of(size_t size)
{
	return (size - 1) / LAT_ARENA_STEP;
}

static void give_back(struct lat_arena *a, void *block, size_t size)
{
	void **list = &a->unused[class_of(size)];

	*(void **)block = *list;
	*list = block;
}

/* A chunk an eighth of what there is: a small state stays small, a large one asks seldom. */
static bool grow(struct lat_arena *a)
{
	size_t size = a->total / 8 < FIRST_CHUNK ? FIRST_CHUNK : a->total / 8;
	struct lat_arena_chunk *c;

	if (size > LARGEST_CHUNK)
		size = LARGEST_CHUNK;
	size &= ~(size_t)(LAT_ARENA_STEP - 1);
	c = malloc(sizeof(*c) + size);
	if (!c)
		return false;
	/* The tail of the old chunk is a block of some class: every size here is a multiple of the step. */
	if (a->next != a->end)
		give_back(a, a->next, (size_t)(a->end - a->next));
	c->before = a->chunks;
	a->chunks = c;
	a->next = (char *)(c + 1);
	a->end = a->next + size;
	a->total += size;
	return true;
}

static void *take(struct lat_arena *a, size_t size)
{
	size_t class = class_of(size), whole = (class + 1) * LAT_ARENA_STEP;
	void *block = a->unused[class];

	if (block) {
		a->unused[class] = *(void **)block;
		return block;
	}
	if ((size_t)(a->end - a->next) < whole && !grow(a))
		return NULL;
	block = a->next;
	a->next += whole;
	return block;
}

void lat_arena_free(struct lat_arena *a, void *block, size_t size)
{
	if (!block)
		return;
	if (is_small(size))
		give_back(a, block, size);
	else
		free(block);
}

void *lat_arena_resize(struct lat_arena *a, void *block, size_t old_size, size_t new_size)
{
	bool old_small = block && is_small(old_size), new_small = is_small(new_size);
	void *moved;

	if (block && old_small && new_small && class_of(old_size) == class_of(new_size))
		return block;
	if (!old_small && !new_small)
		return realloc(block, new_size);
	moved = new_small ? take(a, new_size) : malloc(new_size);
	if (!moved)
		return NULL;
	if (block) {
		memcpy(moved, block, old_size < new_size ? old_size : new_size);
		lat_arena_free(a, block, old_size);
	}
	return moved;
}

void lat_arena_end(struct lat_arena *a)
{
	while (a->chunks) {
		struct lat_arena_chunk *c = a->chunks;

		a->chunks = c->before;
		free(c);
	}
	memset(a, 0, sizeof(*a));
}
