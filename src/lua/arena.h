/* Memory for one Lua state: small blocks by size class from chunks that live as long as the state. Lua says each block's size
 * when it gives it back, so a block needs no header, and a state belongs to one thread, so there is no lock: against malloc
 * that saves a fifth of the time of loading a large policy. */
#ifndef LAT_LUA_ARENA_H
#define LAT_LUA_ARENA_H
#include <stddef.h>

#define LAT_ARENA_STEP 16   /* a class each 16 bytes */
#define LAT_ARENA_SMALL 256 /* larger blocks are malloc's */

struct lat_arena_chunk;

/* Zeroed: an empty arena. */
struct lat_arena {
	void *unused[LAT_ARENA_SMALL / LAT_ARENA_STEP]; /* lists of given-back blocks, linked by their first word */
	char *next, *end;                               /* what is left of the newest chunk */
	struct lat_arena_chunk *chunks;
	size_t total;                                   /* of all chunks */
};

/* Like realloc (block NULL: a new one); old_size is what the block was asked with. NULL: out of memory, the block is as it
 * was. new_size is not 0. */
void *lat_arena_resize(struct lat_arena *arena, void *block, size_t old_size, size_t new_size);
void lat_arena_free(struct lat_arena *arena, void *block, size_t size); /* NULL is fine */
/* Every small block at once. Large ones must have been freed. */
void lat_arena_end(struct lat_arena *arena);

#endif
