/* lattice.sys: small facts about this process and host. */
#include "lua/api.h"
#include "base/clock.h"
#include "kernel/privilege.h"
#include "lua/runtime_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int l_isatty(lua_State *L)
{
	lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1)));
	return 1;
}

static int l_clock(lua_State *L)
{
	lua_pushinteger(L, (lua_Integer)lat_now_ns());
	return 1;
}

static int l_uid(lua_State *L)
{
	lua_pushinteger(L, geteuid());
	return 1;
}

static int l_pid(lua_State *L)
{
	lua_pushinteger(L, getpid());
	return 1;
}

static int l_version(lua_State *L)
{
	lua_createtable(L, 0, 4);
	lua_pushliteral(L, LATTICE_VERSION);
	lua_setfield(L, -2, "version");
	lua_pushliteral(L, LATTICE_EDITION);
	lua_setfield(L, -2, "edition");
	lua_createtable(L, 0, 3);
	lua_pushliteral(L, LUA_VERSION_MAJOR "." LUA_VERSION_MINOR "." LUA_VERSION_RELEASE);
	lua_setfield(L, -2, "lua");
	lua_pushstring(L, uv_version_string());
	lua_setfield(L, -2, "libuv");
	lua_pushliteral(L, JANSSON_VERSION);
	lua_setfield(L, -2, "jansson");
	lua_setfield(L, -2, "libraries");
	return 1;
}

/* limited(limits, fn, ...): the limits of a policy's state around one call in this one. A call inside such a call has the
 * outer limits. */
static int l_limited(lua_State *L)
{
	struct lat_rt *rt = lat_rt_of(L);
	struct lat_rt_limits saved = rt->limits;
	struct lat_rt_error *err;
	int status, base;

	luaL_checktype(L, 1, LUA_TTABLE);
	luaL_checktype(L, 2, LUA_TFUNCTION);
	if (rt->armed) {
		lua_pushboolean(L, 1);
		lua_replace(L, 1);
		lua_call(L, lua_gettop(L) - 2, LUA_MULTRET);
		return lua_gettop(L);
	}
	if (L != rt->L)
		return luaL_error(L, "not in a coroutine");
	lua_getfield(L, 1, "instructions");
	lua_getfield(L, 1, "ms");
	lua_getfield(L, 1, "memory");
	rt->limits.instructions = (uint64_t)luaL_optinteger(L, -3, 0);
	rt->limits.deadline_ms = (uint32_t)luaL_optinteger(L, -2, 0);
	rt->limits.memory = (size_t)luaL_optinteger(L, -1, 0);
	if (rt->limits.memory)
		rt->limits.memory += rt->memory_used;
	lua_pop(L, 3);
	lua_pushcfunction(L, lat_rt_add_traceback);
	lua_replace(L, 1);
	base = 1;
	lat_limits_arm(rt);
	status = lua_pcall(L, lua_gettop(L) - 2, LUA_MULTRET, base);
	lat_limits_disarm(rt);
	rt->limits = saved;
	if (status == LUA_OK && !rt->tripped) {
		lua_pushboolean(L, 1);
		lua_replace(L, 1);
		return lua_gettop(L);
	}
	if (status == LUA_OK)
		lua_pushliteral(L, "");
	err = lua_newuserdatauv(L, sizeof(*err), 0);
	lua_insert(L, -2);
	lat_rt_describe(rt, L, status, err);
	rt->tripped = LAT_RT_ERROR;
	lua_pushboolean(L, 0);
	lua_pushstring(L, err->text);
	return 2;
}

/* One datagram, never waiting: for the service manager (sd_notify). "@name" is an abstract address. */
static int l_notify(lua_State *L)
{
	size_t path_len, len;
	const char *path = luaL_checklstring(L, 1, &path_len), *text = luaL_checklstring(L, 2, &len);
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	ssize_t n;
	int fd;

	luaL_argcheck(L, path_len > 1 && path_len < sizeof(to.sun_path), 1, "not the path of a socket");
	memcpy(to.sun_path, path, path_len);
	if (path[0] == '@')
		to.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return lat_push_errno(L, errno, "notify");
	n = sendto(fd, text, len, MSG_NOSIGNAL, (struct sockaddr *)&to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path_len));
	if (n < 0)
		n = -errno;
	close(fd);
	if (n < 0)
		return lat_push_errno(L, (int)n, path);
	lua_pushboolean(L, 1);
	return 1;
}

struct file_lock {
	int fd;
	char path[];
};

