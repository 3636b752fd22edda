/* One generation of a policy: a deep copy of the spec and the look-up structures made of it; see policy.h. */
#include "core/policy.h"
#include "base/mem.h"
#include "base/sha256.h"
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
	for (size_t i = 0; spec->keep_entries && i < spec->name_count; i++)
		n += text_size(spec->names[i].pattern);
	return n;
}

/* The parts that hold memory of their own; strings lie behind the policy in one block. */
struct copies {
	struct lat_rule *rules;
	struct lat_host_port *host_ports;
	const char **unix_paths;
	struct lat_entry *entries;
	struct lat_name_entry *names;
};

static void copies_free(struct copies *c)
{
	free(c->rules);
	free(c->host_ports);
	free(c->unix_paths);
	free(c->entries);
	free(c->names);
}

/* For keep_entries. */
static int copies_keep(struct copies *c, const struct lat_policy_spec *spec, struct text *text)
{
	c->entries = calloc(spec->entry_count + 1, sizeof(*c->entries));
	c->names = calloc(spec->name_count + 1, sizeof(*c->names));
	if (!c->entries || !c->names)
		return -ENOMEM;
	if (spec->entry_count)
		memcpy(c->entries, spec->entries, spec->entry_count * sizeof(*c->entries));
	for (size_t i = 0; i < spec->name_count; i++) {
		c->names[i] = spec->names[i];
		c->names[i].pattern = text_copy(text, spec->names[i].pattern);
	}
	return 0;
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
	return spec->keep_entries ? copies_keep(c, spec, &text) : 0;
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
		(const char **)p->spec.unix_paths, (struct lat_entry *)p->spec.entries,
		(struct lat_name_entry *)p->spec.names };

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
	if (!spec->keep_entries) /* the tables and names hold what they say */
		p->spec.entry_count = p->spec.name_count = 0;
	room = (char *)(p + 1);
	p->spec.name = spec->name ? memcpy(room, spec->name, name_size) : "";
	r = copies_make(&copies, spec, room + name_size);
	p->spec.rules = copies.rules;
	p->spec.host_ports = copies.host_ports;
	p->spec.unix_paths = copies.unix_paths;
	p->spec.entries = copies.entries;
	p->spec.names = copies.names;
	if (r == 0)
		r = (spec->keep_entries ? lat_tables_build_for_maps : lat_tables_build)(spec->entries, spec->entry_count,
			&p->tables);
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

static void digest_text(struct lat_sha256 *sum, const char *text)
{
	lat_sha256_add(sum, text ? text : "", text ? strlen(text) + 1 : 1);
}

/* Field by field: a struct has bytes between its fields. */
static void digest_match(struct lat_sha256 *sum, uint32_t rule, uint16_t lo, uint16_t hi, uint8_t dir, uint8_t proto)
{
	uint32_t words[] = { rule, (uint32_t)lo << 16 | hi, (uint32_t)dir << 8 | proto };

	lat_sha256_add(sum, words, sizeof(words));
}

void lat_policy_digest(const struct lat_policy *policy, char hex[LAT_POLICY_DIGEST + 1])
{
	const struct lat_policy_spec *spec = &policy->spec;
	uint32_t head[] = { spec->default_action, spec->keep_established, (uint32_t)spec->rule_count };
	uint8_t digest[LAT_SHA256];
	struct lat_sha256 sum;

	lat_sha256_init(&sum);
	lat_sha256_add(&sum, head, sizeof(head));
	for (size_t i = 0; i < spec->rule_count; i++) {
		const struct lat_rule *r = &spec->rules[i];
		uint32_t words[] = { r->action, r->log, r->rate, r->ttl_s, r->err };

		lat_sha256_add(&sum, words, sizeof(words));
		digest_text(&sum, r->reason);
	}
	for (size_t i = 0; i < spec->entry_count; i++) {
		const struct lat_entry *e = &spec->entries[i];
		uint8_t prefix[] = { e->prefix.family, e->prefix.len };

		digest_match(&sum, e->rule, e->port_lo, e->port_hi, e->dir, e->proto);
		lat_sha256_add(&sum, prefix, sizeof(prefix));
		lat_sha256_add(&sum, &e->prefix.addr, sizeof(e->prefix.addr));
	}
	for (size_t i = 0; i < spec->name_count; i++) {
		const struct lat_name_entry *e = &spec->names[i];
		uint8_t flags[] = { e->allows, e->private_ok };

		digest_match(&sum, e->rule, e->port_lo, e->port_hi, e->dir, e->proto);
		lat_sha256_add(&sum, flags, sizeof(flags));
		digest_text(&sum, e->pattern);
	}
	lat_sha256_end(&sum, digest);
	for (size_t i = 0; i < LAT_SHA256; i++) {
		hex[2 * i] = "0123456789abcdef"[digest[i] >> 4];
		hex[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
	}
	hex[2 * LAT_SHA256] = '\0';
}
