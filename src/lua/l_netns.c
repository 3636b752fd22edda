/* lattice.netns: network namespaces of a script's own, by kernel/netns.h. */
#include "lua/api.h"
#include "lua/l_netns.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void close_ns(void *object)
{
	lat_netns_close(object);
}

static const struct lat_box_type ns_type = { "lattice.netns.Namespace", close_ns };

struct lat_netns *lat_lua_check_netns(lua_State *L, int index)
{
	return lat_box_check(L, index, &ns_type);
}

static int l_open(lua_State *L)
{
	struct lat_box *box = lat_box_new(L, &ns_type);
	struct lat_netns *ns;
	int r = lat_netns_open(&ns);

	if (r < 0)
		return lat_push_errno(L, r, "make a network namespace");
	lat_box_fill(L, box, ns);
	return 1;
}

static int l_fd(lua_State *L)
{
	lua_pushinteger(L, lat_netns_fd(lat_lua_check_netns(L, 1)));
	return 1;
}

/* ---- run: a function in a forked child, its result as JSON over a pipe ---- */

struct run {
	lua_State *L;
	int out;
};

/* Leaves the JSON text of { ok, result } on the stack. */
static int call_and_encode(lua_State *L)
{
	bool ok;

	lua_pushvalue(L, 1);
	ok = lua_pcall(L, 0, 1, 0) == LUA_OK;
	if (!ok)
		luaL_tolstring(L, -1, NULL);
	lua_createtable(L, 0, 2);
	lua_pushboolean(L, ok);
	lua_setfield(L, -2, "ok");
	lua_pushvalue(L, -2);
	lua_setfield(L, -2, "result");
	lua_getglobal(L, "require");
	lua_pushliteral(L, "lattice.json");
	lua_call(L, 1, 1);
	lua_getfield(L, -1, "encode");
	lua_pushvalue(L, -3);
	lua_call(L, 1, 1);
	return 1;
}

static int in_child(void *ctx)
{
	struct run *run = ctx;
	lua_State *L = run->L;
	const char *text;
	size_t len, done = 0;

	lua_pushcfunction(L, call_and_encode);
	lua_pushvalue(L, 2);
	if (lua_pcall(L, 1, 1, 0) != LUA_OK) {
		lua_pushcfunction(L, call_and_encode); /* the result is no JSON: say so as an error */
		if (luaL_loadstring(L, "local why = ... return function() error(why, 0) end") != LUA_OK)
			return 1;
		lua_pushvalue(L, -3);
		if (lua_pcall(L, 1, 1, 0) != LUA_OK || lua_pcall(L, 1, 1, 0) != LUA_OK)
			return 1;
	}
	text = lua_tolstring(L, -1, &len);
	while (done < len) {
		ssize_t n = write(run->out, text + done, len - done);

		if (n < 0 && errno != EINTR)
			return 1;
		done += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

/* All of a pipe into a Lua string; nothing here holds anything but the buffer's own userdata. */
static void push_all(lua_State *L, int fd)
{
	luaL_Buffer b;
	ssize_t n;

	luaL_buffinit(L, &b);
	do {
		char *space = luaL_prepbuffer(&b);

		n = read(fd, space, LUAL_BUFFERSIZE);
		if (n > 0)
			luaL_addsize(&b, (size_t)n);
	} while (n > 0 || (n < 0 && errno == EINTR));
	luaL_pushresult(&b);
}

static int push_output(lua_State *L)
{
	push_all(L, (int)lua_tointeger(L, 1));
	return 1;
}

static int l_run(lua_State *L)
{
	struct lat_netns *ns = lat_lua_check_netns(L, 1);
	struct run run = { .L = L };
	int pipes[2], status, r;
	pid_t pid;

	luaL_checktype(L, 2, LUA_TFUNCTION);
	lua_settop(L, 2);
	luaL_checkstack(L, 20, "run");
	if (pipe2(pipes, O_CLOEXEC) < 0)
		return lat_push_errno(L, errno, "make a pipe");
	fflush(NULL); /* or the child writes our buffers a second time */
	run.out = pipes[1];
	pid = lat_netns_fork(ns, in_child, &run);
	close(pipes[1]);
	if (pid < 0) {
		close(pipes[0]);
		return lat_push_errno(L, pid, "start a process in the namespace");
	}
	lua_pushcfunction(L, push_output);
	lua_pushinteger(L, pipes[0]);
	r = lua_pcall(L, 1, 1, 0);
	close(pipes[0]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
	}
	if (r != LUA_OK)
		return lua_error(L);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		lua_pushnil(L);
		lua_pushliteral(L, "the process in the namespace ended without a result");
		lua_pushliteral(L, "EPIPE");
		return 3;
	}
	lua_getglobal(L, "require");
	lua_pushliteral(L, "lattice.json");
	lua_call(L, 1, 1);
	lua_getfield(L, -1, "decode");
	lua_pushvalue(L, 3);
	lua_call(L, 1, 1);
	lua_getfield(L, -1, "result");
	lua_getfield(L, -2, "ok");
	if (lua_toboolean(L, -1)) {
		lua_pop(L, 1);
		return 1;
	}
	lua_pop(L, 1);
	return lua_error(L);
}

static int l_socket(lua_State *L)
{
	static const char *const kinds[] = { "tcp", "udp", "tcp6", "udp6", NULL };
	static const int families[] = { AF_INET, AF_INET, AF_INET6, AF_INET6 };
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_STREAM, SOCK_DGRAM };
	struct lat_netns *ns = lat_lua_check_netns(L, 1);
	int kind = luaL_checkoption(L, 2, NULL, kinds);
	int fd = lat_netns_socket(ns, families[kind], types[kind], 0);

	if (fd < 0)
		return lat_push_errno(L, fd, "make a socket in the namespace");
	lua_pushinteger(L, fd);
	return 1;
}

