/* Reads a policy table into a spec. The strings of the spec are those of the table, which stays on the stack until the
 * generation has its copies; the arrays are in a box, so that a Lua error frees them. Fields are read raw: nothing here
 * runs a script. The table comes from our own modules, and is still checked: what is odd refuses the policy. */
#include "lua/l_policy.h"
#include "lua/box.h"
#include "lua/quick.h"
#include <errno.h>
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#define MOST_ENTRIES (1u << 24) /* rules x prefixes x protocols x ports of one policy */

static const char too_many[] = "the policy has too many combinations of prefixes, protocols and ports";

struct array {
	void *items;
	size_t count, cap, size;
};

struct draft {
	struct array rules, entries, names, host_ports, unix_paths;
};

struct reader {
	lua_State *L;
	struct draft *draft;
	struct lat_quick *quick; /* rules that have no table, or NULL */
	uint32_t rule;     /* the one being read, 0: none */
	const char *where; /* its place */
	int error;         /* of the first failure, whose message is on the stack */
};

static void draft_close(void *object)
{
	struct draft *d = object;

	free(d->rules.items);
	free(d->entries.items);
	free(d->names.items);
	free(d->host_ports.items);
	free(d->unix_paths.items);
	free(d);
}

static const struct lat_box_type draft_type = { "lattice.policy.Draft", draft_close };

/* Remembers the failure with a message on the stack; returns false. */
static bool fail(struct reader *r, int error, const char *what)
{
	r->error = error;
	if (r->rule)
		lua_pushfstring(r->L, "rule %d (%s): %s", (int)r->rule, r->where ? r->where : "?", what);
	else
		lua_pushfstring(r->L, "policy: %s", what);
	return false;
}

/* Adds zeroed elements; NULL when out of memory. */
static void *array_add_all(struct array *a, size_t count, size_t size)
{
	void *item;

	if (count > a->cap - a->count) {
		size_t cap = a->cap ? 2 * a->cap : 32;
		void *items;

		while (cap - a->count < count)
			cap *= 2;
		items = realloc(a->items, cap * size);
		if (!items)
			return NULL;
		a->items = items;
		a->cap = cap;
	}
	item = (char *)a->items + a->count * size;
	a->count += count;
	return memset(item, 0, count * size);
}

static void *array_add(struct array *a, size_t size)
{
	return array_add_all(a, 1, size);
}

/* Pushes t[key] of the table at `index` (absolute) and returns its type. */
static int field(lua_State *L, int index, const char *key)
{
	lua_pushstring(L, key);
	return lua_rawget(L, index);
}

static bool field_bool(lua_State *L, int index, const char *key, bool unset)
{
	bool value = field(L, index, key) == LUA_TNIL ? unset : lua_toboolean(L, -1);

	lua_pop(L, 1);
	return value;
}

/* NULL when it is no string. The table keeps it alive. */
static const char *field_text(lua_State *L, int index, const char *key)
{
	const char *text = field(L, index, key) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;

	lua_pop(L, 1);
	return text;
}

/* -1 when it is no integer in 0..most. */
static int64_t field_number(lua_State *L, int index, const char *key, int64_t most)
{
	lua_Integer n;
	int ok;

	field(L, index, key);
	n = lua_tointegerx(L, -1, &ok);
	lua_pop(L, 1);
	return ok && n >= 0 && n <= most ? n : -1;
}

/* The same, 0 when it is not set. */
static int64_t field_number_or_0(lua_State *L, int index, const char *key, int64_t most)
{
	bool unset = field(L, index, key) == LUA_TNIL;

	lua_pop(L, 1);
	return unset ? 0 : field_number(L, index, key, most);
}

static int64_t item_number(lua_State *L, int index, lua_Integer i, int64_t most)
{
	lua_Integer n;
	int ok;

	lua_rawgeti(L, index, i);
	n = lua_tointegerx(L, -1, &ok);
	lua_pop(L, 1);
	return ok && n >= 0 && n <= most ? n : -1;
}

