/* lattice.map: BPF maps with typed keys and values. A layout is what string.pack takes ("I4", ">I2 c16"); one item is a plain
 * value, several are a list. Without a layout keys and values are bytes. The layouts are in the box's user value. */
#include "lua/api.h"
#include "kernel/map.h"
#include "lua/l_map.h"
#include "lua/map_values.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void close_map(void *object)
{
	lat_map_free(object);
}

const struct lat_box_type lat_map_box = { "lattice.map.Map", close_map };

static const char *const type_names[] = { "hash", "lru", "lpm", "array", "percpu_array", "percpu_hash", "array_of_maps",
	"hash_of_maps", "ring", NULL };

static struct lat_map *check(lua_State *L)
{
	return lat_box_check(L, 1, &lat_map_box);
}

/* ---- making ---- */

static void set_layouts(lua_State *L, int layouts)
{
	static const char *const names[] = { "key", "value" };

	lua_createtable(L, 0, 2);
	for (int i = 0; layouts && i < 2; i++) {
		lua_getfield(L, layouts, names[i]);
		if (!lua_isnil(L, -1) && lua_type(L, -1) != LUA_TSTRING)
			luaL_error(L, "'%s' must be a layout as string.pack takes it", names[i]);
		lua_setfield(L, -2, names[i]);
	}
	lua_setiuservalue(L, -2, 1);
}

int lat_lua_push_map(lua_State *L, int fd, int layouts)
{
	struct lat_box *box = lat_box_new(L, &lat_map_box);
	struct lat_map *m;
	int r = lat_map_from_fd(fd, &m);

	if (r < 0) {
		close(fd);
		return lat_push_errno(L, r, "open a map");
	}
	lat_box_fill(L, box, m);
	set_layouts(L, layouts);
	return 1;
}

static lua_Integer integer_field(lua_State *L, const char *key, lua_Integer fallback)
{
	lua_Integer value = fallback;
	int is = 1;

	if (lua_getfield(L, 1, key) != LUA_TNIL)
		value = lua_tointegerx(L, -1, &is);
	if (!is || value < 0 || value > INT32_MAX)
		luaL_argerror(L, 1, lua_pushfstring(L, "'%s' must be a count", key));
	lua_pop(L, 1);
	return value;
}

/* The size that a layout packs, or what the field says. */
static uint32_t size_field(lua_State *L, const char *layout, const char *size)
{
	lua_Integer n = integer_field(L, size, 0);

	if (lua_getfield(L, 1, layout) == LUA_TSTRING) {
		lat_map_push_function(L, "packsize");
		lua_pushvalue(L, -2);
		lua_call(L, 1, 1);
		n = lua_tointeger(L, -1);
		lua_pop(L, 1);
	}
	lua_pop(L, 1);
	return (uint32_t)n;
}

static int l_create(lua_State *L)
{
	struct lat_map_spec spec = { .inner_fd = -1 };
	bool indexed;
	struct lat_box *box;
	struct lat_map *m;
	int r;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	lua_getfield(L, 1, "type");
	spec.type = (uint8_t)luaL_checkoption(L, 2, NULL, type_names);
	lua_getfield(L, 1, "name");
	spec.name = luaL_optstring(L, 3, NULL);
	spec.entries = (uint32_t)integer_field(L, "entries", 0);
	spec.key_size = size_field(L, "key", "key_size");
	spec.value_size = size_field(L, "value", "value_size");
	if (spec.type == LAT_MAP_ARRAY_OF_MAPS || spec.type == LAT_MAP_HASH_OF_MAPS) {
		lua_getfield(L, 1, "inner");
		spec.inner_fd = ((struct lat_map *)lat_box_check(L, -1, &lat_map_box))->fd; /* the table at 1 holds it */
		lua_pop(L, 1);
		spec.value_size = 4;
	}
	indexed = spec.type == LAT_MAP_ARRAY || spec.type == LAT_MAP_PERCPU_ARRAY || spec.type == LAT_MAP_ARRAY_OF_MAPS;
	if (indexed)
		spec.key_size = 4;
	box = lat_box_new(L, &lat_map_box);
	r = lat_map_create(&spec, &m);
	if (r < 0)
		return lat_push_errno(L, r, "make a BPF map");
	lat_box_fill(L, box, m);
	set_layouts(L, 1);
	lua_getiuservalue(L, -1, 1);
	if (indexed && lua_getfield(L, -1, "key") == LUA_TNIL) { /* an array's key is what it is */
		lua_pushliteral(L, "I4");
		lua_setfield(L, -3, "key");
	}
	lua_pushvalue(L, 4);
	return 1;
}

static int l_pinned(lua_State *L)
{
	const char *path = luaL_checkstring(L, 1);
	struct lat_box *box;
	struct lat_map *m;
	int r;

	if (!lua_isnoneornil(L, 2))
		luaL_checktype(L, 2, LUA_TTABLE);
	box = lat_box_new(L, &lat_map_box);
	r = lat_map_pinned(path, &m);
	if (r < 0)
		return lat_push_errno(L, r, lua_pushfstring(L, "open the map at %s", path));
	lat_box_fill(L, box, m);
	set_layouts(L, lua_istable(L, 2) ? 2 : 0);
	return 1;
}

