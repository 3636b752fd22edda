/* lattice.tables: the decision tables of a policy for scripts: what the enforcers of user mode ask. */
#include "lua/api.h"
#include "lua/flow_args.h"
#include "lua/l_policy.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct tables {
	struct lat_policy *policy;
	struct lat_pins *pins; /* empty between calls */
};

static void tables_close(void *object)
{
	struct tables *t = object;

	lat_policy_unref(t->policy);
	lat_pins_free(t->pins);
	free(t);
}

static const struct lat_box_type tables_type = { "lattice.tables.Tables", tables_close };

static int l_build(lua_State *L)
{
	struct lat_box *box;
	struct tables *t;
	int r;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	box = lat_box_new(L, &tables_type);
	t = calloc(1, sizeof(*t));
	if (!t)
		return lat_push_errno(L, -ENOMEM, "build tables");
	lat_box_fill(L, box, t);
	r = lat_pins_new(LAT_LUA_FLOW_NAMES, &t->pins);
	if (r < 0)
		return lat_push_errno(L, r, "build tables");
	r = lat_lua_check_policy(L, 1, 1, &t->policy);
	if (r < 0) {
		lat_box_close(L, box);
		lua_pushnil(L);
		lua_insert(L, -2);
		lua_pushstring(L, r == -ENOMEM ? "ENOMEM" : r == -E2BIG ? "E2BIG" : "EINVAL");
		return 3;
	}
	return 1;
}

static int l_judge(lua_State *L)
{
	struct tables *t = lat_box_check(L, 1, &tables_type);
	struct lat_flow flow = { .sport = 0 };
	struct lat_verdict v;

	lua_settop(L, 3);
	lat_lua_check_flow(L, 2, &flow);
	if (lua_isnil(L, 3)) {
		lua_getfield(L, 2, "names");
		lua_replace(L, 3);
	}
	lat_lua_pin_names(L, 3, t->pins, &flow.remote);
	lat_policy_judge(t->policy, t->pins, &flow, 0, &v);
	lat_lua_push_verdict(L, &v);
	return 1;
}

static int l_lookup(lua_State *L)
{
	struct tables *t = lat_box_check(L, 1, &tables_type);
	struct lat_flow flow = { .dir = lat_lua_check_dir(L, 2, luaL_checkstring(L, 2)) };
	lua_Integer proto = luaL_checkinteger(L, 3), port = luaL_optinteger(L, 5, 0);

	luaL_argcheck(L, proto >= 0 && proto <= UINT8_MAX, 3, "not 0 to 255");
	luaL_argcheck(L, port >= 0 && port <= UINT16_MAX, 5, "not 0 to 65535");
	lat_lua_check_addr(L, 4, luaL_checkstring(L, 4), &flow.remote);
	flow.proto = (uint8_t)proto;
	flow.dport = (uint16_t)port;
	lua_pushinteger(L, lat_tables_lookup(t->policy->tables, &flow));
	return 1;
}

static int l_resolvable(lua_State *L)
{
	struct tables *t = lat_box_check(L, 1, &tables_type);
	size_t len;
	const char *text = luaL_checklstring(L, 2, &len);
	char name[LAT_NAME_MAX];
	bool private_ok = false;

	if (lat_name_normalize(text, len, name) < 0)
		luaL_argerror(L, 2, lua_pushfstring(L, "'%s' is no host name", text));
	lua_pushboolean(L, lat_names_resolvable(t->policy->names, name, &private_ok));
	lua_pushboolean(L, private_ok);
	return 2;
}

static int l_count(lua_State *L)
{
	struct tables *t = lat_box_check(L, 1, &tables_type);

	lua_pushinteger(L, (lua_Integer)t->policy->spec.rule_count);
	return 1;
}

static int l_bytes(lua_State *L)
{
	struct tables *t = lat_box_check(L, 1, &tables_type);

	lua_pushinteger(L, (lua_Integer)lat_tables_bytes(t->policy->tables));
	return 1;
}

static int open_tables(lua_State *L)
{
	luaL_getmetatable(L, tables_type.name);
	lua_pushcfunction(L, l_count);
	lua_setfield(L, -2, "__len");
	return 0;
}

static const struct lat_api_function functions[] = {
	{ "build", l_build, "policy: table", "lattice.tables.Tables?, string? error, string? code",
		"Compile the policy of lattice.policy.load; #tables is the number of its rules." },
	{ 0 },
};

static const struct lat_api_function methods[] = {
	{ "judge", l_judge, "flow: lattice.tables.Flow, names?: string[]", "lattice.tables.Verdict",
		"First match for the flow; names (or flow.names) are those its address was given for." },
	{ "lookup", l_lookup, "dir: \"out\"|\"in\", proto: integer, addr: string, port?: integer", "integer",
		"The lowest rule with a prefix for it, 0 if there is none; names are not asked." },
	{ "resolvable", l_resolvable, "name: string", "boolean could, boolean private",
		"Whether some rule could allow a flow to the name, and whether a private address would do." },
	{ "bytes", l_bytes, "", "integer", "Memory of the tables." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.tables.Tables", "The decision tables of one policy; immutable.", &tables_type, methods, NULL },
	{ "lattice.tables.Flow", "What is judged; addr is the far end, port the destination's.", NULL, NULL,
		"dir: \"out\"|\"in\", proto: integer, addr: string, port?: integer, names?: string[]" },
	{ "lattice.tables.Verdict", "The answer; rule 0 is the default.", NULL, NULL,
		"verdict: \"allow\"|\"deny\", action: string, rule: integer, where: string, reason?: string" },
	{ 0 },
};

const struct lat_api lat_api_tables = {
	.name = "lattice.tables",
	.doc = "Decision tables: a policy compiled for look-up in nanoseconds.",
	.functions = functions,
	.classes = classes,
	.open = open_tables,
};