static const char *item_text(lua_State *L, int index, lua_Integer i)
{
	const char *text = lua_rawgeti(L, index, i) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;

	lua_pop(L, 1);
	return text;
}

/* "deny" for nil. */
static int action_number(const char *name)
{
	for (int i = 0; name && i < LAT_ACTION_COUNT; i++)
		if (strcmp(lat_action_name((enum lat_action)i), name) == 0)
			return i;
	return -1;
}

static int errno_number(const char *name)
{
	static const struct {
		const char *name;
		int number;
	} known[] = {
		{ "EACCES", EACCES }, { "ECONNREFUSED", ECONNREFUSED }, { "EHOSTUNREACH", EHOSTUNREACH },
		{ "ENETUNREACH", ENETUNREACH }, { "EPERM", EPERM },
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(known[i].name, name) == 0)
			return known[i].number;
	return -1;
}

static bool passes(uint8_t action)
{
	return action == LAT_ACTION_ALLOW || action == LAT_ACTION_AUDIT || action == LAT_ACTION_ASK;
}

/* The match of one rule besides its destinations. Stack indices of its lists, 0: the list is not set (any). */
struct match {
	int protos, ports, prefixes, names;
	uint8_t dir;
	bool any, host, is_private, opens;
};

struct range {
	uint16_t lo, hi;
	uint8_t proto;
};

/* Gives every (protocol, port range) of the rule in turn, the index counting from 0; false behind the last or when the
 * lists are odd (then r->error is set). */
static bool next_range(struct reader *r, const struct match *m, lua_Integer *at, struct range *out)
{
	lua_State *L = r->L;
	lua_Integer ports = m->ports ? (lua_Integer)lua_rawlen(L, m->ports) : 1;
	lua_Integer protos = m->protos ? (lua_Integer)lua_rawlen(L, m->protos) : 1;
	lua_Integer i = (*at)++;
	int64_t lo = 0, hi = UINT16_MAX, proto = LAT_PROTO_ANY;

	if (i >= ports * protos)
		return false;
	if (m->protos && (proto = item_number(L, m->protos, i / ports + 1, 254)) < 0)
		return fail(r, -EINVAL, "a protocol is not 0 to 254");
	if (m->ports) {
		if (lua_rawgeti(L, m->ports, i % ports + 1) != LUA_TTABLE)
			return fail(r, -EINVAL, "a port range is no table");
		lo = item_number(L, lua_gettop(L), 1, UINT16_MAX);
		hi = item_number(L, lua_gettop(L), 2, UINT16_MAX);
		lua_pop(L, 1);
		if (lo < 0 || hi < lo)
			return fail(r, -EINVAL, "a port range is not {lo, hi} within 0 to 65535");
	}
	*out = (struct range){ (uint16_t)lo, (uint16_t)hi, (uint8_t)proto };
	return true;
}

static bool add_entries(struct reader *r, const struct match *m, const struct lat_prefix *prefix)
{
	struct range range;

	for (lua_Integer at = 0; next_range(r, m, &at, &range);) {
		struct lat_entry *e;

		if (r->draft->entries.count >= MOST_ENTRIES)
			return fail(r, -E2BIG, too_many);
		e = array_add(&r->draft->entries, sizeof(*e));
		if (!e)
			return fail(r, -ENOMEM, "out of memory");
		*e = (struct lat_entry){ .prefix = *prefix, .rule = r->rule, .port_lo = range.lo, .port_hi = range.hi,
			.dir = m->dir, .proto = range.proto };
	}
	return !r->error;
}

static bool add_any(struct reader *r, const struct match *m)
{
	struct lat_prefix p4, p6;

	return lat_prefix_parse("0.0.0.0/0", &p4) == 0 && lat_prefix_parse("::/0", &p6) == 0 &&
		add_entries(r, m, &p4) && add_entries(r, m, &p6);
}