/* ---- one entry ---- */

static int l_get(lua_State *L)
{
	struct lat_map *m = check(L);
	char *key, *value;
	int r;

	lua_settop(L, 2);
	lat_map_push_layout(L, 1, "key");
	lat_map_push_layout(L, 1, "value");
	key = lua_newuserdatauv(L, m->key_size + m->value_bytes + 8, 0);
	value = key + m->key_size;
	lat_map_encode(L, 2, 3, m->key_size, key, "key");
	r = lat_map_get(m, key, value);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return lat_push_errno(L, r, "look up an entry");
	return lat_map_push_value(L, m, 4, value);
}

static int l_set(lua_State *L)
{
	static const char *const hows[] = { "any", "new", "existing", NULL };
	struct lat_map *m = check(L);
	int how = luaL_checkoption(L, 4, "any", hows), r;
	char *key;

	lua_settop(L, 3);
	lat_map_push_layout(L, 1, "key");
	lat_map_push_layout(L, 1, "value");
	key = lua_newuserdatauv(L, m->key_size + m->value_bytes + 8, 0);
	lat_map_encode(L, 2, 4, m->key_size, key, "key");
	lat_map_encode_value(L, m, 3, 5, key + m->key_size);
	r = lat_map_set(m, key, key + m->key_size, (enum lat_map_how)how);
	if (r < 0)
		return lat_push_errno(L, r, "set an entry");
	lua_pushboolean(L, true);
	return 1;
}

static int l_delete(lua_State *L)
{
	struct lat_map *m = check(L);
	char *key;
	int r;

	lua_settop(L, 2);
	lat_map_push_layout(L, 1, "key");
	key = lua_newuserdatauv(L, m->key_size + 1, 0);
	lat_map_encode(L, 2, 3, m->key_size, key, "key");
	r = lat_map_delete(m, key);
	if (r < 0 && r != -ENOENT)
		return lat_push_errno(L, r, "delete an entry");
	lua_pushboolean(L, r == 0);
	return 1;
}

/* ---- many ---- */

/* Upvalues: the box, a buffer with the last key and room for a value, steps done (-1: before the first). More steps than a
 * map twice as large has: it is changed while it is walked, and the walk ends. */
static int next_entry(lua_State *L)
{
	struct lat_map *m = lat_box_check(L, lua_upvalueindex(1), &lat_map_box);
	char *key = lua_touserdata(L, lua_upvalueindex(2)), *value = key + m->key_size;
	lua_Integer steps = lua_tointeger(L, lua_upvalueindex(3));
	int r;

	lua_settop(L, 0);
	lua_pushvalue(L, lua_upvalueindex(1));
	lat_map_push_layout(L, 1, "key");
	lat_map_push_layout(L, 1, "value");
	do {
		r = steps >= 2 * (lua_Integer)m->entries + 16 ? -ENOENT : lat_map_next(m, steps < 0 ? NULL : key, key);
		steps = steps < 0 ? 1 : steps + 1;
		if (r == 0)
			r = lat_map_get(m, key, value);
		else if (r == -ENOENT)
			return 0;
	} while (r == -ENOENT); /* deleted in between */
	if (r < 0)
		return luaL_error(L, "walk a map: %s", strerror(-r));
	lua_pushinteger(L, steps);
	lua_replace(L, lua_upvalueindex(3));
	lat_map_decode(L, 2, key, m->key_size);
	return 1 + lat_map_push_value(L, m, 3, value);
}

static int l_each(lua_State *L)
{
	struct lat_map *m = check(L);

	lua_settop(L, 1);
	lua_newuserdatauv(L, m->key_size + m->value_bytes + 8, 0);
	lua_pushinteger(L, -1);
	lua_pushcclosure(L, next_entry, 3);
	return 1;
}

/* Leaves a buffer with keys and values of the list { { key, value }, ... } at index 2; stack: 1 box, 2 list. */
static uint32_t encode_list(lua_State *L, const struct lat_map *m, char **keys, char **values)
{
	size_t n;

	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 2);
	n = (size_t)luaL_len(L, 2);
	luaL_argcheck(L, n <= UINT32_MAX / 2, 2, "too many entries");
	lat_map_push_layout(L, 1, "key");
	lat_map_push_layout(L, 1, "value");
	*keys = lua_newuserdatauv(L, n * m->key_size + 8, 0);
	*values = lua_newuserdatauv(L, n * m->value_bytes + 8, 0);
	for (size_t i = 0; i < n; i++) {
		luaL_argcheck(L, lua_geti(L, 2, (lua_Integer)i + 1) == LUA_TTABLE, 2, "a list of { key, value } expected");
		lua_geti(L, 7, 1);
		lua_geti(L, 7, 2);
		lat_map_encode(L, 8, 3, m->key_size, *keys + i * m->key_size, "key");
		lat_map_encode_value(L, m, 9, 4, *values + i * m->value_bytes);
		lua_settop(L, 6);
	}
	return (uint32_t)n;
}

