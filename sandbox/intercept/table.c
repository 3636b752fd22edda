/* See table.h. The walk is that of lat_tables_lookup (core/tables.c), with every index checked. */
#include "intercept/table.h"
#include <errno.h>

/* enum lat_action of core/flow.h, which this layer may not see; preload_image.c has the assertions. */
enum { ACTION_DENY, ACTION_ALLOW, ACTION_DROP, ACTION_ASK, ACTION_AUDIT };
enum { DIR_OUT, DIR_IN, DIR_COUNT };

static bool part_valid(const struct lat_shim_image *im, uint32_t at, uint32_t count, uint32_t each, uint32_t align)
{
	return at >= sizeof(*im) && at <= im->size && at % align == 0 && (uint64_t)count * each <= im->size - at;
}

bool lat_shim_valid(const void *at, size_t size)
{
	const struct lat_shim_image *im = at;

	if (size < sizeof(*im) || im->magic != LAT_SHIM_MAGIC || im->abi != LAT_SHIM_ABI || im->size > size ||
		im->size < sizeof(*im) || im->rule_count == UINT32_MAX || im->node_count == 0)
		return false;
	if (!part_valid(im, im->rules, im->rule_count + 1, sizeof(struct lat_shim_rule), 4) ||
		!part_valid(im, im->nodes, im->node_count, sizeof(struct lat_shim_node), 4) ||
		!part_valid(im, im->words, im->word_count, 4, 4))
		return false;
	for (int i = 0; i < LAT_SHIM_TREES; i++)
		if (im->trees[i].count == 0 ||
			!part_valid(im, im->trees[i].starts, im->trees[i].count, sizeof(lat_shim_key), 16) ||
			!part_valid(im, im->trees[i].owners, im->trees[i].count, 4, 4))
			return false;
	return true;
}

static const void *part(const struct lat_shim_image *im, uint32_t at)
{
	return (const char *)im + at;
}

static lat_shim_key key_of(const struct lat_addr *a, bool is4)
{
	lat_shim_key key = 0;

	for (int i = is4 ? 12 : 0; i < 16; i++)
		key = key << 8 | a->b[i];
	return is4 ? key << 96 : key;
}

/* The rule of the key in the list at words[list], 0: none. */
static int64_t list_find(const struct lat_shim_image *im, uint32_t list, uint16_t key)
{
	const uint32_t *words = part(im, im->words), *rules;
	const uint16_t *keys;
	uint32_t base = 0, n;

	if (list >= im->word_count)
		return -EBADMSG;
	n = words[list];
	if (n == 0 || (uint64_t)n + (n + 1) / 2 > im->word_count - list - 1)
		return -EBADMSG;
	rules = words + list + 1;
	keys = (const uint16_t *)(rules + n);
	while (n > 1) {
		uint32_t half = n / 2;

		base += keys[base + half] <= key ? half : 0;
		n -= half;
	}
	return rules[base];
}

static uint32_t owner(const struct lat_shim_image *im, unsigned tree, lat_shim_key key)
{
	const lat_shim_key *starts = part(im, im->trees[tree].starts);
	const uint32_t *owners = part(im, im->trees[tree].owners);
	uint32_t base = 0, n = im->trees[tree].count;

	while (n > 1) {
		uint32_t half = n / 2;

		base += starts[base + half] <= key ? half : 0;
		n -= half;
	}
	return owners[base];
}

static int list_of(uint8_t proto)
{
	return proto == IPPROTO_TCP ? LAT_SHIM_TCP : proto == IPPROTO_UDP ? LAT_SHIM_UDP : LAT_SHIM_OTHER;
}

