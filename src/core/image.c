/* From entries and rules to an image for the maps; see image.h. Lists of one range go into their nodes; longer ones become
 * segments, each list once; nodes that others have as parent become rows. */
#include "core/image.h"
#include "core/tables_parts.h"
#include "base/mem.h"
#include <string.h>

#define MOST_ROWS (1u << 26)

struct draft {
	const struct lat_tables *t;
	struct lat_tc_segment *segments;
	size_t segment_count, segment_cap;
	uint32_t *list_at;   /* offset of a list in the tables -> its first segment + 1 */
	uint32_t *node_row;  /* node -> its row, 0: none */
	uint32_t parents_at, parent_count, segments_at;
};

/* Is the list one range with a rule, and nothing else? Then it is short. */
static bool short_list(const struct lat_lists *lists, uint32_t list, struct lat_tc_list *out)
{
	const uint32_t *rules = lat_list_rules(lists, list);
	const uint16_t *keys = lat_list_keys(lists, list);
	uint32_t n = lat_list_count(lists, list);

	*out = (struct lat_tc_list){ 0 };
	for (uint32_t i = 0; i < n; i++) {
		if (!rules[i])
			continue;
		if (out->rule)
			return false;
		out->rule = rules[i];
		out->lo = keys[i];
		out->hi = i + 1 < n ? (uint16_t)(keys[i + 1] - 1) : UINT16_MAX;
	}
	return true;
}

static int add_segments(struct draft *d, uint32_t list)
{
	const struct lat_lists *lists = &d->t->lists;
	struct lat_tc_list ignored;
	uint32_t n = lat_list_count(lists, list);
	int r;

	if (d->list_at[list] || short_list(lists, list, &ignored))
		return 0;
	r = lat_grow((void **)&d->segments, &d->segment_cap, d->segment_count + n, sizeof(*d->segments));
	if (r < 0)
		return r;
	d->list_at[list] = (uint32_t)d->segment_count + 1;
	for (uint32_t i = 0; i < n; i++)
		d->segments[d->segment_count++] = (struct lat_tc_segment){
			.first = lat_list_keys(lists, list)[i], .rule = lat_list_rules(lists, list)[i] };
	return 0;
}

/* Segments of all lists that prefixes reach, rows for all parents. */
static int collect(struct draft *d)
{
	const struct lat_tables *t = d->t;
	int r = 0;

	for (size_t i = 1; r == 0 && i < t->node_count; i++) {
		const struct lat_node *n = &t->nodes[i];

		for (int k = 0; r == 0 && k < LAT_LIST_COUNT; k++)
			r = add_segments(d, n->lists[k]);
		if (n->parent && !d->node_row[n->parent])
			d->node_row[n->parent] = d->parents_at + d->parent_count++;
	}
	return r;
}

static struct lat_tc_node make_node(const struct draft *d, uint32_t number)
{
	const struct lat_node *n = &d->t->nodes[number];
	struct lat_tc_node out = { .parent = d->node_row[n->parent], .above = n->above };

	for (int k = 0; k < LAT_LIST_COUNT; k++) {
		uint32_t list = n->lists[k], count = lat_list_count(&d->t->lists, list);

		if (short_list(&d->t->lists, list, &out.lists[k]))
			continue;
		out.lists[k].rule = LAT_TC_LIST_LONG | (d->segments_at * 4 + d->list_at[list] - 1);
		out.lists[k].lo = (uint16_t)count;
		out.lists[k].hi = (uint16_t)(count >> 16);
	}
	return out;
}

static struct lat_tc_prefix make_prefix(const struct lat_node_prefix *from)
{
	struct lat_tc_prefix out = { .len = 32u + from->len, .tree = from->tree };
	uint64_t hi = __builtin_bswap64((uint64_t)(from->start >> 64));
	uint64_t lo = __builtin_bswap64((uint64_t)from->start);

	memcpy(out.addr, &hi, 8);
	memcpy(out.addr + 2, &lo, 8);
	return out;
}

static void fill_rules(const struct lat_image_spec *spec, struct lat_tc_rule *out)
{
	out[0].action = spec->default_action;
	out[0].log = 1;
	for (size_t i = 0; i < spec->rule_count; i++) {
		const struct lat_rule *r = &spec->rules[i];

		out[i + 1] = (struct lat_tc_rule){
			.action = r->action, .log = r->log || r->action == LAT_ACTION_AUDIT, .err = r->err, .rate = r->rate };
	}
}

/* More than fit are not known to the programs, and closed. */
static uint16_t host_count(const struct lat_image_spec *spec)
{
	return (uint16_t)(spec->host_count < LAT_TC_HOST_MOST ? spec->host_count : LAT_TC_HOST_MOST);
}

static void fill_hosts(const struct lat_image_spec *spec, struct lat_tc_host *out)
{
	for (size_t i = 0; i < host_count(spec); i++)
		out[i] = (struct lat_tc_host){ .lo = spec->hosts[i].lo, .hi = spec->hosts[i].hi, .proto = spec->hosts[i].proto };
}

