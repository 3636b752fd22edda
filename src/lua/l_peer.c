/* lattice.peer: who is at the other end of a unix socket, and the numbers of users and groups. */
#include "lua/api.h"
#include "kernel/peer.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

static void close_peer(void *object)
{
	lat_peer_fini(object);
	free(object);
}

static const struct lat_box_type peer_type = { "lattice.peer.Credentials", close_peer };

static int l_of(lua_State *L)
{
	int fd = (int)luaL_checkinteger(L, 1), r;
	struct lat_box *box = lat_box_new(L, &peer_type);
	struct lat_peer *peer = calloc(1, sizeof(*peer));

	if (!peer)
		return luaL_error(L, "out of memory");
	lat_box_fill(L, box, peer);
	r = lat_peer_get(fd, peer);
	if (r < 0) {
		lat_box_close(L, box);
		return lat_push_errno(L, r, "ask who is at the other end");
	}
	lua_createtable(L, 0, 4);
	lua_pushinteger(L, peer->pid);
	lua_setfield(L, -2, "pid");
	lua_pushinteger(L, peer->uid);
	lua_setfield(L, -2, "uid");
	lua_pushinteger(L, peer->gid);
	lua_setfield(L, -2, "gid");
	lua_createtable(L, (int)peer->group_count, 0);
	for (unsigned i = 0; i < peer->group_count; i++) {
		lua_pushinteger(L, peer->groups[i]);
		lua_rawseti(L, -2, (lua_Integer)i + 1);
	}
	lua_setfield(L, -2, "groups");
	lat_box_close(L, box);
	return 1;
}

static int l_at_home(lua_State *L)
{
	int r = lat_peer_at_home((pid_t)luaL_checkinteger(L, 1)), socket;

	if (r < 0)
		return lat_push_errno(L, r, "look at a process's namespaces");
	socket = lua_isnoneornil(L, 2) ? 1 : lat_peer_socket_at_home((int)luaL_checkinteger(L, 2));
	lua_pushboolean(L, r && socket != 0); /* an error: this kernel or our rights do not tell */
	return 1;
}

static int l_group(lua_State *L)
{
	const char *name = luaL_checkstring(L, 1);
	const struct group *group;

	errno = 0;
	group = getgrnam(name);
	if (!group)
		return lat_push_errno(L, errno ? errno : ENOENT, "look up a group");
	lua_pushinteger(L, group->gr_gid);
	return 1;
}

static int l_user(lua_State *L)
{
	const char *name = luaL_checkstring(L, 1);
	const struct passwd *user;

	errno = 0;
	user = getpwnam(name);
	if (!user)
		return lat_push_errno(L, errno ? errno : ENOENT, "look up a user");
	lua_pushinteger(L, user->pw_uid);
	return 1;
}

static int l_gone(lua_State *L)
{
	struct pollfd fd = { .fd = (int)luaL_checkinteger(L, 1) };

	lua_pushboolean(L, poll(&fd, 1, 0) > 0 && fd.revents != 0);
	return 1;
}

static int l_pidfd(lua_State *L)
{
	lua_Integer pid = luaL_checkinteger(L, 1);
	int fd;

	luaL_argcheck(L, pid > 0 && pid <= INT32_MAX, 1, "the number of a process expected");
	fd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
	if (fd < 0)
		return lat_push_errno(L, errno, "take hold of a process");
	lua_pushinteger(L, fd);
	return 1;
}

static int l_pidfd_of(lua_State *L)
{
	int fd = (int)luaL_checkinteger(L, 1), pidfd;
	socklen_t len = sizeof(pidfd);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len) < 0)
		return lat_push_errno(L, errno, "take hold of who is at the other end");
	fcntl(pidfd, F_SETFD, FD_CLOEXEC);
	lua_pushinteger(L, pidfd);
	return 1;
}

static int l_tell_writers(lua_State *L)
{
	int r = lat_peer_tell_writers((int)luaL_checkinteger(L, 1));

	if (r < 0)
		return lat_push_errno(L, r, "be told who writes");
	lua_pushboolean(L, 1);
	return 1;
}

static int l_writer(lua_State *L)
{
	pid_t pid;
	int r = lat_peer_writer((int)luaL_checkinteger(L, 1), &pid);

	if (r < 0)
		return lat_push_errno(L, r, "ask who wrote");
	lua_pushinteger(L, pid);
	return 1;
}

static int l_copy(lua_State *L)
{
	int fd = fcntl((int)luaL_checkinteger(L, 1), F_DUPFD_CLOEXEC, 3);

	if (fd < 0)
		return lat_push_errno(L, errno, "copy a descriptor");
	lua_pushinteger(L, fd);
	return 1;
}

static int l_ended(lua_State *L)
{
	struct pollfd fd = { .fd = (int)luaL_checkinteger(L, 1), .events = POLLIN };

	lua_pushboolean(L, poll(&fd, 1, 0) != 0);
	return 1;
}

static int open_peer(lua_State *L)
{
	lat_box_register(L, &peer_type);
	return 0;
}

static const struct lat_api_function functions[] = {
	{ "of", l_of, "fd: integer", "lattice.peer.Peer?, string? error, string? code",
		"Who connected this unix socket." },
	{ "at_home", l_at_home, "pid: integer, fd?: integer", "boolean?, string? error, string? code",
		"Whether the process, and the socket it connected (fd: the accepted end), belong to our own pid and user "
		"namespace." },
	{ "group", l_group, "name: string", "integer?, string? error, string? code", "The id of a group." },
	{ "user", l_user, "name: string", "integer?, string? error, string? code", "The id of a user." },
	{ "pidfd", l_pidfd, "pid: integer", "integer? fd, string? error, string? code",
		"A descriptor that stands for this process, whoever gets its number later; the caller's, readable when the "
		"process has ended." },
	{ "pidfd_of", l_pidfd_of, "fd: integer", "integer? pidfd, string? error, string? code",
		"The same of who connected this unix socket (kernels from 6.5 on)." },
	{ "tell_writers", l_tell_writers, "listener: integer", "boolean?, string? error, string? code",
		"Have the kernel tell who writes on what this unix socket accepts: for writer." },
	{ "writer", l_writer, "fd: integer", "integer? pid, string? error, string? code",
		"The process that wrote what is to be read next (it stays there); 0: it cannot be told, or the other end has closed." },
	{ "copy", l_copy, "fd: integer", "integer? fd, string? error, string? code",
		"Another descriptor of the same; the caller's." },
	{ "ended", l_ended, "pidfd: integer", "boolean", "Whether the process has ended." },
	{ "gone", l_gone, "fd: integer", "boolean", "Whether nobody is at the other end of a pipe or socket any more." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.peer.Peer", "As it was when it connected; pid 0: of another pid namespace.", NULL, NULL,
		"pid: integer, uid: integer, gid: integer, groups: integer[]" },
	{ 0 },
};

const struct lat_api lat_api_peer = {
	.name = "lattice.peer",
	.doc = "Who is at the other end of a unix socket; users and groups.",
	.functions = functions,
	.classes = classes,
	.open = open_peer,
};
