/* Port lists: spans of keys with rule numbers become disjoint segments, each with its lowest rule; see tables_parts.h. */
#include "core/tables_parts.h"
#include "base/mem.h"
#include <string.h>

#define NO_LIST UINT32_MAX

int lat_grow(void **array, size_t *cap, size_t need, size_t size)
{
	size_t want = *cap ? *cap : 64;
	void *bigger;

	if (need <= *cap)
		return 0;
	while (want < need)
		want *= 2;
	bigger = realloc(*array, want * size);
	if (!bigger)
		return -ENOMEM;
	*array = bigger;
	*cap = want;
	return 0;
}

void lat_fit(void **array, size_t *cap, size_t count, size_t size)
{
	void *fitting = count ? realloc(*array, count * size) : NULL;

	if (fitting) {
		*array = fitting;
		*cap = count;
	}
}

static uint64_t hash_words(const uint32_t *words, size_t n)
{
	uint64_t h = 0xcbf29ce484222325ull;

	for (size_t i = 0; i < n; i++) {
		h = (h ^ words[i]) * 0x9e3779b97f4a7c15ull;
		h ^= h >> 32;
	}
	return h;
}

static size_t list_words(uint32_t count)
{
	return 1 + count + (count + 1) / 2;
}

static int seen_grow(struct lat_lists *lists)
{
	size_t cap = lists->seen_cap ? lists->seen_cap * 2 : 256;
	uint32_t *bigger = malloc(cap * sizeof(*bigger));

	if (!bigger)
		return -ENOMEM;
	memset(bigger, 0xff, cap * sizeof(*bigger));
	for (size_t i = 0; i < lists->seen_cap; i++) {
		uint32_t list = lists->seen[i];
		size_t at;

		if (list == NO_LIST)
			continue;
		at = hash_words(lists->words + list, list_words(lists->words[list])) & (cap - 1);
		while (bigger[at] != NO_LIST)
			at = (at + 1) & (cap - 1);
		bigger[at] = list;
	}
	free(lists->seen);
	lists->seen = bigger;
	lists->seen_cap = cap;
	return 0;
}

/* The list was written behind the used words: keep it there, or name the equal one that exists. */
static int intern(struct lat_lists *lists, uint32_t count, uint32_t *out)
{
	uint32_t *fresh = lists->words + lists->used;
	size_t n = list_words(count), at;
	int r;

	if (lists->used + n >= NO_LIST)
		return -E2BIG;
	if (lists->seen_used * 2 >= lists->seen_cap && (r = seen_grow(lists)) < 0)
		return r;
	at = hash_words(fresh, n) & (lists->seen_cap - 1);
	for (; lists->seen[at] != NO_LIST; at = (at + 1) & (lists->seen_cap - 1)) {
		const uint32_t *old = lists->words + lists->seen[at];

		if (old[0] == count && memcmp(old, fresh, n * sizeof(*fresh)) == 0) {
			*out = lists->seen[at];
			return 0;
		}
	}
	*out = lists->seen[at] = (uint32_t)lists->used;
	lists->seen_used++;
	lists->used += n;
	return 0;
}

int lat_lists_init(struct lat_lists *lists)
{
	uint32_t none;

	memset(lists, 0, sizeof(*lists));
	return lat_lists_add(lists, NULL, 0, &none); /* becomes offset 0 */
}

void lat_lists_seal(struct lat_lists *lists)
{
	free(lists->seen);
	free(lists->scratch);
	lists->seen = lists->scratch = NULL;
	lists->seen_cap = lists->seen_used = lists->scratch_cap = 0;
	lat_fit((void **)&lists->words, &lists->cap, lists->used, sizeof(*lists->words));
}

void lat_lists_fini(struct lat_lists *lists)
{
	free(lists->words);
	free(lists->seen);
	free(lists->scratch);
	memset(lists, 0, sizeof(*lists));
}

static int by_rule(const void *a, const void *b)
{
	const struct lat_span *x = a, *y = b;

	return (x->rule > y->rule) - (x->rule < y->rule);
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/* Where `key` stands among the sorted cuts (it is one of them, or behind the last). */
static uint32_t cut_at(const uint32_t *cuts, uint32_t count, uint32_t key)
{
	uint32_t lo = 0, hi = count;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (cuts[mid] < key)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* The first segment at or behind i that has no rule yet. */
static uint32_t unpainted(uint32_t *next, uint32_t i)
{
	while (next[i] != i) {
		next[i] = next[next[i]];
		i = next[i];
	}
	return i;
}

/* The keys where something begins or ends, sorted, each once, 0 first. */
static uint32_t make_cuts(const struct lat_span *spans, size_t count, uint32_t *cuts)
{
	uint32_t n = 0, m = 1;

	cuts[n++] = 0;
	for (size_t i = 0; i < count; i++) {
		cuts[n++] = spans[i].lo;
		if (spans[i].hi < UINT16_MAX)
			cuts[n++] = spans[i].hi + 1u;
	}
	qsort(cuts, n, sizeof(*cuts), by_value);
	for (uint32_t i = 1; i < n; i++)
		if (cuts[i] != cuts[m - 1])
			cuts[m++] = cuts[i];
	return m;
}

/* Lower rules paint first; what is painted stays. */
static void paint(const struct lat_span *spans, size_t count, const uint32_t *cuts, uint32_t m,
	uint32_t *rules, uint32_t *next)
{
	memset(rules, 0, m * sizeof(*rules));
	for (uint32_t i = 0; i <= m; i++)
		next[i] = i;
	for (size_t s = 0; s < count; s++) {
		uint32_t end = cut_at(cuts, m, spans[s].hi + 1u);

		for (uint32_t i = unpainted(next, cut_at(cuts, m, spans[s].lo)); i < end; i = unpainted(next, i)) {
			rules[i] = spans[s].rule;
			next[i] = i + 1;
		}
	}
}

int lat_lists_add(struct lat_lists *lists, struct lat_span *spans, size_t count, uint32_t *out)
{
	size_t most = 2 * count + 1;
	uint32_t *cuts, *rules, *next, *list, m, kept = 1;
	uint16_t *keys;
	int r;

	if (count > UINT32_MAX / 8)
		return -E2BIG;
	r = lat_grow((void **)&lists->scratch, &lists->scratch_cap, 3 * most + 1, sizeof(uint32_t));
	if (r < 0)
		return r;
	r = lat_grow((void **)&lists->words, &lists->cap, lists->used + list_words((uint32_t)most), sizeof(uint32_t));
	if (r < 0)
		return r;
	cuts = lists->scratch;
	rules = cuts + most;
	next = rules + most;
	if (count > 1)
		qsort(spans, count, sizeof(*spans), by_rule);
	m = make_cuts(spans, count, cuts);
	paint(spans, count, cuts, m, rules, next);
	for (uint32_t i = 1; i < m; i++) { /* neighbours with one rule are one segment */
		if (rules[i] == rules[kept - 1])
			continue;
		rules[kept] = rules[i];
		cuts[kept++] = cuts[i];
	}
	list = lists->words + lists->used;
	list[0] = kept;
	memcpy(list + 1, rules, kept * sizeof(*rules));
	list[kept + kept / 2 + kept % 2] = 0; /* the half word behind an odd number of keys */
	keys = (uint16_t *)(list + 1 + kept);
	for (uint32_t i = 0; i < kept; i++)
		keys[i] = (uint16_t)cuts[i];
	return intern(lists, kept, out);
}