static bool add_prefixes(struct reader *r, const struct match *m)
{
	lua_State *L = r->L;
	lua_Integer n = (lua_Integer)lua_rawlen(L, m->prefixes);

	for (lua_Integer i = 1; i <= n; i++) {
		struct lat_prefix p;
		const char *text;
		int64_t family, len;
		int at;

		if (lua_rawgeti(L, m->prefixes, i) != LUA_TTABLE)
			return fail(r, -EINVAL, "a prefix is no table");
		at = lua_gettop(L);
		text = field_text(L, at, "addr");
		family = field_number(L, at, "family", 6);
		len = field_number(L, at, "len", family == 4 ? 32 : 128);
		lua_pop(L, 1);
		if (!text || (family != 4 && family != 6) || len < 0 || lat_addr_parse(text, &p.addr) < 0)
			return fail(r, -EINVAL, "a prefix is not {family, addr, len}");
		p.family = (uint8_t)family;
		p.len = (uint8_t)len;
		if (family == 4 && !lat_addr_is4(&p.addr))
			return fail(r, -EINVAL, "an IPv4 prefix has an IPv6 address");
		if (!add_entries(r, m, &p))
			return false;
	}
	return true;
}

static bool add_names(struct reader *r, const struct match *m)
{
	lua_Integer n = (lua_Integer)lua_rawlen(r->L, m->names);

	for (lua_Integer i = 1; i <= n; i++) {
		const char *pattern = item_text(r->L, m->names, i);
		struct range range;

		if (!pattern)
			return fail(r, -EINVAL, "a name is no text");
		for (lua_Integer at = 0; next_range(r, m, &at, &range);) {
			struct lat_name_entry *e = array_add(&r->draft->names, sizeof(*e));

			if (!e)
				return fail(r, -ENOMEM, "out of memory");
			*e = (struct lat_name_entry){ .pattern = pattern, .rule = r->rule, .port_lo = range.lo,
				.port_hi = range.hi, .dir = m->dir, .proto = range.proto, .allows = m->opens,
				.private_ok = m->is_private };
		}
		if (r->error)
			return false;
	}
	return true;
}

/* Only a rule that lets pass takes ports of the host's loopback out of the sandbox's own. */
static bool add_host_ports(struct reader *r, const struct match *m)
{
	static const uint8_t with_ports[] = { IPPROTO_TCP, IPPROTO_UDP };
	struct range range;

	for (lua_Integer at = 0; next_range(r, m, &at, &range);) {
		for (size_t i = 0; i < sizeof(with_ports); i++) {
			struct lat_host_port *p;

			if (range.proto != LAT_PROTO_ANY && range.proto != with_ports[i])
				continue;
			p = array_add(&r->draft->host_ports, sizeof(*p));
			if (!p)
				return fail(r, -ENOMEM, "out of memory");
			*p = (struct lat_host_port){ range.lo, range.hi, with_ports[i] };
		}
	}
	return !r->error;
}

/* Pushes the list t[key]; its index, 0 when it is not set. */
static int list(struct reader *r, int index, const char *key)
{
	int type = field(r->L, index, key);

	if (type == LUA_TNIL) {
		lua_pop(r->L, 1);
		return 0;
	}
	if (type != LUA_TTABLE)
		fail(r, -EINVAL, lua_pushfstring(r->L, "'%s' is no list", key));
	return lua_gettop(r->L);
}

