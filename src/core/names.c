/* Name rules: patterns by hash. "host.example" is looked up as the name itself, "*.host.example" as each of the name's
 * parents, so a look-up costs one probe for each label. Rules with the same pattern hang in one chain, lowest first. */
#include "core/names.h"
#include "base/mem.h"
#include <string.h>

#define NONE UINT32_MAX

struct rule {
	uint32_t next; /* in the chain of the pattern, NONE: the last */
	uint32_t number;
	uint16_t port_lo, port_hi;
	uint8_t dir, proto, allows, private_ok;
};

/* One distinct pattern. */
struct pattern {
	const char *name; /* without "*." */
	uint32_t first, last;
	uint32_t wild;
};

struct lat_names {
	struct rule *rules;
	size_t rule_count;
	struct pattern *slots; /* open addressing; name NULL: free */
	size_t slot_count;     /* a power of two, more than twice the patterns */
	char *text;
};

static uint64_t hash_name(const char *name, size_t len, bool wild)
{
	uint64_t h = wild ? 0x9e3779b97f4a7c15ull : 0xcbf29ce484222325ull;

	for (size_t i = 0; i < len; i++)
		h = (h ^ (uint8_t)name[i]) * 0x100000001b3ull;
	return h ^ h >> 29;
}

/* The slot of the pattern, or the free one where it belongs. */
static struct pattern *slot_of(const struct lat_names *names, const char *name, bool wild)
{
	size_t len = strlen(name), at = hash_name(name, len, wild) & (names->slot_count - 1);

	for (;; at = (at + 1) & (names->slot_count - 1)) {
		struct pattern *p = &names->slots[at];

		if (!p->name || (p->wild == wild && strcmp(p->name, name) == 0))
			return p;
	}
}

static bool is_wild(const char *pattern)
{
	return pattern[0] == '*' && pattern[1] == '.';
}

static bool entry_valid(const struct lat_name_entry *e)
{
	char name[LAT_NAME_MAX];
	const char *plain = is_wild(e->pattern) ? e->pattern + 2 : e->pattern;

	if (e->rule == 0 || e->port_lo > e->port_hi || e->dir >= LAT_DIR_COUNT)
		return false;
	return lat_name_normalize(plain, strlen(plain), name) == 0 && strcmp(name, plain) == 0;
}

static int by_number(const void *a, const void *b)
{
	const struct lat_name_entry *x = *(const struct lat_name_entry *const *)a;
	const struct lat_name_entry *y = *(const struct lat_name_entry *const *)b;

	return (x->rule > y->rule) - (x->rule < y->rule);
}

static void add_rule(struct lat_names *names, const struct lat_name_entry *e, char **text)
{
	bool wild = is_wild(e->pattern);
	const char *name = e->pattern + (wild ? 2 : 0);
	size_t size = strlen(name) + 1;
	uint32_t number = (uint32_t)names->rule_count++;
	struct pattern *p = slot_of(names, name, wild);

	names->rules[number] = (struct rule){ .next = NONE, .number = e->rule, .port_lo = e->port_lo,
		.port_hi = e->port_hi, .dir = e->dir, .proto = e->proto, .allows = e->allows,
		.private_ok = e->private_ok };
	if (p->name) {
		names->rules[p->last].next = number;
		p->last = number;
		return;
	}
	p->name = memcpy(*text, name, size);
	*text += size;
	p->first = p->last = number;
	p->wild = wild;
}

int lat_names_build(const struct lat_name_entry *entries, size_t count, struct lat_names **out)
{
	lat_autofree const struct lat_name_entry **sorted = malloc((count + 1) * sizeof(*sorted));
	struct lat_names *names;
	size_t bytes = 1;
	char *text;

	if (!sorted)
		return -ENOMEM;
	if (count >= NONE / 4)
		return -E2BIG;
	for (size_t i = 0; i < count; i++) {
		if (!entry_valid(&entries[i]))
			return -EINVAL;
		sorted[i] = &entries[i];
		bytes += strlen(entries[i].pattern) + 1;
	}
	if (count)
		qsort(sorted, count, sizeof(*sorted), by_number);
	names = calloc(1, sizeof(*names));
	if (!names)
		return -ENOMEM;
	for (names->slot_count = 8; names->slot_count <= 2 * count;)
		names->slot_count *= 2;
	names->rules = calloc(count + 1, sizeof(*names->rules));
	names->slots = calloc(names->slot_count, sizeof(*names->slots));
	names->text = text = malloc(bytes);
	if (!names->rules || !names->slots || !names->text) {
		lat_names_free(names);
		return -ENOMEM;
	}
	for (size_t i = 0; i < count; i++)
		add_rule(names, sorted[i], &text);
	*out = names;
	return 0;
}

void lat_names_free(struct lat_names *names)
{
	if (!names)
		return;
	free(names->rules);
	free(names->slots);
	free(names->text);
	free(names);
}

uint32_t lat_names_least(const struct lat_names *names)
{
	return names->rule_count ? names->rules[0].number : UINT32_MAX; /* they are in order */
}

