/* Decision tables: entries become nodes (one for each distinct prefix), nodes own address intervals.
 *
 * A node must answer for itself and for every shorter prefix around it. While the parent is small its lists are merged
 * into the child's, so that one look is enough; a big parent (hundreds of ports) is linked instead, and the look-up
 * walks up, at most once for each prefix around the address, and stops early when nothing above can be lower.
 * Nodes and lists with the same content exist once, so a thousand prefixes with the same answer cost one node. */
#include "core/tables.h"
#include "core/tables_parts.h"
#include "base/mem.h"
#include <string.h>

#define SMALL_PARENT 24u   /* segments of a parent that are merged into its children */
#define MOST_NEST 130      /* prefix lengths 0..128 of one family, and the root */

/* What only building needs. */
struct build {
	struct lat_tables *t;
	uint32_t *seen; /* open addressing over nodes, 0: free */
	size_t seen_cap, seen_used;
	struct lat_span *spans[LAT_LIST_COUNT];
	size_t span_count[LAT_LIST_COUNT], span_cap[LAT_LIST_COUNT];
};

struct item {
	lat_key start;
	const struct lat_entry *entry;
	uint8_t len;
};

struct open_prefix {
	lat_key last;
	uint32_t node;
};

static unsigned tree_of(unsigned dir, bool is4)
{
	return dir * 2 + (is4 ? 0 : 1);
}

static lat_key key_of(const struct lat_addr *addr, bool is4)
{
	uint64_t hi, lo;
	uint32_t v4;

	if (is4) {
		memcpy(&v4, addr->b + 12, 4);
		return (lat_key)__builtin_bswap32(v4) << 96;
	}
	memcpy(&hi, addr->b, 8);
	memcpy(&lo, addr->b + 8, 8);
	return (lat_key)__builtin_bswap64(hi) << 64 | __builtin_bswap64(lo);
}

static lat_key host_mask(unsigned len)
{
	return len >= 128 ? 0 : ~(lat_key)0 >> len;
}

static bool entry_valid(const struct lat_entry *e)
{
	if (e->port_lo > e->port_hi || e->rule == 0 || e->rule == LAT_NO_RULE || e->dir >= LAT_DIR_COUNT)
		return false;
	if (e->prefix.family == 4)
		return e->prefix.len <= 32 && lat_addr_is4(&e->prefix.addr);
	return e->prefix.family == 6 && e->prefix.len <= 128;
}

static int by_prefix(const void *a, const void *b)
{
	const struct item *x = a, *y = b;

	if (x->start != y->start)
		return x->start < y->start ? -1 : 1;
	return (x->len > y->len) - (x->len < y->len);
}

static int add_span(struct build *b, int list, uint16_t lo, uint16_t hi, uint32_t rule)
{
	int r = lat_grow((void **)&b->spans[list], &b->span_cap[list], b->span_count[list] + 1, sizeof(**b->spans));

	if (r < 0)
		return r;
	b->spans[list][b->span_count[list]++] = (struct lat_span){ lo, hi, rule };
	return 0;
}

/* The spans of one entry. Ports narrow an entry to the protocols that have ports, so with any other it never matches. */
static int add_entry(struct build *b, const struct lat_entry *e)
{
	bool any_port = e->port_lo == 0 && e->port_hi == UINT16_MAX, any = e->proto == LAT_PROTO_ANY;
	int r = 0;

	if (any || e->proto == IPPROTO_TCP)
		r = add_span(b, LAT_LIST_TCP, e->port_lo, e->port_hi, e->rule);
	if (r == 0 && (any || e->proto == IPPROTO_UDP))
		r = add_span(b, LAT_LIST_UDP, e->port_lo, e->port_hi, e->rule);
	if (r == 0 && any_port && e->proto != IPPROTO_TCP && e->proto != IPPROTO_UDP)
		r = add_span(b, LAT_LIST_OTHER, any ? 0 : e->proto, any ? UINT8_MAX : e->proto, e->rule);
	return r;
}

static uint32_t node_segments(const struct lat_tables *t, const struct lat_node *n)
{
	uint32_t sum = 0;

	for (int i = 0; i < LAT_LIST_COUNT; i++)
		sum += lat_list_count(&t->lists, n->lists[i]);
	return sum;
}

/* A small parent's segments become spans of the child. */
static int add_parent(struct build *b, const struct lat_node *parent)
{
	for (int i = 0; i < LAT_LIST_COUNT; i++) {
		uint32_t list = parent->lists[i], n = lat_list_count(&b->t->lists, list);

		for (uint32_t s = 0; s < n; s++) {
			const uint16_t *keys = lat_list_keys(&b->t->lists, list);
			uint16_t hi = s + 1 < n ? (uint16_t)(keys[s + 1] - 1) : UINT16_MAX;
			uint32_t rule = lat_list_rules(&b->t->lists, list)[s];
			int r = rule ? add_span(b, i, keys[s], hi, rule) : 0;

			if (r < 0)
				return r;
		}
	}
	return 0;
}

