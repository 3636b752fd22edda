/* lattice.map: BPF maps with typed keys and values. A layout is what string.pack takes ("I4", ">I2 c16"); one item is a plain
 * value, several are a list. Without a layout keys and values are bytes. The layouts are in the box's user value. */
#include "lua/api.h"
#include "kernel/map.h"
#include "lua/l_map.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void close_map(void *object)
{
	lat_map_free(object);
}

static const struct lat_box_type map_type = { "lattice.map.Map", close_map };

static const char *const type_names[] = { "hash", "lru", "lpm", "array", "percpu_array", "percpu_hash", "array_of_maps",
	"hash_of_maps", "ring", NULL };

static struct lat_map *check(lua_State *L)
{
	return lat_box_check(L, 1, &map_type);
}

static bool holds_maps(const struct lat_map *m)
{
	return m->type == LAT_MAP_ARRAY_OF_MAPS || m->type == LAT_MAP_HASH_OF_MAPS;
}

/* ---- bytes and values ---- */

/* Leaves the layout of the box at index 1 (a string or nil). */
static void push_layout(lua_State *L, int box, const char *which)
{
	lua_getiuservalue(L, box, 1);
	lua_getfield(L, -1, which);
	lua_remove(L, -2);
}

static void push_string_function(lua_State *L, const char *name)
{
	lua_getglobal(L, "string");
	lua_getfield(L, -1, name);
	lua_remove(L, -2);
}

/* string.pack takes what it needs and says nothing of more. */
static void check_count(lua_State *L, int layout, int count, const char *what)
{
	int top = lua_gettop(L);

	push_string_function(L, "unpack");
	lua_pushvalue(L, layout);
	lua_pushvalue(L, top);
	lua_call(L, 2, LUA_MULTRET);
	if (lua_gettop(L) - top - 1 != count)
		luaL_error(L, "the %s has %d items; its layout has %d", what, count, lua_gettop(L) - top - 1);
	lua_settop(L, top);
}

/* Writes the value at `index` as `size` bytes; throws when it does not fit the layout (at index `layout`). */
static void encode(lua_State *L, int index, int layout, size_t size, void *out, const char *what)
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

		push_string_function(L, "pack");
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
static void decode(lua_State *L, int layout, const void *bytes, size_t size)
{
	int top = lua_gettop(L), count;

	if (lua_isnil(L, layout)) {
		lua_pushlstring(L, bytes, size);
		return;
	}
	push_string_function(L, "unpack");
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
static void encode_value(lua_State *L, const struct lat_map *m, int index, int layout, char *out)
{
	size_t step = m->value_bytes / m->cpus;

	memset(out, 0, m->value_bytes);
	if (holds_maps(m)) {
		const struct lat_map *inner = lat_box_check(L, index, &map_type);

		memcpy(out, &inner->fd, sizeof(inner->fd));
		return;
	}
	for (uint32_t cpu = 0; cpu < m->cpus; cpu++) {
		if (m->cpus > 1 && lua_istable(L, index) && luaL_len(L, index) == m->cpus) {
			lua_geti(L, index, (lua_Integer)cpu + 1);
			encode(L, -1, layout, m->value_size, out + cpu * step, "value");
			lua_pop(L, 1);
		} else {
			encode(L, index, layout, m->value_size, out + cpu * step, "value");
		}
	}
}

static int push_value(lua_State *L, const struct lat_map *m, int layout, const char *bytes)
{
	size_t step = m->value_bytes / m->cpus;

	if (holds_maps(m)) {
		struct lat_box *box = lat_box_new(L, &map_type);
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
		decode(L, layout, bytes, m->value_size);
		return 1;
	}
	lua_createtable(L, (int)m->cpus, 0);
	for (uint32_t cpu = 0; cpu < m->cpus; cpu++) {
		decode(L, layout, bytes + cpu * step, m->value_size);
		lua_rawseti(L, -2, (lua_Integer)cpu + 1);
	}
	return 1;
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
	struct lat_box *box = lat_box_new(L, &map_type);
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
		push_string_function(L, "packsize");
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
		spec.inner_fd = ((struct lat_map *)lat_box_check(L, -1, &map_type))->fd; /* the table at 1 holds it */
		lua_pop(L, 1);
		spec.value_size = 4;
	}
	indexed = spec.type == LAT_MAP_ARRAY || spec.type == LAT_MAP_PERCPU_ARRAY || spec.type == LAT_MAP_ARRAY_OF_MAPS;
	if (indexed)
		spec.key_size = 4;
	box = lat_box_new(L, &map_type);
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
	box = lat_box_new(L, &map_type);
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
	push_layout(L, 1, "key");
	push_layout(L, 1, "value");
	key = lua_newuserdatauv(L, m->key_size + m->value_bytes + 8, 0);
	value = key + m->key_size;
	encode(L, 2, 3, m->key_size, key, "key");
	r = lat_map_get(m, key, value);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return lat_push_errno(L, r, "look up an entry");
	return push_value(L, m, 4, value);
}

