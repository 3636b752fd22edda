/* See box.h. */
#include "lua/box.h"
#include "lua/runtime_impl.h"
#include <assert.h>
#include <lauxlib.h>

struct lat_box *lat_box_new(lua_State *L, const struct lat_box_type *type)
{
	struct lat_box *box = lua_newuserdatauv(L, sizeof(*box), 1);

	box->type = type;
	box->object = NULL;
	luaL_setmetatable(L, type->name);
	return box;
}

void lat_box_fill(lua_State *L, struct lat_box *box, void *object)
{
	assert(!box->object && object);
	box->object = object;
	lat_rt_of(L)->boxes++;
}

void *lat_box_take(lua_State *L, struct lat_box *box)
{
	void *object = box->object;

	if (object) {
		box->object = NULL;
		lat_rt_of(L)->boxes--;
	}
	return object;
}

void lat_box_close(lua_State *L, struct lat_box *box)
{
	void *object = lat_box_take(L, box);

	if (object)
		box->type->close(object);
}

struct lat_box *lat_box_any(lua_State *L, int index, const struct lat_box_type *type)
{
	return luaL_checkudata(L, index, type->name);
}

void *lat_box_check(lua_State *L, int index, const struct lat_box_type *type)
{
	struct lat_box *box = lat_box_any(L, index, type);

	if (!box->object)
		luaL_argerror(L, index, lua_pushfstring(L, "this %s is closed", type->name));
	return box->object;
}

/* Upvalue 1 is the type's name, so that a finalizer called by hand on another value is refused. */
static int box_close(lua_State *L)
{
	lat_box_close(L, luaL_checkudata(L, 1, lua_tostring(L, lua_upvalueindex(1))));
	return 0;
}

void lat_box_metatable(lua_State *L, const struct lat_box_type *type)
{
	static const char *const names[] = { "__gc", "__close" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		lua_pushstring(L, type->name);
		lua_pushcclosure(L, box_close, 1);
		lua_setfield(L, -2, names[i]);
	}
	lua_pushliteral(L, "locked");
	lua_setfield(L, -2, "__metatable");
	if (lua_getfield(L, -1, "__index") == LUA_TTABLE) {
		lua_pushstring(L, type->name);
		lua_pushcclosure(L, box_close, 1);
		lua_setfield(L, -2, "close");
	}
	lua_pop(L, 1);
}

void lat_box_register(lua_State *L, const struct lat_box_type *type)
{
	if (luaL_newmetatable(L, type->name))
		lat_box_metatable(L, type);
	lua_pop(L, 1);
}