static int write_list(lua_State *L, int (*write)(const struct lat_map *, const void *, const void *, uint32_t), const char *tried)
{
	struct lat_map *m = check(L);
	char *keys, *values;
	uint32_t n = encode_list(L, m, &keys, &values);
	int r = write(m, keys, values, n);

	if (r < 0)
		return lat_push_errno(L, r, tried);
	lua_pushinteger(L, r);
	return 1;
}

static int l_update(lua_State *L)
{
	return write_list(L, lat_map_update, "set entries");
}

static int l_replace(lua_State *L)
{
	int pushed = write_list(L, lat_map_replace, "replace the entries");

	if (pushed == 1) /* there is no count */
		lua_pushboolean(L, true);
	return pushed;
}

/* ---- the map itself ---- */

static int result(lua_State *L, int r, const char *tried)
{
	if (r < 0)
		return lat_push_errno(L, r, tried);
	lua_pushboolean(L, true);
	return 1;
}

static int l_freeze(lua_State *L)
{
	return result(L, lat_map_freeze(check(L)), "freeze a map");
}

static int l_pin(lua_State *L)
{
	struct lat_map *m = check(L);
	const char *path = luaL_checkstring(L, 2);

	return result(L, lat_map_pin(m, path), lua_pushfstring(L, "pin a map at %s", path));
}

static int l_fd(lua_State *L)
{
	int fd = fcntl(check(L)->fd, F_DUPFD_CLOEXEC, 3);

	if (fd < 0)
		return lat_push_errno(L, errno, "duplicate a map's descriptor");
	lua_pushinteger(L, fd);
	return 1;
}

static int l_info(lua_State *L)
{
	struct lat_map *m = check(L);

	lua_createtable(L, 0, 7);
	lua_pushstring(L, m->type < LAT_MAP_OTHER ? type_names[m->type] : "other");
	lua_setfield(L, -2, "type");
	lua_pushstring(L, m->name);
	lua_setfield(L, -2, "name");
	lua_pushinteger(L, m->id);
	lua_setfield(L, -2, "id");
	lua_pushinteger(L, m->key_size);
	lua_setfield(L, -2, "key_size");
	lua_pushinteger(L, m->value_size);
	lua_setfield(L, -2, "value_size");
	lua_pushinteger(L, m->entries);
	lua_setfield(L, -2, "entries");
	lua_pushinteger(L, m->cpus);
	lua_setfield(L, -2, "cpus");
	return 1;
}

static const struct lat_api_function functions[] = {
	{ "create", l_create,
		"spec: { type: \"hash\"|\"lru\"|\"lpm\"|\"array\"|\"percpu_array\"|\"percpu_hash\"|\"array_of_maps\"|"
		"\"hash_of_maps\"|\"ring\", name?: string, key?: string, value?: string, key_size?: integer, "
		"value_size?: integer, entries: integer, inner?: lattice.map.Map }",
		"lattice.map.Map?, string? error, (string|integer)? code",
		"Make a BPF map. key, value: layouts as string.pack takes them (or sizes: then they are bytes); inner: a map like "
		"those that will be in it; entries of a ring: its bytes, a power of two. Pro." },
	{ "pinned", l_pinned, "path: string, layouts?: { key?: string, value?: string }",
		"lattice.map.Map?, string? error, (string|integer)? code", "Open the map that is pinned at a path. Pro." },
	{ 0 },
};

static const struct lat_api_function methods[] = {
	{ "get", l_get, "key: any", "any value, string? error, string? code",
		"The value of a key, nil without an error: there is none. Per CPU: a list; of maps: a Map." },
	{ "set", l_set, "key: any, value: any, how?: \"any\"|\"new\"|\"existing\"", "boolean?, string? error, string? code",
		"Set an entry." },
	{ "delete", l_delete, "key: any", "boolean? was_there, string? error, string? code", "Delete an entry." },
	{ "each", l_each, "", "fun(): any, any", "Walk all entries: for key, value in map:each()." },
	{ "update", l_update, "entries: any[][]", "integer? set, string? error, string? code",
		"Set many entries, each { key, value }, in one call where the kernel can." },
	{ "replace", l_replace, "entries: any[][]", "boolean?, string? error, string? code",
		"Make these the map's entries: all are set, then every other one is deleted." },
	{ "freeze", l_freeze, "", "boolean?, string? error, string? code", "No more changes by system calls." },
	{ "pin", l_pin, "path: string", "boolean?, string? error, string? code",
		"Make it outlive its users at a path on a bpffs; os.remove(path) ends that." },
	{ "fd", l_fd, "", "integer?, string? error, string? code", "A descriptor of it for the caller (Source:ring)." },
	{ "info", l_info, "",
		"{ type: string, name: string, id: integer, key_size: integer, value_size: integer, entries: integer, "
		"cpus: integer }",
		"What it is." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.map.Map", "A BPF map; it goes with its last user.", &lat_map_box, methods, NULL },
	{ 0 },
};

const struct lat_api lat_api_map = {
	.name = "lattice.map",
	.doc = "BPF maps with typed keys and values (pro).",
	.functions = functions,
	.classes = classes,
};
