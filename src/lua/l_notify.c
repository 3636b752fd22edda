/* lattice.notify: a child process whose chosen system calls wait for the script's answer (kernel/notify.h). */
#include "lua/api.h"
#include "kernel/notify.h"
#include "kernel/notify_spawn.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_CALLS 64

struct listener {
	int fd;
	pid_t pid; /* 0: reaped */
	int status;
};

static void close_listener(void *object)
{
	struct listener *l = object;

	close(l->fd); /* calls that still wait get ENOSYS */
	if (l->pid) {
		kill(l->pid, SIGKILL);
		while (waitpid(l->pid, NULL, 0) < 0 && errno == EINTR) {
		}
	}
	free(l);
}

static const struct lat_box_type listener_type = { "lattice.notify.Listener", close_listener };

static struct listener *check(lua_State *L)
{
	return lat_box_check(L, 1, &listener_type);
}

/* What the child does: index 2 of this state's stack, a function or a list of words to execute. */
static int in_child(void *ctx)
{
	lua_State *L = ctx;
	char *argv[256];
	size_t n;

	if (lua_isfunction(L, 2)) {
		lua_pushvalue(L, 2);
		if (lua_pcall(L, 0, 1, 0) != LUA_OK) {
			fprintf(stderr, "lattice: %s\n", luaL_tolstring(L, -1, NULL));
			return 1;
		}
		return (int)lua_tointeger(L, -1);
	}
	for (n = 0; n < 255 && lua_rawgeti(L, 2, (lua_Integer)n + 1) == LUA_TSTRING; n++)
		argv[n] = (char *)lua_tostring(L, -1);
	argv[n] = NULL;
	execvp(argv[0], argv);
	return errno == ENOENT ? 127 : 126;
}

static int l_spawn(lua_State *L)
{
	int nrs[MAX_CALLS], r;
	size_t count = 0;
	struct lat_box *box;
	struct listener *l;

	luaL_checktype(L, 1, LUA_TTABLE);
	luaL_argcheck(L, lua_isfunction(L, 2) || (lua_istable(L, 2) && lua_rawlen(L, 2) > 0), 2,
		"a function or a list of words expected");
	lua_settop(L, 2);
	for (lua_Integer i = 1; lua_rawgeti(L, 1, i) != LUA_TNIL; i++) {
		const char *name = luaL_checkstring(L, -1);

		luaL_argcheck(L, count < MAX_CALLS, 1, "too many calls");
		nrs[count] = lat_notify_number(name);
		if (nrs[count++] < 0)
			luaL_argerror(L, 1, lua_pushfstring(L, "no system call '%s'", name));
		lua_pop(L, 1);
	}
	luaL_argcheck(L, count > 0, 1, "names of system calls expected");
	lua_settop(L, 2);
	luaL_checkstack(L, 300, "arguments");
	box = lat_box_new(L, &listener_type);
	l = calloc(1, sizeof(*l));
	if (!l)
		return luaL_error(L, "out of memory");
	fflush(NULL); /* or the child writes our buffers a second time */
	r = lat_notify_spawn(nrs, count, in_child, L, &l->pid, &l->fd);
	if (r < 0) {
		free(l);
		return lat_push_errno(L, r, "start a process under a filter");
	}
	lat_box_fill(L, box, l);
	r = lat_notify_init(l->fd);
	if (r < 0) {
		lat_box_close(L, box);
		return lat_push_errno(L, r, "listen to a filter");
	}
	return 1;
}

static int l_receive(lua_State *L)
{
	struct listener *l = check(L);
	struct pollfd wait = { .fd = l->fd, .events = POLLIN };
	lua_Integer ms = luaL_optinteger(L, 2, 0);
	struct lat_notify_call call;
	char *name;
	int r;

	luaL_argcheck(L, ms >= 0 && ms <= 60000, 2, "milliseconds expected");
	r = poll(&wait, 1, (int)ms);
	if (r < 0)
		return lat_push_errno(L, errno, "wait for a call");
	if (r == 0 || !(wait.revents & POLLIN))
		return lat_push_errno(L, wait.revents & POLLHUP ? EPIPE : EAGAIN, "wait for a call");
	r = lat_notify_receive(l->fd, &call);
	if (r < 0)
		return lat_push_errno(L, r, "receive a call");
	lua_createtable(L, 0, 5);
	lua_pushinteger(L, (lua_Integer)call.id);
	lua_setfield(L, -2, "id");
	lua_pushinteger(L, call.tid);
	lua_setfield(L, -2, "tid");
	lua_pushinteger(L, call.nr);
	lua_setfield(L, -2, "nr");
	name = lat_notify_name(call.nr);
	lua_pushstring(L, name ? name : "");
	free(name);
	lua_setfield(L, -2, "name");
	lua_createtable(L, 6, 0);
	for (int i = 0; i < 6; i++) {
		lua_pushinteger(L, (lua_Integer)call.args[i]);
		lua_rawseti(L, -2, i + 1);
	}
	lua_setfield(L, -2, "args");
	return 1;
}