static bool read_match(struct reader *r, int index, const struct lat_rule *rule)
{
	lua_State *L = r->L;
	struct match m = { .opens = passes(rule->action) };
	const char *dir = field_text(L, index, "dir");
	bool empty_list;

	if (!dir || (strcmp(dir, "out") != 0 && strcmp(dir, "in") != 0))
		return fail(r, -EINVAL, "'dir' is neither \"out\" nor \"in\"");
	m.dir = dir[0] == 'i' ? LAT_DIR_IN : LAT_DIR_OUT;
	m.any = field_bool(L, index, "any", false);
	m.host = field_bool(L, index, "host", false);
	m.is_private = field_bool(L, index, "private", false);
	m.protos = list(r, index, "protos");
	m.ports = r->error ? 0 : list(r, index, "ports");
	m.prefixes = r->error ? 0 : list(r, index, "prefixes");
	m.names = r->error ? 0 : list(r, index, "names");
	if (r->error)
		return false;
	empty_list = (m.protos && !lua_rawlen(L, m.protos)) || (m.ports && !lua_rawlen(L, m.ports));
	if (empty_list)
		return fail(r, -EINVAL, "'protos' or 'ports' is an empty list");
	if (m.any)
		return add_any(r, &m);
	return (!m.prefixes || add_prefixes(r, &m)) && (!m.names || add_names(r, &m)) &&
		(!m.host || !m.opens || m.dir != LAT_DIR_OUT || add_host_ports(r, &m));
}

/* The rule table is at the top of the stack. */
static bool read_rule(struct reader *r)
{
	lua_State *L = r->L;
	int index = lua_gettop(L), action;
	struct lat_rule *rule = array_add(&r->draft->rules, sizeof(*rule));
	const char *err = field_text(L, index, "errno");
	int64_t ttl = field_number_or_0(L, index, "ttl", UINT32_MAX);
	int64_t rate = field_number_or_0(L, index, "rate", UINT32_MAX);

	r->where = field_text(L, index, "where");
	if (!rule)
		return fail(r, -ENOMEM, "out of memory");
	action = action_number(field_text(L, index, "action"));
	if (action < 0)
		return fail(r, -EINVAL, "unknown action");
	if (field_number(L, index, "id", UINT32_MAX) != r->rule)
		return fail(r, -EINVAL, "'id' is not its place in the list");
	if (!r->where)
		return fail(r, -EINVAL, "'where' is missing");
	if (ttl < 0 || rate < 0)
		return fail(r, -EINVAL, "'ttl' or 'rate' is no number");
	if (err && errno_number(err) < 0)
		return fail(r, -EINVAL, "unknown errno");
	*rule = (struct lat_rule){ .where = r->where, .reason = field_text(L, index, "reason"),
		.text = field_text(L, index, "text"), .ttl_s = (uint32_t)ttl, .rate = (uint32_t)rate,
		.err = err ? (uint16_t)errno_number(err) : 0, .action = (uint8_t)action,
		.log = field_bool(L, index, "log", true) };
	return read_match(r, index, rule);
}

/* A rule without a table is in the store of quick.h. */
static bool read_quick(struct reader *r)
{
	struct draft *d = r->draft;
	const struct lat_entry *entries;
	struct lat_rule rule, *to;
	struct lat_entry *more;
	size_t count;

	if (!r->quick || !lat_quick_next(r->quick, r->rule, &rule, &entries, &count))
		return fail(r, -EINVAL, "it is no table");
	r->where = rule.where;
	if (d->entries.count + count > MOST_ENTRIES)
		return fail(r, -E2BIG, too_many);
	to = array_add(&d->rules, sizeof(*to));
	more = to ? array_add_all(&d->entries, count, sizeof(*more)) : NULL;
	if (!more)
		return fail(r, -ENOMEM, "out of memory");
	*to = rule;
	memcpy(more, entries, count * sizeof(*more));
	return true;
}

static bool read_rules(struct reader *r, int index)
{
	lua_State *L = r->L;
	int rules = list(r, index, "rules"), top = lua_gettop(L);
	lua_Integer n = rules && !r->error ? (lua_Integer)lua_rawlen(L, rules) : 0;

	if (r->error)
		return false;
	if (!rules)
		return fail(r, -EINVAL, "there is no list 'rules'");
	field(L, index, "quick");
	r->quick = lat_quick_of(L, lua_gettop(L)); /* the policy keeps it */
	lua_settop(L, top);
	for (lua_Integer i = 1; i <= n; i++) {
		r->rule = (uint32_t)i;
		r->where = NULL;
		if (lua_rawgeti(L, rules, i) == LUA_TTABLE ? !read_rule(r) : !read_quick(r))
			return false;
		lua_settop(L, top);
	}
	r->rule = 0;
	return true;
}