/* Calls `each` for every rule whose pattern matches the name, until it returns false. */
static void each_rule(const struct lat_names *names, const char *name,
	bool (*each)(const struct rule *rule, void *arg), void *arg)
{
	bool wild = false;

	for (const char *part = name; part; wild = true) {
		const struct pattern *p = slot_of(names, part, wild);

		for (uint32_t i = p->name ? p->first : NONE; i != NONE; i = names->rules[i].next)
			if (!each(&names->rules[i], arg))
				return;
		part = strchr(part, '.');
		part = part ? part + 1 : NULL;
	}
}

struct resolvable {
	const struct lat_names *names;
	const char *name;
	const struct rule *rule; /* the one in question */
	bool covered, any, private_ok;
};

/* Does a rule that does not allow come first and take every flow that the rule in question could? */
static bool look_for_cover(const struct rule *rule, void *arg)
{
	struct resolvable *q = arg;

	q->covered = !rule->allows && rule->number < q->rule->number && rule->dir == q->rule->dir &&
		(rule->proto == LAT_PROTO_ANY || rule->proto == q->rule->proto) &&
		rule->port_lo <= q->rule->port_lo && rule->port_hi >= q->rule->port_hi;
	return !q->covered;
}

static bool look_for_allow(const struct rule *rule, void *arg)
{
	struct resolvable *q = arg;

	if (!rule->allows)
		return true;
	q->rule = rule;
	q->covered = false;
	each_rule(q->names, q->name, look_for_cover, q);
	if (!q->covered) {
		q->any = true;
		q->private_ok |= rule->private_ok != 0;
	}
	return !q->private_ok;
}

bool lat_names_resolvable(const struct lat_names *names, const char *name, bool *private_ok)
{
	struct resolvable q = { .names = names, .name = name };

	each_rule(names, name, look_for_allow, &q);
	if (q.any && private_ok)
		*private_ok = q.private_ok;
	return q.any;
}

struct lookup {
	const struct lat_names *names;
	const struct lat_flow *flow;
	bool is_private;
	uint32_t best; /* 0: none */
};

static bool look_for_match(const struct rule *rule, void *arg)
{
	struct lookup *q = arg;
	const struct lat_flow *f = q->flow;
	bool any_port = rule->port_lo == 0 && rule->port_hi == UINT16_MAX;
	bool has_ports = f->proto == IPPROTO_TCP || f->proto == IPPROTO_UDP;

	if (q->best && rule->number >= q->best)
		return true;
	if (rule->dir != f->dir || (rule->proto != LAT_PROTO_ANY && rule->proto != f->proto))
		return true;
	if (!any_port && (!has_ports || f->dport < rule->port_lo || f->dport > rule->port_hi))
		return true;
	if (q->is_private && rule->allows && !rule->private_ok)
		return true;
	q->best = rule->number;
	return true;
}

static bool match_name(const char *name, void *arg)
{
	struct lookup *q = arg;

	each_rule(q->names, name, look_for_match, q);
	return true;
}

uint32_t lat_names_lookup(const struct lat_names *names, struct lat_pins *pins, const struct lat_flow *flow, uint64_t now_ns)
{
	struct lookup q = { .names = names, .flow = flow };

	if (!names->rule_count)
		return 0;
	q.is_private = lat_addr_is_private(&flow->remote);
	lat_pins_each(pins, &flow->remote, now_ns, match_name, &q);
	return q.best;
}

bool lat_name_matches(const char *pattern, const char *name)
{
	size_t tail, len = strlen(name);

	if (!is_wild(pattern))
		return strcmp(pattern, name) == 0;
	tail = strlen(pattern) - 1; /* with the dot */
	return len > tail && strcmp(name + len - tail, pattern + 1) == 0;
}

/* A last label that is a number ("127.1", "0x7f000001") makes resolvers read the whole as an address. */
static bool looks_numeric(const char *label)
{
	const char *digits = "0123456789";

	if (label[0] == '0' && label[1] == 'x') {
		label += 2;
		digits = "0123456789abcdef";
	}
	return label[strspn(label, digits)] == '\0';
}

int lat_name_normalize(const char *text, size_t len, char *out)
{
	char name[LAT_NAME_MAX];
	size_t label = 0; /* where the current one began */

	if (len && text[len - 1] == '.')
		len--;
	if (!len || len >= LAT_NAME_MAX)
		return -EINVAL;
	for (size_t i = 0; i <= len; i++) {
		char c = i < len ? text[i] : '\0';

		if (c == '.' || i == len) {
			if (i == label || i - label > 63)
				return -EINVAL;
			name[i] = c;
			label = i < len ? i + 1 : label;
			continue;
		}
		if (c >= 'A' && c <= 'Z')
			c = (char)(c - 'A' + 'a');
		if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_'))
			return -EINVAL;
		name[i] = c;
	}
	if (looks_numeric(name + label))
		return -EINVAL;
	memcpy(out, name, len + 1);
	return 0;
}
