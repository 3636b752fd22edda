/* lattice.cgroup: groups of processes and their limits, by kernel/cgroup.h. */
#include "lua/l_cgroup.h"
#include "lua/api.h"
#include <errno.h>
#include <stdio.h>

#define KILL_MS 10000

static void close_group(void *object)
{
	lat_cgroup_close(object);
}

static const struct lat_box_type group_type = { "lattice.cgroup.Group", close_group };

struct lat_cgroup *lat_lua_check_cgroup(lua_State *L, int index)
{
	return lat_box_check(L, index, &group_type);
}

static struct lat_cgroup *self(lua_State *L)
{
	return lat_lua_check_cgroup(L, 1);
}

/* limits[key] at the top of the stack, a whole number times `unit`; 0 if it is not there. */
static uint64_t amount(lua_State *L, const char *key, double unit, lua_Integer least)
{
	lua_Number n = 0;
	bool there = lua_getfield(L, -1, key) != LUA_TNIL;

	if (there) {
		n = luaL_checknumber(L, -1) * unit;
		if (!(n >= (lua_Number)least && n < 9e18))
			luaL_error(L, "limit %s: %s is out of range", key, luaL_tolstring(L, -1, NULL));
	}
	lua_pop(L, 1);
	return (uint64_t)n;
}

static void read_limits(lua_State *L, struct lat_cgroup_limits *l)
{
	static const char *const known[] = { "memory", "swap", "cpu", "io", "io_read", "io_write", "pids", NULL };

	for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
		lua_pushvalue(L, -2);
		luaL_checkoption(L, -1, NULL, known);
		lua_pop(L, 1);
	}
	l->memory = amount(L, "memory", 1, 1);
	l->swap = amount(L, "swap", 1, 0);
	l->no_swap = l->swap == 0 && lua_getfield(L, -1, "swap") != LUA_TNIL;
	if (l->swap == 0)
		lua_pop(L, 1);
	l->cpu = amount(L, "cpu", 1000, 1);
	l->io_read = l->io_write = amount(L, "io", 1, 1);
	if (!l->io_read) {
		l->io_read = amount(L, "io_read", 1, 1);
		l->io_write = amount(L, "io_write", 1, 1);
	}
	l->pids = amount(L, "pids", 1, 1);
}

static int l_make(lua_State *L)
{
	struct lat_cgroup_options o = { 0 };
	struct lat_cgroup *group;
	char say[LAT_CGROUP_SAY];
	struct lat_box *box;
	int r;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	if (lua_getfield(L, 1, "limits") != LUA_TNIL) {
		luaL_checktype(L, -1, LUA_TTABLE);
		read_limits(L, &o.limits);
	}
	lua_getfield(L, 1, "programs");
	o.programs = lua_toboolean(L, -1);
	lua_getfield(L, 1, "unique");
	o.unique = lua_toboolean(L, -1);
	lua_getfield(L, 1, "name");
	o.name = luaL_checkstring(L, -1);
	box = lat_box_new(L, &group_type);
	r = lat_cgroup_make(&o, &group, say);
	if (r == 0) {
		lat_box_fill(L, box, group);
		return 1;
	}
	lat_push_errno(L, r, "make a group");
	lua_pushstring(L, say);
	lua_replace(L, -3);
	return 3;
}

static int l_join(lua_State *L)
{
	struct lat_cgroup *group = self(L);
	lua_Integer pid = luaL_checkinteger(L, 2);
	int r;

	luaL_argcheck(L, pid > 0 && pid <= 1 << 22, 2, "no process id");
	r = lat_cgroup_join(group, (pid_t)pid);
	if (r < 0)
		return lat_push_errno(L, r, lua_pushfstring(L, "put process %I into %s", pid, lat_cgroup_path_at(group, 0)));
	lua_pushboolean(L, 1);
	return 1;
}

static int l_path(lua_State *L)
{
	lua_pushstring(L, lat_cgroup_path(self(L)));
	return 1;
}

static int l_paths(lua_State *L)
{
	struct lat_cgroup *group = self(L);
	const char *path;

	lua_newtable(L);
	for (unsigned i = 0; (path = lat_cgroup_path_at(group, i)) != NULL; i++) {
		lua_pushstring(L, path);
		lua_seti(L, -2, i + 1);
	}
	return 1;
}

