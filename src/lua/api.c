/* Opens the modules of api.h, and the Lua C libraries that we ship with. */
#include "lua/api.h"
#include "lua/runtime_impl.h"
#include <string.h>

int luaopen_lpeg(lua_State *L);

#define LAT_API_ROW(name) &lat_api_##name,
const struct lat_api *const lat_apis[] = { LAT_API_MODULES(LAT_API_ROW) NULL };

static void set_functions(lua_State *L, const struct lat_api_function *f)
{
	for (; f && f->name; f++) {
		lua_pushcfunction(L, f->call);
		lua_setfield(L, -2, f->name);
	}
}

static int open_module(lua_State *L)
{
	const struct lat_api *api = lua_touserdata(L, lua_upvalueindex(1));

	for (const struct lat_api_class *c = api->classes; c && c->name; c++) {
		if (!c->box || !luaL_newmetatable(L, c->box->name))
			continue;
		lua_newtable(L);
		set_functions(L, c->methods);
		lua_setfield(L, -2, "__index");
		lat_box_metatable(L, c->box);
		lua_pop(L, 1);
	}
	lua_newtable(L);
	set_functions(L, api->functions);
	if (api->open) {
		int top = lua_gettop(L);

		api->open(L);
		lua_settop(L, top);
	}
	return 1;
}

bool lat_api_push_opener(lua_State *L, const char *name)
{
	bool trusted = lat_rt_kind(lat_rt_of(L)) == LAT_RT_TRUSTED;

	for (const struct lat_api *const *api = lat_apis; *api; api++) {
		if (strcmp((*api)->name, name) != 0 || !(trusted || (*api)->pure))
			continue;
		lua_pushlightuserdata(L, (void *)*api);
		lua_pushcclosure(L, open_module, 1);
		return true;
	}
	if (strcmp(name, "lpeg") == 0) {
		lua_pushcfunction(L, luaopen_lpeg);
		return true;
	}
	if (trusted && strcmp(name, "luv") == 0) {
		lua_pushcfunction(L, lat_open_luv);
		return true;
	}
	return false;
}