static int l_set(lua_State *L)
{
	static const char *const hows[] = { "any", "new", "existing", NULL };
	struct lat_map *m = check(L);
	int how = luaL_checkoption(L, 4, "any", hows), r;
	char *key;

	lua_settop(L, 3);
	push_layout(L, 1, "key");
	push_layout(L, 1, "value");
	key = lua_newuserdatauv(L, m->key_size + m->value_bytes + 8, 0);
	encode(L, 2, 4, m->key_size, key, "key");
	encode_value(L, m, 3, 5, key + m->key_size);
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
	push_layout(L, 1, "key");
	key = lua_newuserdatauv(L, m->key_size + 1, 0);
	encode(L, 2, 3, m->key_size, key, "key");
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
	struct lat_map *m = lat_box_check(L, lua_upvalueindex(1), &map_type);
	char *key = lua_touserdata(L, lua_upvalueindex(2)), *value = key + m->key_size;
	lua_Integer steps = lua_tointeger(L, lua_upvalueindex(3));
	int r;

	lua_settop(L, 0);
	lua_pushvalue(L, lua_upvalueindex(1));
	push_layout(L, 1, "key");
	push_layout(L, 1, "value");
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
	decode(L, 2, key, m->key_size);
	return 1 + push_value(L, m, 3, value);
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
	push_layout(L, 1, "key");
	push_layout(L, 1, "value");
	*keys = lua_newuserdatauv(L, n * m->key_size + 8, 0);
	*values = lua_newuserdatauv(L, n * m->value_bytes + 8, 0);
	for (size_t i = 0; i < n; i++) {
		luaL_argcheck(L, lua_geti(L, 2, (lua_Integer)i + 1) == LUA_TTABLE, 2, "a list of { key, value } expected");
		lua_geti(L, 7, 1);
		lua_geti(L, 7, 2);
		encode(L, 8, 3, m->key_size, *keys + i * m->key_size, "key");
		encode_value(L, m, 9, 4, *values + i * m->value_bytes);
		lua_settop(L, 6);
	}
	return (uint32_t)n;
}

static int l_update(lua_State *L)
{
	struct lat_map *m = check(L);
	char *keys, *values;
	uint32_t n = encode_list(L, m, &keys, &values);
	int r = lat_map_update(m, keys, values, n);

	if (r < 0)
		return lat_push_errno(L, r, "set entries");
	lua_pushinteger(L, r);
	return 1;
}

static int l_replace(lua_State *L)
{
	struct lat_map *m = check(L);
	char *keys, *values;
	uint32_t n = encode_list(L, m, &keys, &values);
	int r = lat_map_replace(m, keys, values, n);

	if (r < 0)
		return lat_push_errno(L, r, "replace the entries");
	lua_pushboolean(L, true);
	return 1;
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
	{ "lattice.map.Map", "A BPF map; it goes with its last user.", &map_type, methods, NULL },
	{ 0 },
};

const struct lat_api lat_api_map = {
	.name = "lattice.map",
	.doc = "BPF maps with typed keys and values (pro).",
	.functions = functions,
	.classes = classes,
};