static int push_done(lua_State *L, int r, const char *tried)
{
	if (r < 0)
		return lat_push_errno(L, r, tried);
	lua_pushinteger(L, r);
	return 1;
}

static int errno_of(lua_State *L, int index)
{
	const char *name = luaL_checkstring(L, index);

	for (int e = 1; e < 134; e++) {
		const char *known = strerrorname_np(e);

		if (known && strcmp(known, name) == 0)
			return e;
	}
	return luaL_argerror(L, index, "the name of an errno expected");
}

static int l_value(lua_State *L)
{
	struct listener *l = check(L);

	return push_done(L, lat_notify_respond(l->fd, (uint64_t)luaL_checkinteger(L, 2), luaL_checkinteger(L, 3), 0),
		"answer a call");
}

static int l_error(lua_State *L)
{
	struct listener *l = check(L);

	return push_done(L, lat_notify_respond(l->fd, (uint64_t)luaL_checkinteger(L, 2), -1, errno_of(L, 3)),
		"answer a call");
}

static int l_addfd(lua_State *L)
{
	struct listener *l = check(L);
	int fd = (int)luaL_checkinteger(L, 3), target = (int)luaL_optinteger(L, 4, -1);

	return push_done(L, lat_notify_addfd(l->fd, (uint64_t)luaL_checkinteger(L, 2), fd, target, true,
		lua_toboolean(L, 5)), "add a descriptor");
}

static int l_valid(lua_State *L)
{
	lua_pushboolean(L, lat_notify_valid(check(L)->fd, (uint64_t)luaL_checkinteger(L, 2)));
	return 1;
}

static int l_fd(lua_State *L)
{
	lua_pushinteger(L, check(L)->fd);
	return 1;
}

static int l_pid(lua_State *L)
{
	lua_pushinteger(L, check(L)->pid);
	return 1;
}

static int l_wait(lua_State *L)
{
	struct listener *l = check(L);
	int status;

	if (l->pid) {
		while (waitpid(l->pid, &status, 0) < 0)
			if (errno != EINTR)
				return lat_push_errno(L, errno, "wait for the process");
		l->pid = 0;
		l->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	}
	lua_pushinteger(L, l->status);
	return 1;
}

static const struct lat_api_function functions[] = {
	{ "spawn", l_spawn, "calls: string[], what: string[]|fun(): integer?",
		"lattice.notify.Listener?, string? error, string? code",
		"Start a program (or run a function) in a child whose named system calls wait for answers." },
	{ 0 },
};

static const struct lat_api_function methods[] = {
	{ "receive", l_receive, "wait_ms?: integer", "lattice.notify.Call?, string? error, string? code",
		"The next waiting call; EAGAIN: none came in time; EPIPE: nobody is left." },
	{ "value", l_value, "id: integer, value: integer", "integer?, string? error, string? code",
		"The call returns the value; ENOENT: it is gone." },
	{ "error", l_error, "id: integer, name: string", "integer?, string? error, string? code",
		"The call fails with that errno (\"EACCES\")." },
	{ "addfd", l_addfd, "id: integer, fd: integer, target?: integer, answer?: boolean",
		"integer? number, string? error, string? code",
		"Put a copy of fd into the caller's table (at `target` if given), and answer with its number if asked." },
	{ "valid", l_valid, "id: integer", "boolean",
		"Whether the caller still waits in this call: ask after reading its memory." },
	{ "wait", l_wait, "", "integer? status, string? error, string? code", "Wait for the child's end." },
	{ "fd", l_fd, "", "integer", "Readable when a call waits: for loop.watch." },
	{ "pid", l_pid, "", "integer", "The child's process id." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.notify.Call", "A call that waits.", NULL, NULL,
		"id: integer, tid: integer, nr: integer, name: string, args: integer[]" },
	{ "lattice.notify.Listener", "A child and its waiting calls; closing it ends the child.", &listener_type,
		methods, NULL },
	{ 0 },
};

const struct lat_api lat_api_notify = {
	.name = "lattice.notify",
	.doc = "System calls of a child process that wait for the script's answer (seccomp user notification).",
	.functions = functions,
	.classes = classes,
};
