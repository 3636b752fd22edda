/* lattice.api: the table of api.h as Lua data, for stubs, lint names and help; and counts for leak tests. */
#include "lua/api.h"
#include "lua/embed.h"
#include "lua/runtime_impl.h"

static void set_string(lua_State *L, const char *key, const char *value)
{
	lua_pushstring(L, value ? value : "");
	lua_setfield(L, -2, key);
}

static void push_functions(lua_State *L, const struct lat_api_function *f)
{
	int n = 0;

	lua_newtable(L);
	for (; f && f->name; f++) {
		lua_newtable(L);
		set_string(L, "name", f->name);
		set_string(L, "params", f->params);
		set_string(L, "returns", f->returns);
		set_string(L, "doc", f->doc);
		lua_rawseti(L, -2, ++n);
	}
}

static void push_classes(lua_State *L, const struct lat_api_class *c)
{
	int n = 0;

	lua_newtable(L);
	for (; c && c->name; c++) {
		lua_newtable(L);
		set_string(L, "name", c->name);
		set_string(L, "doc", c->doc);
		set_string(L, "fields", c->fields);
		lua_pushboolean(L, c->box != NULL);
		lua_setfield(L, -2, "box");
		push_functions(L, c->methods);
		lua_setfield(L, -2, "methods");
		lua_rawseti(L, -2, ++n);
	}
}

static void push_fields(lua_State *L, const struct lat_api_field *f)
{
	int n = 0;

	lua_newtable(L);
	for (; f && f->name; f++) {
		lua_newtable(L);
		set_string(L, "name", f->name);
		set_string(L, "type", f->type);
		set_string(L, "doc", f->doc);
		lua_rawseti(L, -2, ++n);
	}
}

static int list(lua_State *L)
{
	int n = 0;

	lua_newtable(L);
	for (const struct lat_api *const *api = lat_apis; *api; api++) {
		lua_newtable(L);
		set_string(L, "name", (*api)->name);
		set_string(L, "doc", (*api)->doc);
		push_functions(L, (*api)->functions);
		lua_setfield(L, -2, "functions");
		push_classes(L, (*api)->classes);
		lua_setfield(L, -2, "classes");
		push_fields(L, (*api)->fields);
		lua_setfield(L, -2, "fields");
		lua_rawseti(L, -2, ++n);
	}
	return 1;
}

static int modules(lua_State *L)
{
	lua_createtable(L, (int)lat_embedded_count, 0);
	for (size_t i = 0; i < lat_embedded_count; i++) {
		lua_pushstring(L, lat_embedded[i].name);
		lua_rawseti(L, -2, (lua_Integer)i + 1);
	}
	return 1;
}

static int has_module(lua_State *L)
{
	lua_pushboolean(L, lat_embedded_find(luaL_checkstring(L, 1)) != NULL);
	return 1;
}

static int text(lua_State *L)
{
	const struct lat_embedded *e = lat_embedded_find(luaL_checkstring(L, 1));

	if (!e) {
		lua_pushnil(L);
		lua_pushfstring(L, "nothing named '%s' is in the binary", lua_tostring(L, 1));
		lua_pushliteral(L, "ENOENT");
		return 3;
	}
	lua_pushlstring(L, e->text, e->len);
	return 1;
}

static int boxes(lua_State *L)
{
	lua_pushinteger(L, (lua_Integer)lat_rt_boxes(lat_rt_of(L)));
	return 1;
}

static int memory(lua_State *L)
{
	lua_pushinteger(L, (lua_Integer)lat_rt_memory(lat_rt_of(L)));
	return 1;
}

static int where(lua_State *L)
{
	lua_pushstring(L, lat_rt_of(L)->where);
	return 1;
}

static const struct lat_api_function functions[] = {
	{ "list", list, "", "table[]",
		"Every C module: { name, doc, functions, classes, fields }, as registered." },
	{ "modules", modules, "", "string[]",
		"Names of everything compiled in: Lua modules, and files as \"policies/NAME.lua\"; sorted." },
	{ "has_module", has_module, "name: string", "boolean", "Whether that name is compiled in." },
	{ "text", text, "name: string", "string? text, string? error, string? code",
		"The text of something compiled in." },
	{ "boxes", boxes, "", "integer", "How many boxes of this state hold something now." },
	{ "memory", memory, "", "integer", "Bytes that this state holds now." },
	{ "where", where, "", "string",
		"The Lua line at which a limit was last met, as \"file:line\"; \"\" if none was." },
	{ 0 },
};

const struct lat_api lat_api_api = {
	.name = "lattice.api",
	.doc = "What the C modules offer, and what this state holds.",
	.functions = functions,
	.pure = true,
};