/* The file goes with the lock; who opened it meanwhile sees that (l_lock). */
static void unlock(void *object)
{
	struct file_lock *lock = object;

	unlink(lock->path);
	close(lock->fd);
	free(lock);
}

static const struct lat_box_type lock_type = { "lattice.sys.Lock", unlock };

/* 0, or negative errno: -EWOULDBLOCK when somebody else has it. */
static int take_lock(struct file_lock *lock)
{
	struct stat mine, there;

	for (;;) {
		lock->fd = open(lock->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (lock->fd < 0)
			return -errno;
		if (flock(lock->fd, LOCK_EX | LOCK_NB) < 0) {
			int r = -errno;

			close(lock->fd);
			return r;
		}
		if (fstat(lock->fd, &mine) == 0 && stat(lock->path, &there) == 0 && mine.st_ino == there.st_ino &&
			mine.st_dev == there.st_dev)
			return 0;
		close(lock->fd); /* removed between open and lock */
	}
}

static int l_lock(lua_State *L)
{
	size_t len;
	const char *path = luaL_checklstring(L, 1, &len);
	struct lat_box *box = lat_box_new(L, &lock_type);
	struct file_lock *lock = malloc(sizeof(*lock) + len + 1);
	int r;

	if (!lock)
		return lat_push_errno(L, -ENOMEM, path);
	memcpy(lock->path, path, len + 1);
	r = take_lock(lock);
	if (r < 0) {
		lua_pushstring(L, path);
		free(lock);
		return lat_push_errno(L, r, lua_tostring(L, -1));
	}
	lat_box_fill(L, box, lock);
	return 1;
}

static int l_capabilities(lua_State *L)
{
	uint64_t have;
	int r = lat_capabilities(&have);
	int number = lat_capability_number(luaL_checkstring(L, 1));

	if (r < 0)
		return lat_push_errno(L, r, "read capabilities");
	luaL_argcheck(L, number >= 0, 1, "no such capability");
	lua_pushboolean(L, have >> number & 1);
	return 1;
}

static int l_keep_capabilities(lua_State *L)
{
	uint64_t keep = 0;
	int r;

	luaL_checktype(L, 1, LUA_TTABLE);
	for (lua_Integer i = 1; lua_rawgeti(L, 1, i) != LUA_TNIL; i++) {
		int number = lat_capability_number(luaL_checkstring(L, -1));

		luaL_argcheck(L, number >= 0, 1, "no such capability");
		keep |= 1ull << number;
		lua_pop(L, 1);
	}
	r = lat_capabilities_keep(keep);
	if (r < 0)
		return lat_push_errno(L, r, "give up capabilities");
	lua_pushboolean(L, 1);
	return 1;
}

static const struct lat_api_function functions[] = {
	{ "isatty", l_isatty, "fd: integer", "boolean", "Whether the descriptor is a terminal." },
	{ "clock", l_clock, "", "integer", "Monotonic nanoseconds, for intervals." },
	{ "uid", l_uid, "", "integer", "The effective user id." },
	{ "pid", l_pid, "", "integer", "The id of this process." },
	{ "limited", l_limited, "limits: { instructions?: integer, ms?: integer, memory?: integer }, fn: function, ...: any",
		"boolean ok, any ...",
		"Call fn; over a limit, or at an error, false and a text. memory: bytes beyond what the state holds now." },
	{ "notify", l_notify, "path: string, text: string", "boolean?, string? error, string? code",
		"Send a datagram to a unix socket (\"@name\": abstract), without waiting." },
	{ "lock", l_lock, "path: string", "lattice.sys.Lock?, string? error, string? code",
		"Take the lock that this file stands for, made if needed; \"EAGAIN\" when somebody else has it." },
	{ "has_capability", l_capabilities, "name: string", "boolean?, string? error, string? code",
		"Whether this process may use \"net_admin\", \"bpf\" ..." },
	{ "keep_capabilities", l_keep_capabilities, "names: string[]", "boolean?, string? error, string? code",
		"Give up all others, in every thread and for ever; after an error, end." },
	{ "version", l_version, "", "table", "{ version, edition, libraries = { name = version } }" },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.sys.Lock", "A lock that a file stands for; the file goes with it.", &lock_type, NULL, NULL },
	{ 0 },
};

const struct lat_api lat_api_sys = {
	.name = "lattice.sys",
	.doc = "This process, and small facts about the host.",
	.functions = functions,
	.classes = classes,
};
