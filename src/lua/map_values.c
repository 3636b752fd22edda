/* Keys and values of maps: bytes here, Lua values there; see map_values.h. */
#include "lua/map_values.h"
#include "lua/api.h"
#include <string.h>

static bool holds_maps(const struct lat_map *m)
{
	return m->type == LAT_MAP_ARRAY_OF_MAPS || m->type == LAT_MAP_HASH_OF_MAPS;
}

/* Leaves the layout of the box at index 1 (a string or nil). */
void lat_map_push_layout(lua_State *L, int box, const char *which)
{
	lua_getiuservalue(L, box, 1);
	lua_getfield(L, -1, which);
	lua_remove(L, -2);
}

void lat_map_push_function(lua_State *L, const char *name)
{
	lua_getglobal(L, "string");
	lua_getfield(L, -1, name);
	lua_remove(L, -2);
}

/* string.pack takes what it needs and says nothing of more. */
static void check_count(lua_State *L, int layout, int count, const char *what)
{
	int top = lua_gettop(L);

	lat_map_push_function(L, "unpack");
	lua_pushvalue(L, layout);
	lua_pushvalue(L, top);
	lua_call(L, 2, LUA_MULTRET);
	if (lua_gettop(L) - top - 1 != count)
		luaL_error(L, "the %s has %d items; its layout has %d", what, count, lua_gettop(L) - top - 1);
	lua_settop(L, top);
}

/* Writes the value at `index` as `size` bytes; throws when it does not fit the layout (at index `layout`). */
void lat_map_encode(lua_State *L, int index, int layout, size_t size, void *out, const char *what)
{
	const char *bytes;
	size_t len;

	index = lua_absindex(L, index);
	if (lua_isnil(L, layout)) {
		if (lua_type(L, index) != LUA_TSTRING)
			luaL_error(L, "the %s must be %d bytes: this map has no layout for it", what, (int)size);
		lua_pushvalue(L, index);
	} else {
		int count = 1;

		lat_map_push_function(L, "pack");
		lua_pushvalue(L, layout);
		if (lua_istable(L, index)) {
			count = (int)luaL_len(L, index);
			luaL_checkstack(L, count + 4, "too many values");
			for (int i = 1; i <= count; i++)
				lua_geti(L, index, i);
		} else {
			lua_pushvalue(L, index);
		}
		lua_call(L, count + 1, 1);
		if (count != 1)
			check_count(L, layout, count, what);
	}
	bytes = lua_tolstring(L, -1, &len);
	if (len != size)
		luaL_error(L, "the %s is %d bytes long; this map's have %d", what, (int)len, (int)size);
	memcpy(out, bytes, size);
	lua_pop(L, 1);
}

/* Pushes the value of these bytes. */
void lat_map_decode(lua_State *L, int layout, const void *bytes, size_t size)
{
	int top = lua_gettop(L), count;

	if (lua_isnil(L, layout)) {
		lua_pushlstring(L, bytes, size);
		return;
	}
	lat_map_push_function(L, "unpack");
	lua_pushvalue(L, layout);
	lua_pushlstring(L, bytes, size);
	lua_call(L, 2, LUA_MULTRET);
	lua_pop(L, 1); /* the position */
	count = lua_gettop(L) - top;
	if (count == 1)
		return;
	lua_createtable(L, count, 0);
	lua_insert(L, top + 1);
	for (int i = count; i >= 1; i--)
		lua_rawseti(L, top + 1, i);
}

/* The value at `index` as value_bytes: a per-CPU map's is a list with one for each CPU, or one for all. */
void lat_map_encode_value(lua_State *L, const struct lat_map *m, int index, int layout, char *out)
{
	size_t step = m->value_bytes / m->cpus;

	memset(out, 0, m->value_bytes);
	if (holds_maps(m)) {
		const struct lat_map *inner = lat_box_check(L, index, &lat_map_box);

		memcpy(out, &inner->fd, sizeof(inner->fd));
		return;
	}
	for (uint32_t cpu = 0; cpu < m->cpus; cpu++) {
		if (m->cpus > 1 && lua_istable(L, index) && luaL_len(L, index) == m->cpus) {
			lua_geti(L, index, (lua_Integer)cpu + 1);
			lat_map_encode(L, -1, layout, m->value_size, out + cpu * step, "value");
			lua_pop(L, 1);
		} else {
			lat_map_encode(L, index, layout, m->value_size, out + cpu * step, "value");
		}
	}
}

int lat_map_push_value(lua_State *L, const struct lat_map *m, int layout, const char *bytes)
{
	size_t step = m->value_bytes / m->cpus;

	if (holds_maps(m)) {
		struct lat_box *box = lat_box_new(L, &lat_map_box);
		struct lat_map *inner;
		uint32_t id;
		int r;

		memcpy(&id, bytes, sizeof(id));
		r = lat_map_by_id(id, &inner);
		if (r < 0)
			return lat_push_errno(L, r, "open a map that is in a map");
		lat_box_fill(L, box, inner);
		lua_newtable(L);
		lua_setiuservalue(L, -2, 1);
		return 1;
	}
	if (m->cpus == 1) {
		lat_map_decode(L, layout, bytes, m->value_size);
		return 1;
	}
	lua_createtable(L, (int)m->cpus, 0);
	for (uint32_t cpu = 0; cpu < m->cpus; cpu++) {
		lat_map_decode(L, layout, bytes + cpu * step, m->value_size);
		lua_rawseti(L, -2, (lua_Integer)cpu + 1);
	}
	return 1;
}
