/* One generation of a policy: a deep copy of the spec and the look-up structures made of it; see policy.h. */
#include "core/policy.h"
#include "base/mem.h"
#include <string.h>

/* All strings of a generation, one after another. */
struct text {
	char *next;
};

static size_t text_size(const char *s)
{
	return s ? strlen(s) + 1 : 0;
}

static const char *text_copy(struct text *text, const char *s)
{
	char *copy = text->next;

	if (!s)
		return NULL;
	text->next = stpcpy(copy, s) + 1;
	return copy;
}

static size_t spec_text_size(const struct lat_policy_spec *spec)
{
	size_t n = 1 + text_size(spec->name);

	for (size_t i = 0; i < spec->rule_count; i++)
		n += text_size(spec->rules[i].where) + text_size(spec->rules[i].reason) + text_size(spec->rules[i].text);
	for (size_t i = 0; i < spec->unix_path_count; i++)
		n += text_size(spec->unix_paths[i]);
	return n;
}

/* The parts that hold memory of their own; strings lie behind the policy in one block. */
struct copies {
	struct lat_rule *rules;
	struct lat_host_port *host_ports;
	const char **unix_paths;
};

static void copies_free(struct copies *c)
{
	free(c->rules);
	free(c->host_ports);
	free(c->unix_paths);
}

static int copies_make(struct copies *c, const struct lat_policy_spec *spec, char *room)
{
	struct text text = { room };

	c->rules = calloc(spec->rule_count + 1, sizeof(*c->rules));
	c->host_ports = calloc(spec->host_port_count + 1, sizeof(*c->host_ports));
	c->unix_paths = calloc(spec->unix_path_count + 1, sizeof(*c->unix_paths));
	if (!c->rules || !c->host_ports || !c->unix_paths)
		return -ENOMEM;
	for (size_t i = 0; i < spec->rule_count; i++) {
		c->rules[i] = spec->rules[i];
		c->rules[i].where = text_copy(&text, spec->rules[i].where);
		c->rules[i].reason = text_copy(&text, spec->rules[i].reason);
		c->rules[i].text = text_copy(&text, spec->rules[i].text);
	}
	for (size_t i = 0; i < spec->unix_path_count; i++)
		c->unix_paths[i] = text_copy(&text, spec->unix_paths[i]);
	if (spec->host_port_count)
		memcpy(c->host_ports, spec->host_ports, spec->host_port_count * sizeof(*c->host_ports));
	return 0;
}

static bool spec_valid(const struct lat_policy_spec *spec)
{
	if (spec->default_action >= LAT_ACTION_COUNT || spec->rule_count >= UINT32_MAX)
		return false;
	for (size_t i = 0; i < spec->rule_count; i++)
		if (spec->rules[i].action >= LAT_ACTION_COUNT || !spec->rules[i].where)
			return false;
	for (size_t i = 0; i < spec->entry_count; i++)
		if (spec->entries[i].rule > spec->rule_count)
			return false;
	for (size_t i = 0; i < spec->name_count; i++)
		if (spec->names[i].rule > spec->rule_count)
			return false;
	for (size_t i = 0; i < spec->host_port_count; i++)
		if (spec->host_ports[i].lo > spec->host_ports[i].hi)
			return false;
	for (size_t i = 0; i < spec->unix_path_count; i++)
		if (!spec->unix_paths[i] || spec->unix_paths[i][0] != '/')
			return false;
	return true;
}

static void policy_free(struct lat_policy *p)
{
	struct copies c = { (struct lat_rule *)p->spec.rules, (struct lat_host_port *)p->spec.host_ports,
		(const char **)p->spec.unix_paths };

	copies_free(&c);
	lat_tables_free(p->tables);
	lat_names_free(p->names);
	free(p);
}

int lat_policy_build(uint32_t generation, const struct lat_policy_spec *spec, struct lat_policy **out)
{
	struct copies copies = { NULL };
	struct lat_policy *p;
	size_t name_size = text_size(spec->name);
	char *room;
	int r;

	if (!spec_valid(spec))
		return -EINVAL;
	p = calloc(1, sizeof(*p) + spec_text_size(spec));
	if (!p)
		return -ENOMEM;
	p->generation = generation;
	p->refs = 1;
	p->spec = *spec;
	p->spec.entries = NULL; /* the tables and names hold what they say */
	p->spec.names = NULL;
	p->spec.entry_count = p->spec.name_count = 0;
	room = (char *)(p + 1);
	p->spec.name = spec->name ? memcpy(room, spec->name, name_size) : "";
	r = copies_make(&copies, spec, room + name_size);
	p->spec.rules = copies.rules;
	p->spec.host_ports = copies.host_ports;
	p->spec.unix_paths = copies.unix_paths;
	if (r == 0)
		r = lat_tables_build(spec->entries, spec->entry_count, &p->tables);
	if (r == 0)
		r = lat_names_build(spec->names, spec->name_count, &p->names);
	if (r < 0) {
		policy_free(p);
		return r;
	}
	*out = p;
	return 0;
}

struct lat_policy *lat_policy_ref(struct lat_policy *policy)
{
	policy->refs++;
	return policy;
}

void lat_policy_unref(struct lat_policy *policy)
{
	if (policy && --policy->refs == 0)
		policy_free(policy);
}

void lat_policy_judge(const struct lat_policy *policy, struct lat_pins *pins, const struct lat_flow *flow,
	uint64_t now_ns, struct lat_verdict *out)
{
	uint32_t rule = lat_tables_lookup(policy->tables, flow), by_name = 0;
	const struct lat_rule *r;

	memset(out, 0, sizeof(*out));
	out->generation = policy->generation;
	out->where = "default";
	if (flow->dir >= LAT_DIR_COUNT)
		return; /* zero is a denial */
	if (pins)
		by_name = lat_names_lookup(policy->names, pins, flow, now_ns);
	if (by_name && (!rule || by_name < rule))
		rule = by_name;
	if (!rule) {
		out->action = policy->spec.default_action;
		return;
	}
	r = &policy->spec.rules[rule - 1];
	out->action = r->action;
	out->err = r->err;
	out->rule = rule;
	out->where = r->where;
	out->reason = r->reason;
}