static uint32_t lowest(const struct lat_lists *lists, uint32_t list)
{
	const uint32_t *rules = lat_list_rules(lists, list);
	uint32_t best = LAT_NO_RULE;

	for (uint32_t i = 0; i < lat_list_count(lists, list); i++)
		if (rules[i] && rules[i] < best)
			best = rules[i];
	return best;
}

static size_t node_hash(const struct lat_node *n)
{
	uint64_t h = n->parent;

	for (int i = 0; i < LAT_LIST_COUNT; i++) {
		h = (h ^ n->lists[i]) * 0x9e3779b97f4a7c15ull;
		h ^= h >> 29;
	}
	return (size_t)h;
}

static int seen_grow(struct build *b)
{
	size_t cap = b->seen_cap ? b->seen_cap * 2 : 256;
	uint32_t *bigger = calloc(cap, sizeof(*bigger));

	if (!bigger)
		return -ENOMEM;
	for (size_t i = 0; i < b->seen_cap; i++) {
		size_t at;

		if (!b->seen[i])
			continue;
		at = node_hash(&b->t->nodes[b->seen[i]]) & (cap - 1);
		while (bigger[at])
			at = (at + 1) & (cap - 1);
		bigger[at] = b->seen[i];
	}
	free(b->seen);
	b->seen = bigger;
	b->seen_cap = cap;
	return 0;
}

/* The number of this node: an equal one that exists, or a new one. */
static int intern(struct build *b, const struct lat_node *n, uint32_t *out)
{
	struct lat_tables *t = b->t;
	size_t at;
	int r;

	if (b->seen_used * 2 >= b->seen_cap && (r = seen_grow(b)) < 0)
		return r;
	at = node_hash(n) & (b->seen_cap - 1);
	for (; b->seen[at]; at = (at + 1) & (b->seen_cap - 1)) {
		if (memcmp(&t->nodes[b->seen[at]], n, sizeof(*n)) == 0) {
			*out = b->seen[at];
			return 0;
		}
	}
	if (t->node_count >= UINT32_MAX)
		return -E2BIG;
	r = lat_grow((void **)&t->nodes, &t->node_cap, t->node_count + 1, sizeof(*t->nodes));
	if (r < 0)
		return r;
	t->nodes[t->node_count] = *n;
	*out = b->seen[at] = (uint32_t)t->node_count++;
	b->seen_used++;
	return 0;
}

/* The node of one prefix, whose entries are the items, inside the node `parent`. */
static int make_node(struct build *b, const struct item *items, size_t count, uint32_t parent, uint32_t *out)
{
	const struct lat_node *p = &b->t->nodes[parent];
	struct lat_node n = { .parent = parent, .least = LAT_NO_RULE, .above = LAT_NO_RULE };
	int r = 0;

	memset(b->span_count, 0, sizeof(b->span_count));
	for (size_t i = 0; r == 0 && i < count; i++)
		r = add_entry(b, items[i].entry);
	if (r == 0 && node_segments(b->t, p) <= SMALL_PARENT) {
		r = add_parent(b, p);
		n.parent = p->parent;
		n.above = p->above;
	} else {
		n.above = p->least < p->above ? p->least : p->above;
	}
	for (int i = 0; r == 0 && i < LAT_LIST_COUNT; i++) {
		uint32_t low;

		r = lat_lists_add(&b->t->lists, b->spans[i], b->span_count[i], &n.lists[i]);
		if (r < 0)
			break;
		low = lowest(&b->t->lists, n.lists[i]);
		if (low < n.least)
			n.least = low;
	}
	return r < 0 ? r : intern(b, &n, out);
}

static int keep_prefix(struct lat_tables *t, const struct item *it, unsigned tree, uint32_t node)
{
	int r = lat_grow((void **)&t->prefixes, &t->prefix_cap, t->prefix_count + 1, sizeof(*t->prefixes));

	if (r < 0)
		return r;
	t->prefixes[t->prefix_count++] =
		(struct lat_node_prefix){ .start = it->start, .node = node, .len = it->len, .tree = (uint8_t)tree };
	return 0;
}

/* Prefixes in order of their start, shorter first: each lies inside the ones that are open, or behind them. */
static int build_tree(struct build *b, struct item *items, size_t count, unsigned tree)
{
	struct lat_index *index = &b->t->trees[tree];
	struct open_prefix open[MOST_NEST];
	int depth = 0, r = 0;

	qsort(items, count, sizeof(*items), by_prefix);
	open[0] = (struct open_prefix){ .last = ~(lat_key)0, .node = 0 };
	for (size_t i = 0, next; i < count; i = next) {
		const struct item *it = &items[i];

		for (next = i + 1; next < count && by_prefix(it, &items[next]) == 0;)
			next++;
		for (; open[depth].last < it->start; depth--)
			if ((r = lat_index_append(index, open[depth].last + 1, open[depth - 1].node)) < 0)
				return r;
		r = make_node(b, it, next - i, open[depth].node, &open[depth + 1].node);
		if (r < 0)
			return r;
		if (b->t->keep_prefixes && open[depth + 1].node != open[depth].node &&
			(r = keep_prefix(b->t, it, tree, open[depth + 1].node)) < 0)
			return r;
		open[++depth].last = it->start | host_mask(it->len);
		if ((r = lat_index_append(index, it->start, open[depth].node)) < 0)
			return r;
	}
	for (; depth > 0; depth--)
		if (open[depth].last != ~(lat_key)0 &&
			(r = lat_index_append(index, open[depth].last + 1, open[depth - 1].node)) < 0)
			return r;
	return lat_index_seal(index);
}

