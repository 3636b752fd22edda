/* Generations on several devices at once; see filter.h. */
#include "core/filter.h"
#include "base/clock.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

int lat_filter_open(const struct lat_tc_options *options, const char *const *devices, size_t count,
	struct lat_filter **out, char say[LAT_TC_SAY])
{
	struct lat_filter *filter;
	char one[LAT_TC_SAY];
	size_t used = 0;

	say[0] = '\0';
	if (count == 0 || count > LAT_FILTER_DEVICES || (options->cgroup.path && count != 1))
		return -EINVAL;
	filter = calloc(1, sizeof(*filter));
	if (!filter)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		struct lat_tc_options o = *options;
		int r;

		o.device = devices[i];
		r = lat_tc_open(&o, &filter->tc[i], one);
		if (r < 0) {
			for (size_t k = 0; k < i; k++) { /* those taken over go on as they were */
				struct lat_tc_status status;

				lat_tc_close(filter->tc[k],
					lat_tc_status(filter->tc[k], &status) == 0 && status.adopted);
			}
			free(filter);
			snprintf(say, LAT_TC_SAY, "%.15s%s%.1000s", devices[i], devices[i][0] && one[0] ? ": " : "", one);
			return r;
		}
		filter->count++;
		if (used < LAT_TC_SAY)
			used += (size_t)snprintf(say + used, LAT_TC_SAY - used, "%s%s", used ? "\n" : "", one);
	}
	*out = filter;
	return 0;
}

void lat_filter_close(struct lat_filter *filter, bool keep)
{
	if (!filter)
		return;
	for (size_t i = 0; i < filter->count; i++)
		lat_tc_close(filter->tc[i], keep);
	free(filter);
}

/* The pins as the maps hold them, with the name rules of the policy. Addresses that no rule names are left out. */
static int make_pins(const struct lat_policy *policy, const struct lat_filter_pin *pins, size_t count,
	struct lat_addr **addrs, struct lat_tc_pin **values, size_t *made)
{
	*addrs = calloc(count + 1, sizeof(**addrs));
	*values = calloc(count + 1, sizeof(**values));
	*made = 0;
	if (!*addrs || !*values)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		struct lat_tc_pin *pin = &(*values)[*made];

		lat_image_pin(policy->spec.names, policy->spec.name_count, &pins[i].addr, pins[i].names,
			pins[i].name_count, pin);
		if (pin->count || pin->bound)
			(*addrs)[(*made)++] = pins[i].addr;
	}
	return 0;
}

/* Fills all devices; none is changed yet. */
static int prepare(struct lat_filter *filter, const struct lat_tc_image *image, const struct lat_addr *addrs,
	const struct lat_tc_pin *pins, size_t count, char *say)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < filter->count; i++) {
		r = lat_tc_prepare(filter->tc[i], image, say);
		if (r == 0)
			r = lat_tc_pins(filter->tc[i], true, addrs, pins, count);
	}
	return r;
}

static int flip(struct lat_filter *filter)
{
	for (size_t i = 0; i < filter->count; i++) {
		int r = lat_tc_flip(filter->tc[i]);

		if (r == 0)
			continue;
		while (i-- > 0)
			lat_tc_flip_back(filter->tc[i]);
		return r;
	}
	return 0;
}

int lat_filter_apply(struct lat_filter *filter, const struct lat_policy *policy, const struct lat_filter_pin *pins,
	size_t pin_count, char say[LAT_TC_SAY])
{
	const struct lat_image_spec spec = {
		.generation = policy->generation, .default_action = policy->spec.default_action,
		.keep_established = policy->spec.keep_established, .rules = policy->spec.rules,
		.rule_count = policy->spec.rule_count, .entries = policy->spec.entries,
		.entry_count = policy->spec.entry_count, .tables = policy->tables,
		.asks = policy->spec.has_connect, .hosts = policy->spec.host_ports, .host_count = policy->spec.host_port_count,
	};
	lat_autofree struct lat_addr *addrs = NULL;
	lat_autofree struct lat_tc_pin *values = NULL;
	struct lat_tc_image image;
	size_t made;
	int r;

	say[0] = '\0';
	if (policy->spec.rule_count && !policy->spec.keep_entries)
		return -EINVAL;
	r = lat_image_build(&spec, &image);
	if (r < 0)
		return r;
	r = make_pins(policy, pins, pin_count, &addrs, &values, &made);
	if (r == 0)
		r = prepare(filter, &image, addrs, values, made, say);
	if (r == 0)
		r = flip(filter);
	if (r < 0)
		lat_filter_settle(filter);
	lat_image_fini(&image);
	return r;
}

