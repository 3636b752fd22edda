/* The address index: sorted disjoint intervals under a trie of wide branches; see tables_parts.h.
 *
 * A branch looks at `bits` bits behind the `pos` leading bits that all its starts share, and each slot leads to at most
 * LEAF starts (scanned) or to another branch. An address that does not share the leading bits lies below or above all
 * of the branch's starts, so it is decided without going deeper. */
#include "core/tables_parts.h"
#include "base/mem.h"
#include <string.h>

#define LEAF 6u
#define SLOT_COUNT_BITS 4
#define SLOT_BRANCH 15u /* in the place of the count: the rest is the number of a branch */
#define MOST_BITS 16u
#define MOST_STARTS (UINT32_MAX >> SLOT_COUNT_BITS)

struct lat_branch {
	lat_key key;     /* its leading `pos` bits count */
	uint32_t lo, hi; /* starts[lo..hi) are below this branch */
	uint32_t slots;  /* its first slot */
	uint8_t pos, bits;
};

int lat_index_init(struct lat_index *index)
{
	memset(index, 0, sizeof(*index));
	return lat_index_append(index, 0, 0);
}

void lat_index_fini(struct lat_index *index)
{
	free(index->starts);
	free(index->owners);
	free(index->branches);
	free(index->slots);
	memset(index, 0, sizeof(*index));
}

int lat_index_append(struct lat_index *index, lat_key start, uint32_t owner)
{
	size_t cap = index->cap;
	int r;

	if (index->count && index->starts[index->count - 1] == start) {
		index->owners[index->count - 1] = owner;
		/* The interval before may now be the same. */
		if (index->count > 1 && index->owners[index->count - 2] == owner)
			index->count--;
		return 0;
	}
	if (index->count && index->owners[index->count - 1] == owner)
		return 0;
	r = lat_grow((void **)&index->starts, &cap, index->count + 1, sizeof(*index->starts));
	if (r < 0)
		return r;
	r = lat_grow((void **)&index->owners, &index->cap, index->count + 1, sizeof(*index->owners));
	if (r < 0)
		return r;
	index->starts[index->count] = start;
	index->owners[index->count++] = owner;
	return 0;
}

/* bits (1..16) behind pos; they lie in one half of the key. */
static inline uint32_t window(lat_key key, unsigned pos, unsigned bits)
{
	uint64_t half = pos < 64 ? (uint64_t)(key >> 64) : (uint64_t)key;

	return (uint32_t)(half << (pos & 63) >> (64 - bits));
}

static unsigned shared_bits(lat_key a, lat_key b)
{
	uint64_t hi = (uint64_t)((a ^ b) >> 64), lo = (uint64_t)(a ^ b);

	if (hi)
		return (unsigned)__builtin_clzll(hi);
	return lo ? 64 + (unsigned)__builtin_clzll(lo) : 128;
}

static int add_branch(struct lat_index *index, uint32_t lo, uint32_t hi, uint32_t *out);

/* One slot for starts[lo..hi). */
static int make_slot(struct lat_index *index, uint32_t lo, uint32_t hi, uint32_t *out)
{
	uint32_t branch;
	int r;

	if (hi - lo <= LEAF) {
		*out = lo << SLOT_COUNT_BITS | (hi - lo);
		return 0;
	}
	r = add_branch(index, lo, hi, &branch);
	if (r < 0)
		return r;
	*out = branch << SLOT_COUNT_BITS | SLOT_BRANCH;
	return 0;
}

/* Starts are distinct and at least two, so the branch parts them; depth is at most 128. */
static int add_branch(struct lat_index *index, uint32_t lo, uint32_t hi, uint32_t *out)
{
	unsigned pos = shared_bits(index->starts[lo], index->starts[hi - 1]);
	unsigned bits = 31u - (unsigned)__builtin_clz(hi - lo);
	uint32_t number = (uint32_t)index->branch_count, slots = (uint32_t)index->slot_count, at = lo;
	int r;

	if (bits > MOST_BITS)
		bits = MOST_BITS;
	if (bits > 64 - pos % 64)
		bits = 64 - pos % 64;
	if (index->slot_count + (1u << bits) > MOST_STARTS)
		return -E2BIG;
	r = lat_grow((void **)&index->branches, &index->branch_cap, index->branch_count + 1, sizeof(*index->branches));
	if (r < 0)
		return r;
	r = lat_grow((void **)&index->slots, &index->slot_cap, index->slot_count + (1u << bits), sizeof(*index->slots));
	if (r < 0)
		return r;
	index->branches[number] = (struct lat_branch){ .key = index->starts[lo], .lo = lo, .hi = hi, .slots = slots,
		.pos = (uint8_t)pos, .bits = (uint8_t)bits };
	index->branch_count++;
	index->slot_count += 1u << bits;
	for (uint32_t w = 0; w < 1u << bits; w++) {
		uint32_t first = at, slot;

		while (at < hi && window(index->starts[at], pos, bits) == w)
			at++;
		r = make_slot(index, first, at, &slot);
		if (r < 0)
			return r;
		index->slots[slots + w] = slot; /* the array may have moved meanwhile */
	}
	*out = number;
	return 0;
}

int lat_index_seal(struct lat_index *index)
{
	size_t cap = index->cap;
	uint32_t root;
	int r;

	if (index->count > MOST_STARTS)
		return -E2BIG;
	if (index->count > 1 + LEAF) { /* starts[0] stays outside: it would spoil the shared bits */
		r = add_branch(index, 1, (uint32_t)index->count, &root);
		if (r < 0)
			return r;
	}
	lat_fit((void **)&index->starts, &cap, index->count, sizeof(*index->starts));
	lat_fit((void **)&index->owners, &index->cap, index->count, sizeof(*index->owners));
	lat_fit((void **)&index->branches, &index->branch_cap, index->branch_count, sizeof(*index->branches));
	lat_fit((void **)&index->slots, &index->slot_cap, index->slot_count, sizeof(*index->slots));
	return 0;
}

uint32_t lat_index_find(const struct lat_index *index, lat_key key)
{
	uint32_t at = 1, end = (uint32_t)index->count;

	if (index->branch_count) {
		const struct lat_branch *branch = index->branches;
		uint32_t slot;

		for (;;) {
			if (branch->pos && (key ^ branch->key) >> (128 - branch->pos))
				return index->owners[(key < branch->key ? branch->lo : branch->hi) - 1];
			slot = index->slots[branch->slots + window(key, branch->pos, branch->bits)];
			if ((slot & SLOT_BRANCH) != SLOT_BRANCH)
				break;
			branch = &index->branches[slot >> SLOT_COUNT_BITS];
		}
		at = slot >> SLOT_COUNT_BITS;
		end = at + (slot & SLOT_BRANCH);
	}
	while (at < end && index->starts[at] <= key)
		at++;
	return index->owners[at - 1];
}

size_t lat_index_bytes(const struct lat_index *index)
{
	return index->cap * (sizeof(*index->starts) + sizeof(*index->owners)) +
		index->branch_cap * sizeof(*index->branches) + index->slot_cap * sizeof(*index->slots);
}