static int fill(struct draft *d, const struct lat_image_spec *spec, struct lat_tc_image *image)
{
	const struct lat_tables *t = d->t;
	uint64_t rule_rows = spec->rule_count / 2 + 1, rows, hosts_at;
	int r;

	d->parents_at = (uint32_t)(1 + rule_rows);
	r = collect(d);
	if (r < 0)
		return r;
	d->segments_at = d->parents_at + d->parent_count;
	hosts_at = d->segments_at + d->segment_count / 4 + 1;
	rows = hosts_at + host_count(spec) / 4 + 1;
	if (rows > MOST_ROWS)
		return -E2BIG;
	image->rows = calloc(rows, LAT_TC_ROW);
	image->prefixes = calloc(t->prefix_count + 1, sizeof(*image->prefixes));
	image->nodes = calloc(t->prefix_count + 1, sizeof(*image->nodes));
	if (!image->rows || !image->prefixes || !image->nodes)
		return -ENOMEM;
	image->row_count = (uint32_t)rows;
	image->prefix_count = t->prefix_count;
	image->generation = spec->generation;
	image->rule_count = (uint32_t)spec->rule_count;
	image->rules_at = 1;
	image->keep = spec->keep_established;
	image->asks = spec->asks;
	image->hosts_at = (uint32_t)hosts_at;
	image->hosts = host_count(spec);
	fill_rules(spec, (struct lat_tc_rule *)(image->rows + LAT_TC_ROW));
	fill_hosts(spec, (struct lat_tc_host *)(image->rows + hosts_at * LAT_TC_ROW));
	for (size_t i = 1; i < t->node_count; i++) {
		struct lat_tc_node node;

		if (!d->node_row[i])
			continue;
		node = make_node(d, (uint32_t)i);
		memcpy(image->rows + (size_t)d->node_row[i] * LAT_TC_ROW, &node, sizeof(node));
	}
	if (d->segment_count)
		memcpy(image->rows + (size_t)d->segments_at * LAT_TC_ROW, d->segments,
			d->segment_count * sizeof(*d->segments));
	for (size_t i = 0; i < t->prefix_count; i++) {
		image->prefixes[i] = make_prefix(&t->prefixes[i]);
		image->nodes[i] = make_node(d, t->prefixes[i].node);
	}
	return 0;
}

int lat_image_build(const struct lat_image_spec *spec, struct lat_tc_image *out)
{
	struct lat_tc_image image = { 0 };
	struct lat_tables *own = NULL;
	struct draft d = { .t = spec->tables };
	int r;

	if (spec->rule_count >= LAT_TC_LIST_LONG)
		return -E2BIG;
	for (size_t i = 0; i < spec->entry_count; i++)
		if (spec->entries[i].rule > spec->rule_count)
			return -EINVAL;
	if (!d.t) {
		r = lat_tables_build_for_maps(spec->entries, spec->entry_count, &own);
		if (r < 0)
			return r;
		d.t = own;
	}
	d.list_at = calloc(d.t->lists.used + 1, sizeof(*d.list_at));
	d.node_row = calloc(d.t->node_count + 1, sizeof(*d.node_row));
	r = d.list_at && d.node_row ? fill(&d, spec, &image) : -ENOMEM;
	free(d.segments);
	free(d.list_at);
	free(d.node_row);
	lat_tables_free(own);
	if (r < 0)
		lat_image_fini(&image);
	else
		*out = image;
	return r;
}

void lat_image_fini(struct lat_tc_image *image)
{
	free(image->prefixes);
	free(image->nodes);
	free(image->rows);
	memset(image, 0, sizeof(*image));
}

static bool covers(const struct lat_tc_box *a, const struct lat_tc_box *b)
{
	return a->dir == b->dir && (a->proto == LAT_PROTO_ANY || a->proto == b->proto) && a->lo <= b->lo && a->hi >= b->hi;
}

/* Puts the box where it belongs among those in order of rule; the last falls out of a full list. One that an earlier rule
 * covers is never met. */
static void add_box(struct lat_tc_pin *pin, const struct lat_tc_box *box)
{
	uint32_t at = pin->count;

	while (at > 0 && pin->boxes[at - 1].rule > box->rule)
		at--;
	for (uint32_t i = 0; i < at; i++)
		if (covers(&pin->boxes[i], box))
			return;
	if (pin->count == LAT_TC_PIN_MOST) {
		uint32_t out = at == pin->count ? box->rule : pin->boxes[pin->count - 1].rule;

		if (!pin->bound || out < pin->bound)
			pin->bound = out;
		if (at == pin->count)
			return;
		pin->count--;
	}
	memmove(&pin->boxes[at + 1], &pin->boxes[at], (pin->count - at) * sizeof(*box));
	pin->boxes[at] = *box;
	pin->count++;
}

void lat_image_pin(const struct lat_name_entry *entries, size_t count, const struct lat_addr *addr,
	const char *const *names, size_t name_count, struct lat_tc_pin *out)
{
	bool is_private = lat_addr_is_private(addr);

	memset(out, 0, sizeof(*out));
	for (size_t i = 0; i < count; i++) {
		const struct lat_name_entry *e = &entries[i];
		struct lat_tc_box box = { .rule = e->rule, .lo = e->port_lo, .hi = e->port_hi, .proto = e->proto,
			.dir = e->dir };

		if (is_private && e->allows && !e->private_ok)
			continue;
		for (size_t n = 0; n < name_count; n++) {
			if (lat_name_matches(e->pattern, names[n])) {
				add_box(out, &box);
				break;
			}
		}
	}
}