void lat_filter_settle(struct lat_filter *filter)
{
	for (size_t i = 0; i < filter->count; i++)
		lat_tc_settle(filter->tc[i]);
}

int lat_filter_pin(struct lat_filter *filter, const struct lat_policy *policy, const struct lat_filter_pin *pins,
	size_t count)
{
	lat_autofree struct lat_addr *addrs = NULL;
	lat_autofree struct lat_tc_pin *values = NULL;
	size_t made;
	int r = make_pins(policy, pins, count, &addrs, &values, &made);

	for (size_t i = 0; r == 0 && i < filter->count; i++)
		r = lat_tc_pins(filter->tc[i], false, addrs, values, made);
	return r;
}

int lat_filter_pin_one(struct lat_filter *filter, const struct lat_policy *policy, const struct lat_filter_pin *pin)
{
	struct lat_tc_pin value;
	int r = 0;

	lat_image_pin(policy->spec.names, policy->spec.name_count, &pin->addr, pin->names, pin->name_count, &value);
	for (size_t i = 0; r == 0 && i < filter->count; i++)
		r = lat_tc_pin(filter->tc[i], &pin->addr, &value);
	return r;
}

int lat_filter_overlay(struct lat_filter *filter, const struct lat_tc_temp *temps, size_t count)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < filter->count; i++)
		r = lat_tc_overlay(filter->tc[i], temps, count);
	return r;
}

int lat_filter_counters(struct lat_filter *filter, size_t rules, struct lat_tc_count **out)
{
	lat_autofree struct lat_tc_count *counts = calloc(rules + 1, sizeof(*counts));
	int r = counts ? 0 : -ENOMEM;

	for (size_t i = 0; r == 0 && i < filter->count; i++)
		r = lat_tc_counters(filter->tc[i], counts, rules + 1);
	if (r == 0)
		*out = lat_take(&counts);
	return r;
}

int lat_filter_cut(struct lat_filter *filter)
{
	int cut = 0;

	for (size_t i = 0; i < filter->count; i++) {
		int r = lat_tc_cut(filter->tc[i]);

		if (r < 0)
			return r;
		cut += r;
	}
	return cut;
}

int lat_filter_ask(struct lat_filter *filter, const struct lat_tc_question *question, struct lat_tc_answer *out)
{
	return lat_tc_ask(filter->tc[0], question, out);
}

bool lat_filter_end_of(const struct lat_tc_key *key, const struct lat_tc_flow *flow, struct lat_event *out)
{
	if ((flow->action != LAT_ACTION_ALLOW && flow->action != LAT_ACTION_AUDIT) || !flow->log ||
		(flow->state & (LAT_TC_TOLD | LAT_TC_INSIDE)))
		return false;
	*out = (struct lat_event){ .time_ns = lat_now_ns(), .generation = flow->generation, .rule = flow->rule,
		.kind = LAT_EVENT_CLOSE, .action = flow->action, .dir = flow->dir, .proto = key->proto, .sport = flow->sport,
		.dport = flow->dport, .ifindex = key->ifindex, .packets = flow->packets[0] + flow->packets[1],
		.bytes_out = flow->bytes[0], .bytes_in = flow->bytes[1] };
	if (flow->seen_ns > flow->start_ns)
		out->duration_ns = flow->seen_ns - flow->start_ns;
	memcpy(out->local, key->local, sizeof(out->local));
	memcpy(out->remote, key->remote, sizeof(out->remote));
	return true;
}
