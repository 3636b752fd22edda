/* lattice.link: records of the kernel as Lua tables, and their changes in batches on the state's loop. */
#include "lua/l_link.h"
#include "lua/l_netns.h"
#include "lua/runtime_impl.h"
#include <linux/netlink.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 64

/* A route socket of the namespace at `index`, -1 for none given, or another negative errno. */
int lat_lua_link_socket(lua_State *L, int index)
{
	if (lua_isnoneornil(L, index))
		return -1;
	return lat_netns_socket(lat_lua_check_netns(L, index), AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
}

void lat_lua_set_string(lua_State *L, const char *key, const char *value)
{
	lua_pushstring(L, value);
	lua_setfield(L, -2, key);
}

void lat_lua_set_integer(lua_State *L, const char *key, lua_Integer value)
{
	lua_pushinteger(L, value);
	lua_setfield(L, -2, key);
}

void lat_lua_set_boolean(lua_State *L, const char *key, bool value)
{
	lua_pushboolean(L, value);
	lua_setfield(L, -2, key);
}

static void set_prefix(lua_State *L, const char *key, const struct lat_addr *a, unsigned len)
{
	char text[LAT_ADDR_TEXT];

	lua_pushfstring(L, "%s/%d", lat_addr_format(a, text, sizeof(text)), (int)len);
	lua_setfield(L, -2, key);
}

void lat_lua_push_link(lua_State *L, const struct lat_link *link)
{
	lua_createtable(L, 0, 9);
	lat_lua_set_string(L, "name", link->name);
	lat_lua_set_integer(L, "index", link->index);
	lat_lua_set_integer(L, "mtu", link->mtu);
	lat_lua_set_boolean(L, "up", link->up);
	lat_lua_set_boolean(L, "running", link->running);
	lat_lua_set_string(L, "kind", link->kind);
	lat_lua_set_string(L, "alias", link->alias);
	lat_lua_set_string(L, "mac", link->mac);
	lat_lua_set_string(L, "qdisc", link->qdisc);
}

void lat_lua_push_address(lua_State *L, const struct lat_link_address *a)
{
	lua_createtable(L, 0, 4);
	set_prefix(L, "address", &a->addr, a->len);
	lat_lua_set_integer(L, "family", a->family);
	lat_lua_set_integer(L, "index", a->index);
	lat_lua_set_boolean(L, "tentative", a->tentative);
}

void lat_lua_push_route(lua_State *L, const struct lat_link_route *route)
{
	char text[LAT_ADDR_TEXT];

	lua_createtable(L, 0, 6);
	set_prefix(L, "to", &route->to.addr, route->to.len);
	lat_lua_set_integer(L, "table", route->table);
	lat_lua_set_integer(L, "protocol", route->protocol);
	if (route->index)
		lat_lua_set_integer(L, "index", route->index);
	if (route->metric)
		lat_lua_set_integer(L, "metric", route->metric);
	if (route->has_via)
		lat_lua_set_string(L, "via", lat_addr_format(&route->via, text, sizeof(text)));
}

/* ---- watch ---- */

struct watch {
	struct lat_rt *rt;
	uv_poll_t poll;
	struct lat_link_watch *watch;
	struct lat_link_event batch[BATCH];
	size_t count;
};

static void free_watch(uv_handle_t *handle)
{
	free(handle->data);
}

static void close_watch(void *object)
{
	struct watch *w = object;
	lua_State *L = w->rt->L;

	if (lua_checkstack(L, 1)) {
		lua_pushnil(L);
		lua_rawsetp(L, LUA_REGISTRYINDEX, w);
	}
	uv_close((uv_handle_t *)&w->poll, free_watch);
	lat_link_watch_close(w->watch);
	w->watch = NULL;
}

const struct lat_box_type lat_lua_link_watch_type = { "lattice.link.Watch", close_watch };

static void push_event(lua_State *L, const struct lat_link_event *e)
{
	static const char *const whats[LAT_LINK_EVENT_COUNT] = { "link", "address", "route", "resync" };

	if (e->what == LAT_LINK_EVENT_LINK)
		lat_lua_push_link(L, &e->link);
	else if (e->what == LAT_LINK_EVENT_ADDRESS)
		lat_lua_push_address(L, &e->address);
	else if (e->what == LAT_LINK_EVENT_ROUTE)
		lat_lua_push_route(L, &e->route);
	else
		lua_createtable(L, 0, 2);
	lat_lua_set_string(L, "what", whats[e->what]);
	lat_lua_set_boolean(L, "gone", e->gone);
}

static int deliver(lua_State *L)
{
	struct watch *w = lua_touserdata(L, 1);

	lua_rawgetp(L, LUA_REGISTRYINDEX, w);
	lua_getiuservalue(L, -1, 1);
	lua_createtable(L, (int)w->count, 0);
	for (size_t i = 0; i < w->count; i++) {
		push_event(L, &w->batch[i]);
		lua_rawseti(L, -2, (lua_Integer)i + 1);
	}
	lua_call(L, 1, 0);
	return 0;
}

static void keep_event(void *ctx, const struct lat_link_event *event)
{
	struct watch *w = ctx;

	if (w->count < BATCH)
		w->batch[w->count++] = *event;
	else
		w->batch[BATCH - 1] = (struct lat_link_event){ .what = LAT_LINK_EVENT_RESYNC };
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
	struct watch *w = poll->data;
	struct lat_rt *rt = w->rt;
	struct lat_rt_error err;
	int r;

	w->count = 0;
	/* One datagram may hold several events: half a batch of room for the last. */
	r = lat_link_watch_dispatch(w->watch, BATCH / 2, keep_event, w);
	if (r < 0)
		uv_poll_stop(poll);
	else if (status < 0) /* ENOBUFS shows as an error of the descriptor, on which libuv stops watching */
		uv_poll_start(poll, UV_READABLE, on_readable);
	if (w->count > 0 && lat_rt_enter(rt, deliver, w, &err) < 0)
		lat_rt_callback_failed(rt, &err);
}

int lat_lua_link_watch(lua_State *L)
{
	uv_loop_t *loop = lat_rt_loop(lat_rt_of(L));
	lua_Integer buffer = luaL_optinteger(L, 3, 0);
	struct lat_box *box;
	struct watch *w;
	int fd, r;

	luaL_checktype(L, 2, LUA_TFUNCTION);
	luaL_argcheck(L, buffer >= 0 && buffer <= 1 << 28, 3, "bytes expected");
	if (!loop)
		return luaL_error(L, "this state has no loop");
	box = lat_box_new(L, &lat_lua_link_watch_type);
	lua_pushvalue(L, 2);
	lua_setiuservalue(L, -2, 1);
	fd = lat_lua_link_socket(L, 1);
	if (fd < -1)
		return lat_push_errno(L, fd, "watch the devices");
	w = calloc(1, sizeof(*w));
	if (!w) {
		if (fd >= 0)
			close(fd);
		return luaL_error(L, "out of memory");
	}
	w->rt = lat_rt_of(L);
	w->poll.data = w;
	r = lat_link_watch_open(fd, (uint32_t)buffer, &w->watch);
	if (r == 0) {
		r = uv_poll_init(loop, &w->poll, lat_link_watch_fd(w->watch));
		if (r < 0)
			lat_link_watch_close(w->watch);
	}
	if (r < 0) {
		free(w);
		return lat_push_errno(L, r, "watch the devices");
	}
	lat_box_fill(L, box, w);
	lua_pushvalue(L, -1);
	lua_rawsetp(L, LUA_REGISTRYINDEX, w);
	uv_poll_start(&w->poll, UV_READABLE, on_readable);
	return 1;
}