static bool read_unix(struct reader *r, int index)
{
	int paths = list(r, index, "unix");
	lua_Integer n = paths && !r->error ? (lua_Integer)lua_rawlen(r->L, paths) : 0;

	for (lua_Integer i = 1; i <= n; i++) {
		const char *path = item_text(r->L, paths, i), **slot;

		if (!path || path[0] != '/')
			return fail(r, -EINVAL, "a path of 'unix' is not absolute");
		slot = array_add(&r->draft->unix_paths, sizeof(*slot));
		if (!slot)
			return fail(r, -ENOMEM, "out of memory");
		*slot = path;
	}
	return !r->error;
}

static bool read_options(struct reader *r, int index, struct lat_policy_spec *spec)
{
	lua_State *L = r->L;
	int action = LAT_ACTION_DENY, handlers;

	if (field(L, index, "default") != LUA_TNIL)
		action = action_number(lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL);
	lua_pop(L, 1);
	if (action < 0)
		return fail(r, -EINVAL, "'default' is no action");
	handlers = list(r, index, "handlers");
	if (r->error)
		return false;
	spec->default_action = (uint8_t)action;
	spec->name = field_text(L, index, "name");
	spec->keep_established = field_bool(L, index, "keep_established", false);
	spec->names_open = field_bool(L, index, "names_open", false);
	spec->keep_entries = field_bool(L, index, "keep_entries", false);
	spec->has_ask = handlers && field_bool(L, handlers, "ask", false);
	spec->has_connect = handlers && field_bool(L, handlers, "connect", false);
	spec->has_dns = handlers && field_bool(L, handlers, "dns", false);
	return true;
}

static bool read_policy(struct reader *r, int index, uint32_t generation, struct lat_policy **out)
{
	struct draft *d = r->draft;
	struct lat_policy_spec spec = { .name = NULL };
	int error;

	if (!read_options(r, index, &spec) || !read_rules(r, index) || !read_unix(r, index))
		return false;
	spec.rules = d->rules.items;
	spec.rule_count = d->rules.count;
	spec.entries = d->entries.items;
	spec.entry_count = d->entries.count;
	spec.names = d->names.items;
	spec.name_count = d->names.count;
	spec.host_ports = d->host_ports.items;
	spec.host_port_count = d->host_ports.count;
	spec.unix_paths = d->unix_paths.items;
	spec.unix_path_count = d->unix_paths.count;
	error = lat_policy_build(generation, &spec, out);
	if (error < 0)
		return fail(r, error, error == -ENOMEM ? "out of memory" : "a rule's names, ports or prefixes are odd");
	return true;
}

int lat_lua_check_policy(lua_State *L, int index, uint32_t generation, struct lat_policy **out)
{
	struct reader r = { .L = L };
	struct lat_policy *built = NULL;
	struct lat_box *box;
	int top;

	index = lua_absindex(L, index);
	luaL_checkstack(L, 20, "policy");
	if (lua_type(L, index) != LUA_TTABLE) {
		lua_pushliteral(L, "policy: it is no table");
		return -EINVAL;
	}
	top = lua_gettop(L);
	lat_box_register(L, &draft_type);
	box = lat_box_new(L, &draft_type);
	r.draft = calloc(1, sizeof(*r.draft));
	if (!r.draft) {
		lua_settop(L, top);
		lua_pushliteral(L, "policy: out of memory");
		return -ENOMEM;
	}
	lat_box_fill(L, box, r.draft);
	if (read_policy(&r, index, generation, &built)) {
		lat_box_close(L, box);
		lua_settop(L, top);
		*out = built;
		return 0;
	}
	lat_box_close(L, box);
	lua_replace(L, top + 1); /* the message, in place of the box */
	lua_settop(L, top + 1);
	return r.error;
}
