/* The two halves of the decision tables (tables.h), for tables.c and its parts only.
 *
 * Port lists answer "lowest rule for this key" where the key is a port (tcp, udp) or a protocol number (all others): an
 * array of disjoint segments that covers every key, found by binary search. Lists with the same content exist once.
 *
 * The index answers "which node owns this address": nested prefixes become disjoint address intervals, sorted, and a
 * trie with skipped bits and wide branches narrows an address down to a handful of intervals. */
#ifndef LAT_CORE_TABLES_PARTS_H
#define LAT_CORE_TABLES_PARTS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* An address with its family's first bit on top; IPv4 fills the upper 32 bits. */
typedef unsigned __int128 lat_key;

/* Keys lo..hi belong to `rule` unless a lower rule covers them. */
struct lat_span {
	uint16_t lo, hi;
	uint32_t rule;
};

/* All lists, one after another: count, the rules, then the first keys as uint16_t (the first is 0). A list is named by
 * its offset; the empty list (rule 0 everywhere) has offset 0. */
struct lat_lists {
	uint32_t *words;
	size_t used, cap;
	uint32_t *seen; /* open addressing: offsets of the lists, UINT32_MAX: free; dropped by lat_lists_seal */
	size_t seen_cap, seen_used;
	/* Scratch of lat_lists_add, grown as needed; dropped by lat_lists_seal. */
	uint32_t *scratch;
	size_t scratch_cap;
};

int lat_lists_init(struct lat_lists *lists);
void lat_lists_fini(struct lat_lists *lists);
/* Builds the list of the spans (they are sorted in place) and stores its offset. 0, -ENOMEM or -E2BIG. */
int lat_lists_add(struct lat_lists *lists, struct lat_span *spans, size_t count, uint32_t *out);
/* No list will be added any more: gives back what only building needs. */
void lat_lists_seal(struct lat_lists *lists);

static inline uint32_t lat_list_count(const struct lat_lists *lists, uint32_t list)
{
	return lists->words[list];
}

static inline const uint32_t *lat_list_rules(const struct lat_lists *lists, uint32_t list)
{
	return lists->words + list + 1;
}

static inline const uint16_t *lat_list_keys(const struct lat_lists *lists, uint32_t list)
{
	return (const uint16_t *)(lists->words + list + 1 + lists->words[list]);
}

/* The lowest rule for the key, 0: none. */
static inline uint32_t lat_list_find(const struct lat_lists *lists, uint32_t list, uint16_t key)
{
	const uint16_t *keys = lat_list_keys(lists, list);
	uint32_t base = 0, n = lat_list_count(lists, list);

	while (n > 1) {
		uint32_t half = n / 2;

		base += keys[base + half] <= key ? half : 0;
		n -= half;
	}
	return lat_list_rules(lists, list)[base];
}

/* Intervals [starts[i], starts[i + 1]) with their owners; starts[0] is 0. */
struct lat_index {
	lat_key *starts;
	uint32_t *owners;
	size_t count, cap;
	struct lat_branch *branches;
	size_t branch_count, branch_cap;
	uint32_t *slots;
	size_t slot_count, slot_cap;
};

/* The index with one interval: everything belongs to owner 0. */
int lat_index_init(struct lat_index *index);
void lat_index_fini(struct lat_index *index);
/* From `start` on (not below any start before) addresses belong to owner. 0 or -ENOMEM. */
int lat_index_append(struct lat_index *index, lat_key start, uint32_t owner);
/* Builds the trie over the intervals; no append after it. 0, -ENOMEM or -E2BIG. */
int lat_index_seal(struct lat_index *index);
uint32_t lat_index_find(const struct lat_index *index, lat_key key);
size_t lat_index_bytes(const struct lat_index *index);

/* ---- the whole ---- */

#define LAT_TREES 4         /* direction x family: direction * 2 + (1 for IPv6) */
#define LAT_NO_RULE UINT32_MAX /* as a bound: above every rule */

enum { LAT_LIST_TCP, LAT_LIST_UDP, LAT_LIST_OTHER, LAT_LIST_COUNT };

struct lat_node {
	uint32_t lists[LAT_LIST_COUNT];
	uint32_t parent; /* 0: none; node 0 matches nothing */
	uint32_t least;  /* lowest rule in the lists, LAT_NO_RULE: none */
	uint32_t above;  /* lowest rule in all linked parents */
};

/* One distinct prefix and its node, where that is not the node of the prefix around it. */
struct lat_node_prefix {
	lat_key start;
	uint32_t node;
	uint8_t len, tree;
};

struct lat_tables {
	struct lat_lists lists;
	struct lat_node *nodes;
	size_t node_count, node_cap;
	struct lat_index trees[LAT_TREES];
	bool keep_prefixes;
	struct lat_node_prefix *prefixes; /* only of lat_tables_build_for_maps */
	size_t prefix_count, prefix_cap;
};

/* Grows *array (elements of `size` bytes) so that it holds `need`, at least doubling. 0 or -ENOMEM. */
int lat_grow(void **array, size_t *cap, size_t need, size_t size);
/* Shrinks *array to `count` elements; when that fails it stays as it is. */
void lat_fit(void **array, size_t *cap, size_t count, size_t size);

#endif
