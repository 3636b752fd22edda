/* lattice.caps: what this kernel lets this caller do, by kernel/caps.h and core/trap_caps.h. */
#include "lua/api.h"
#include "core/preload_caps.h"
#include "core/trap_caps.h"
#include <string.h>

#define DEFAULT_MS 3000

static const struct lat_cap_test *const lists[] = { lat_kernel_caps, lat_trap_caps, lat_preload_caps };

static int l_names(lua_State *L)
{
	lua_Integer n = 0;

	lua_newtable(L);
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		for (const struct lat_cap_test *t = lists[i]; t->name; t++) {
			lua_pushstring(L, t->name);
			lua_rawseti(L, -2, ++n);
		}
	}
	return 1;
}

static const struct lat_cap_test *find(const char *name)
{
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
		for (const struct lat_cap_test *t = lists[i]; t->name; t++)
			if (strcmp(t->name, name) == 0)
				return t;
	return NULL;
}

static int l_probe(lua_State *L)
{
	const struct lat_cap_test *test = find(luaL_checkstring(L, 1));
	lua_Integer ms = luaL_optinteger(L, 2, DEFAULT_MS);
	struct lat_cap cap;
	int r;

	luaL_argcheck(L, test, 1, "no such probe");
	luaL_argcheck(L, ms > 0 && ms <= 60000, 2, "milliseconds expected");
	r = lat_cap_try(test->probe, (int)ms, &cap);
	if (r < 0)
		return lat_push_errno(L, r, "start a probe");
	lua_createtable(L, 0, 4);
	lua_pushboolean(L, cap.error == 0);
	lua_setfield(L, -2, "ok");
	lua_pushstring(L, cap.detail);
	lua_setfield(L, -2, "detail");
	if (cap.error) {
		lua_pushstring(L, strerrorname_np(cap.error));
		lua_setfield(L, -2, "code");
		lua_pushstring(L, strerror(cap.error));
		lua_setfield(L, -2, "error");
	}
	return 1;
}

static const struct lat_api_function functions[] = {
	{ "names", l_names, "", "string[]", "The probes, in the order in which they make sense." },
	{ "probe", l_probe, "name: string, timeout_ms?: integer",
		"lattice.caps.Result?, string? error, string? code",
		"Try one thing in a child process and undo it." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.caps.Result", "What a probe found.", NULL, NULL,
		"ok: boolean, detail: string, code?: string, error?: string" },
	{ 0 },
};

const struct lat_api lat_api_caps = {
	.name = "lattice.caps",
	.doc = "What this kernel lets this caller do, found by doing it.",
	.functions = functions,
	.classes = classes,
};
