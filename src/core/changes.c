/* See changes.h: each different rule has a cell that counts it in both policies; what one has more of than the other is a
 * change, the first ones in order being taken as those that stay. */
#include "core/changes.h"
#include "base/mem.h"
#include <string.h>

struct cell {
	const struct lat_rule *rule; /* NULL: free */
	uint64_t hash;
	uint32_t old_count, next_count;
};

struct cells {
	struct cell *all;
	size_t mask;
};

static uint64_t mix(uint64_t h, uint64_t word)
{
	h = (h ^ word) * 0x9e3779b97f4a7c15ull;
	return h ^ h >> 32;
}

static uint64_t hash_of(const struct lat_rule *r)
{
	uint64_t h = mix(r->action | (uint64_t)r->log << 8, (uint64_t)r->rate << 32 | r->ttl_s), word;
	const char *p = r->text ? r->text : "";
	size_t n = strlen(p);

	for (; n >= 8; p += 8, n -= 8) {
		memcpy(&word, p, 8);
		h = mix(h, word);
	}
	word = n;
	memcpy((char *)&word + 1, p, n);
	return mix(h, word);
}

static bool same(const struct lat_rule *a, const struct lat_rule *b)
{
	return a->action == b->action && a->log == b->log && a->rate == b->rate && a->ttl_s == b->ttl_s &&
		strcmp(a->text ? a->text : "", b->text ? b->text : "") == 0;
}

static struct cell *cell_of(struct cells *c, const struct lat_rule *rule)
{
	uint64_t hash = hash_of(rule);
	size_t at = hash & c->mask;

	while (c->all[at].rule && !(c->all[at].hash == hash && same(c->all[at].rule, rule)))
		at = (at + 1) & c->mask;
	c->all[at].rule = rule;
	c->all[at].hash = hash;
	return &c->all[at];
}

ssize_t lat_changes(const struct lat_policy *old, const struct lat_policy *next, struct lat_change *out)
{
	size_t before = old ? old->spec.rule_count : 0, after = next->spec.rule_count, size = 16;
	lat_autofree struct cell *all = NULL;
	struct cells c;
	ssize_t n = 0;

	while (size < 2 * (before + after))
		size *= 2;
	all = calloc(size, sizeof(*all));
	if (!all)
		return -ENOMEM;
	c = (struct cells){ all, size - 1 };
	for (size_t i = 0; i < before; i++)
		cell_of(&c, &old->spec.rules[i])->old_count++;
	for (size_t i = 0; i < after; i++)
		cell_of(&c, &next->spec.rules[i])->next_count++;
	for (size_t i = 0; i < size; i++) { /* from here on: how many are left of those that stay */
		uint32_t stay = all[i].old_count < all[i].next_count ? all[i].old_count : all[i].next_count;

		all[i].old_count = all[i].next_count = stay;
	}
	for (size_t i = 0; i < before; i++) {
		struct cell *cell = cell_of(&c, &old->spec.rules[i]);

		if (cell->old_count)
			cell->old_count--;
		else
			out[n++] = (struct lat_change){ &old->spec.rules[i], false };
	}
	for (size_t i = 0; i < after; i++) {
		struct cell *cell = cell_of(&c, &next->spec.rules[i]);

		if (cell->next_count)
			cell->next_count--;
		else
			out[n++] = (struct lat_change){ &next->spec.rules[i], true };
	}
	return n;
}