int64_t lat_shim_find(const struct lat_shim_image *im, const struct lat_shim_flow *flow)
{
	const struct lat_shim_node *nodes = part(im, im->nodes);
	int list = list_of(flow->proto);
	uint16_t key = list == LAT_SHIM_OTHER ? flow->proto : flow->port;
	uint32_t best = LAT_SHIM_NO_RULE, at;
	bool four = lat_addr_is4(&flow->remote);

	if (flow->dir >= DIR_COUNT)
		return -EBADMSG;
	at = owner(im, flow->dir * 2u + (four ? 0 : 1), key_of(&flow->remote, four));
	for (int steps = 0; steps < LAT_SHIM_MOST_PARENTS; steps++) {
		int64_t rule;

		if (at >= im->node_count)
			return -EBADMSG;
		rule = list_find(im, nodes[at].lists[list], key);
		if (rule < 0)
			return rule;
		if (rule && rule < best)
			best = (uint32_t)rule;
		if (!nodes[at].parent || best < nodes[at].above)
			return best == LAT_SHIM_NO_RULE ? 0 : best > im->rule_count ? -EBADMSG : (int64_t)best;
		at = nodes[at].parent;
	}
	return -EBADMSG;
}

static void apply(const struct lat_shim_image *im, uint32_t number, struct lat_shim_answer *out)
{
	const struct lat_shim_rule *rule = (const struct lat_shim_rule *)part(im, im->rules) + number;

	*out = (struct lat_shim_answer){ .rule = number, .action = rule->action, .err = rule->err };
	if (rule->ask || rule->action == ACTION_ASK)
		out->what = LAT_SHIM_ASK;
	else if (rule->action == ACTION_ALLOW || rule->action == ACTION_AUDIT)
		out->what = LAT_SHIM_ALLOW;
	else if (rule->action == ACTION_DROP)
		out->what = LAT_SHIM_DROP;
	else
		out->what = LAT_SHIM_DENY;
}

void lat_shim_judge(const struct lat_shim_image *im, const struct lat_shim_flow *flow, struct lat_shim_answer *out)
{
	int64_t rule = lat_shim_find(im, flow);

	*out = (struct lat_shim_answer){ .what = LAT_SHIM_DENY };
	if (rule < 0)
		return;
	apply(im, (uint32_t)rule, out);
	if (im->ask_all || im->least_name < (rule ? (uint32_t)rule : LAT_SHIM_NO_RULE))
		out->what = LAT_SHIM_ASK;
}

static struct lat_addr address_of(lat_shim_key key, bool four)
{
	struct lat_addr a = { { 0 } };

	if (four)
		a.b[10] = a.b[11] = 0xff;
	for (int i = four ? 12 : 0, shift = 120; i < 16; i++, shift -= 8)
		a.b[i] = (uint8_t)(key >> shift);
	return a;
}

/* One address of each interval stands for all of it; so one that lets pass is enough. */
bool lat_shim_may_come_in(const struct lat_shim_image *im, uint8_t proto, uint16_t port, struct lat_shim_answer *out)
{
	*out = (struct lat_shim_answer){ .what = LAT_SHIM_DENY };
	for (unsigned tree = DIR_IN * 2; tree < LAT_SHIM_TREES; tree++) {
		const lat_shim_key *starts = part(im, im->trees[tree].starts);

		for (uint32_t i = 0; i < im->trees[tree].count; i++) {
			struct lat_shim_flow flow = { .proto = proto, .port = port, .dir = DIR_IN,
				.remote = address_of(starts[i], tree == DIR_IN * 2) };
			int64_t rule = lat_shim_find(im, &flow);

			if (rule < 0)
				return false;
			apply(im, (uint32_t)rule, out);
			if (out->what == LAT_SHIM_ALLOW || out->what == LAT_SHIM_ASK) {
				out->what = LAT_SHIM_ALLOW;
				return true;
			}
		}
	}
	apply(im, 0, out);
	out->what = LAT_SHIM_DENY;
	return false;
}

bool lat_shim_own(const struct lat_shim_control *control, uint8_t proto, uint16_t port)
{
	if (proto != IPPROTO_TCP && proto != IPPROTO_UDP)
		return false;
	return control->own[proto == IPPROTO_UDP][port / 8] >> port % 8 & 1;
}