static int build_trees(struct build *b, const struct lat_entry *entries, size_t count)
{
	lat_autofree struct item *items = malloc((count ? count : 1) * sizeof(*items));

	if (!items)
		return -ENOMEM;
	for (unsigned tree = 0; tree < LAT_TREES; tree++) {
		size_t n = 0;
		int r;

		for (size_t i = 0; i < count; i++) {
			const struct lat_entry *e = &entries[i];
			bool is4 = e->prefix.family == 4;

			if (tree_of(e->dir, is4) != tree)
				continue;
			items[n].entry = e;
			items[n].len = e->prefix.len;
			items[n++].start = key_of(&e->prefix.addr, is4) & ~host_mask(e->prefix.len);
		}
		r = build_tree(b, items, n, tree);
		if (r < 0)
			return r;
	}
	return 0;
}

static int init(struct lat_tables *t)
{
	static const struct lat_node nothing = { .least = LAT_NO_RULE, .above = LAT_NO_RULE };
	int r = lat_lists_init(&t->lists);

	for (int i = 0; r == 0 && i < LAT_TREES; i++)
		r = lat_index_init(&t->trees[i]);
	if (r == 0)
		r = lat_grow((void **)&t->nodes, &t->node_cap, 1, sizeof(*t->nodes));
	if (r == 0)
		t->nodes[t->node_count++] = nothing;
	return r;
}

static int build_all(const struct lat_entry *entries, size_t count, bool keep_prefixes, struct lat_tables **out)
{
	struct build b = { .t = NULL };
	int r;

	for (size_t i = 0; i < count; i++)
		if (!entry_valid(&entries[i]))
			return -EINVAL;
	b.t = calloc(1, sizeof(*b.t));
	if (!b.t)
		return -ENOMEM;
	b.t->keep_prefixes = keep_prefixes;
	r = init(b.t);
	if (r == 0)
		r = build_trees(&b, entries, count);
	if (r == 0) {
		lat_lists_seal(&b.t->lists);
		lat_fit((void **)&b.t->nodes, &b.t->node_cap, b.t->node_count, sizeof(*b.t->nodes));
		*out = b.t;
	} else {
		lat_tables_free(b.t);
	}
	for (int i = 0; i < LAT_LIST_COUNT; i++)
		free(b.spans[i]);
	free(b.seen);
	return r;
}

int lat_tables_build(const struct lat_entry *entries, size_t count, struct lat_tables **out)
{
	return build_all(entries, count, false, out);
}

int lat_tables_build_for_maps(const struct lat_entry *entries, size_t count, struct lat_tables **out)
{
	return build_all(entries, count, true, out);
}

void lat_tables_free(struct lat_tables *t)
{
	if (!t)
		return;
	for (int i = 0; i < LAT_TREES; i++)
		lat_index_fini(&t->trees[i]);
	lat_lists_fini(&t->lists);
	free(t->nodes);
	free(t->prefixes);
	free(t);
}

uint32_t lat_tables_lookup(const struct lat_tables *t, const struct lat_flow *flow)
{
	bool is4 = lat_addr_is4(&flow->remote);
	int list = flow->proto == IPPROTO_TCP ? LAT_LIST_TCP : flow->proto == IPPROTO_UDP ? LAT_LIST_UDP : LAT_LIST_OTHER;
	uint16_t key = list == LAT_LIST_OTHER ? flow->proto : flow->dport;
	uint32_t best = LAT_NO_RULE;
	const struct lat_node *n;

	if (flow->dir >= LAT_DIR_COUNT)
		return 0;
	n = &t->nodes[lat_index_find(&t->trees[tree_of(flow->dir, is4)], key_of(&flow->remote, is4))];
	for (;;) {
		uint32_t rule = lat_list_find(&t->lists, n->lists[list], key);

		if (rule && rule < best)
			best = rule;
		if (!n->parent || best < n->above)
			break;
		n = &t->nodes[n->parent];
	}
	return best == LAT_NO_RULE ? 0 : best;
}

size_t lat_tables_bytes(const struct lat_tables *t)
{
	size_t sum = sizeof(*t) + t->lists.cap * sizeof(*t->lists.words) + t->node_cap * sizeof(*t->nodes);

	for (int i = 0; i < LAT_TREES; i++)
		sum += lat_index_bytes(&t->trees[i]);
	return sum;
}