static int l_id(lua_State *L)
{
	uint64_t id = lat_cgroup_id(self(L));
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)id);
	lua_pushstring(L, id ? text : NULL);
	return 1;
}

static void put(lua_State *L, const char *key, uint64_t value)
{
	if (value == UINT64_MAX)
		return;
	lua_pushinteger(L, (lua_Integer)value);
	lua_setfield(L, -2, key);
}

static int l_usage(lua_State *L)
{
	struct lat_cgroup_usage u;

	lat_cgroup_usage(self(L), &u);
	lua_newtable(L);
	put(L, "cpu_ns", u.cpu_ns);
	put(L, "memory", u.memory);
	put(L, "memory_peak", u.memory_peak);
	put(L, "pids", u.pids);
	put(L, "io_read", u.io_read);
	put(L, "io_write", u.io_write);
	return 1;
}

static int l_events(lua_State *L)
{
	struct lat_cgroup_usage u;

	lat_cgroup_events(self(L), &u);
	lua_newtable(L);
	put(L, "oom_kills", u.oom_kills);
	put(L, "pids_refused", u.pids_refused);
	put(L, "throttled", u.throttled);
	put(L, "throttled_ns", u.throttled_ns);
	return 1;
}

static int l_kill(lua_State *L)
{
	struct lat_cgroup *group = self(L);
	lua_Integer ms = luaL_optinteger(L, 2, KILL_MS);
	int r;

	luaL_argcheck(L, ms >= 0 && ms <= 600000, 2, "0 to 600000 milliseconds");
	r = lat_cgroup_kill(group, (int)ms);
	if (r < 0)
		return lat_push_errno(L, r, lua_pushfstring(L, "kill what is in %s", lat_cgroup_path_at(group, 0)));
	lua_pushboolean(L, 1);
	return 1;
}

static const struct lat_api_function methods[] = {
	{ "join", l_join, "pid: integer", "boolean?, string? error, string? code", "Moves a process, with all its threads, into the group." },
	{ "path", l_path, "", "string?", "Its directory in the v2 tree; nil: it has none." },
	{ "paths", l_paths, "", "string[]", "All its directories: one in each hierarchy that it needs." },
	{ "id", l_id, "", "string?", "What bpf_get_current_cgroup_id tells in it, as text; nil without a v2 directory." },
	{ "usage", l_usage, "", "lattice.cgroup.Usage", "What it has used so far; what is not counted here is nil." },
	{ "events", l_events, "", "lattice.cgroup.Events", "How often it met its limits so far; what is not counted here is nil." },
	{ "kill", l_kill, "timeout_ms?: integer", "boolean?, string? error, string? code",
		"Kills all that is in it and below it, and waits until they have ended (10 s)." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.cgroup.Group", "A group of processes. Closing it kills and removes it; so does the end of its maker.", &group_type,
		methods, NULL },
	{ "lattice.cgroup.Options", "unique: a name in use gets -2, -3 ...; programs: eBPF programs are to hang on it.", NULL, NULL,
		"name: string, limits?: lattice.cgroup.Limits, unique?: boolean, programs?: boolean" },
	{ "lattice.cgroup.Limits", "Bytes, CPUs, bytes a second of each disk, tasks. memory without swap: no swap.", NULL, NULL,
		"memory?: integer, swap?: integer, cpu?: number, io?: integer, io_read?: integer, io_write?: integer, pids?: integer" },
	{ "lattice.cgroup.Usage", "Nanoseconds, bytes, tasks.", NULL, NULL,
		"cpu_ns?: integer, memory?: integer, memory_peak?: integer, pids?: integer, io_read?: integer, io_write?: integer" },
	{ "lattice.cgroup.Events", "Processes killed for memory, forks refused, periods held back.", NULL, NULL,
		"oom_kills?: integer, pids_refused?: integer, throttled?: integer, throttled_ns?: integer" },
	{ 0 },
};

static const struct lat_api_function functions[] = {
	{ "make", l_make, "options: lattice.cgroup.Options", "lattice.cgroup.Group?, string? error, string? code",
		"Makes a group below \"lattice\". What cannot be limited here is an error that names the way out." },
	{ 0 },
};

const struct lat_api lat_api_cgroup = {
	.name = "lattice.cgroup",
	.doc = "Groups of processes with limits: cgroups, v2 and v1.",
	.functions = functions,
	.classes = classes,
};