struct links {
	struct lat_netns_link link[256];
	size_t count;
};

static void collect(void *ctx, const struct lat_netns_link *link)
{
	struct links *links = ctx;

	if (links->count < sizeof(links->link) / sizeof(links->link[0]))
		links->link[links->count++] = *link;
}

static int l_links(lua_State *L)
{
	struct lat_netns *ns = lat_lua_check_netns(L, 1);
	struct links *links = lua_newuserdatauv(L, sizeof(*links), 0);
	int r;

	links->count = 0;
	r = lat_netns_links(ns, collect, links);
	if (r < 0)
		return lat_push_errno(L, r, "list the devices of a namespace");
	lua_createtable(L, (int)links->count, 0);
	for (size_t i = 0; i < links->count; i++) {
		lua_createtable(L, 0, 4);
		lua_pushstring(L, links->link[i].name);
		lua_setfield(L, -2, "name");
		lua_pushinteger(L, links->link[i].index);
		lua_setfield(L, -2, "index");
		lua_pushinteger(L, links->link[i].mtu);
		lua_setfield(L, -2, "mtu");
		lua_pushboolean(L, links->link[i].up);
		lua_setfield(L, -2, "up");
		lua_rawseti(L, -2, (lua_Integer)i + 1);
	}
	return 1;
}

static const struct lat_api_function functions[] = {
	{ "open", l_open, "", "lattice.netns.Namespace?, string? error, string? code",
		"Make a network namespace with its loopback up; it ends with the box." },
	{ 0 },
};

static const struct lat_api_function methods[] = {
	{ "run", l_run, "fn: fun(): any", "any result, string? error, string? code",
		"Run fn in a child process inside; its result comes back as JSON holds it, its error is thrown here. "
		"fn must not use the loop." },
	{ "socket", l_socket, "kind: \"tcp\"|\"udp\"|\"tcp6\"|\"udp6\"", "integer? fd, string? error, string? code",
		"A nonblocking socket of the namespace; the descriptor is the caller's." },
	{ "links", l_links, "", "lattice.netns.Link[]?, string? error, string? code", "Its network devices." },
	{ "fd", l_fd, "", "integer", "The descriptor that holds it; the box closes it." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.netns.Link", "A network device.", NULL, NULL,
		"name: string, index: integer, mtu: integer, up: boolean" },
	{ "lattice.netns.Namespace", "A network namespace.", &ns_type, methods, NULL },
	{ 0 },
};

const struct lat_api lat_api_netns = {
	.name = "lattice.netns",
	.doc = "Network namespaces of a script's own.",
	.functions = functions,
	.classes = classes,
};
