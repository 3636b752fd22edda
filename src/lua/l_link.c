/* lattice.link: network devices, addresses and routes of a network namespace, by kernel/link.h. What changes of them:
 * l_link_watch.c. */
#include "lua/l_link.h"
#include "lua/l_netns.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void close_links(void *object)
{
	lat_links_close(object);
}

static const struct lat_box_type links_type = { "lattice.link.Links", close_links };

static struct lat_links *self(lua_State *L)
{
	return lat_box_check(L, 1, &links_type);
}

static int l_open(lua_State *L)
{
	struct lat_box *box;
	struct lat_links *links;
	int fd, r;

	lua_settop(L, 1);
	box = lat_box_new(L, &links_type);
	fd = lat_lua_link_socket(L, 1);
	r = fd < -1 ? fd : lat_links_open(fd, &links);
	if (r < 0)
		return lat_push_errno(L, r, "open a netlink socket");
	lat_box_fill(L, box, links);
	return 1;
}

/* ---- helpers ---- */

/* The index of the device at `index` (a name or a number). 0 and *index_out, or negative errno. */
static int device(lua_State *L, int arg, uint32_t *out)
{
	struct lat_link link;
	int r;

	if (lua_isinteger(L, arg)) {
		lua_Integer n = lua_tointeger(L, arg);

		luaL_argcheck(L, n > 0 && n <= INT32_MAX, arg, "a device's name or index expected");
		*out = (uint32_t)n;
		return 0;
	}
	r = lat_link_get(self(L), luaL_checkstring(L, arg), &link);
	if (r == 0)
		*out = link.index;
	return r;
}

static const char *name_of(lua_State *L, int arg)
{
	return luaL_tolstring(L, arg, NULL);
}

/* nil, "TRIED NAME: why", code */
static int failed(lua_State *L, int r, const char *tried, int arg)
{
	return lat_push_errno(L, r, lua_pushfstring(L, "%s %s", tried, name_of(L, arg)));
}

static int done(lua_State *L, int r, const char *tried, int arg)
{
	if (r < 0)
		return failed(L, r, tried, arg);
	lua_pushboolean(L, true);
	return 1;
}

/* Lists: the records are collected in C first, for a Lua error must not jump over libnl's memory. */
struct list {
	char *data;
	size_t size, count, room;
	bool full;
};

static void collect(struct list *list, const void *record, size_t size)
{
	if (list->count == list->room) {
		size_t room = list->room ? list->room * 2 : 16;
		char *data = reallocarray(list->data, room, size);

		if (!data) {
			list->full = true;
			return;
		}
		list->data = data;
		list->room = room;
	}
	memcpy(list->data + list->count++ * size, record, size);
}

#define COLLECTOR(name, type)                                                                      \
	static void collect_##name(void *ctx, const struct type *record)                           \
	{                                                                                          \
		collect(ctx, record, sizeof(*record));                                             \
	}
COLLECTOR(link, lat_link)
COLLECTOR(address, lat_link_address)
COLLECTOR(route, lat_link_route)
COLLECTOR(qdisc, lat_link_qdisc)

struct push {
	struct list list;
	int (*one)(lua_State *L, const void *record, uint32_t only); /* pushes it, or returns 0 */
	size_t size;
	uint32_t only;
};

static int push_list(lua_State *L)
{
	struct push *p = lua_touserdata(L, 1);
	lua_Integer n = 0;

	lua_createtable(L, p->only ? 4 : (int)p->list.count, 0);
	for (size_t i = 0; i < p->list.count; i++) {
		if (p->one(L, p->list.data + i * p->size, p->only))
			lua_rawseti(L, -2, ++n);
	}
	return 1;
}

/* Pushes what was collected as a list; r: the result of the dump. */
static int give(lua_State *L, struct push *p, int r, const char *tried)
{
	if (r == 0 && p->list.full)
		r = -ENOMEM;
	if (r == 0) {
		lua_pushcfunction(L, push_list);
		lua_pushlightuserdata(L, p);
		if (lua_pcall(L, 1, 1, 0) != LUA_OK) {
			free(p->list.data);
			return lua_error(L);
		}
	}
	free(p->list.data);
	return r < 0 ? lat_push_errno(L, r, tried) : 1;
}

static int one_link(lua_State *L, const void *record, uint32_t only)
{
	lat_lua_push_link(L, record);
	return 1;
}

static int one_address(lua_State *L, const void *record, uint32_t only)
{
	const struct lat_link_address *a = record;

	if (only && a->index != only)
		return 0;
	lat_lua_push_address(L, a);
	return 1;
}

static int one_route(lua_State *L, const void *record, uint32_t only)
{
	const struct lat_link_route *route = record;

	if (only && route->index != only)
		return 0;
	lat_lua_push_route(L, route);
	return 1;
}

static int one_qdisc(lua_State *L, const void *record, uint32_t only)
{
	const struct lat_link_qdisc *q = record;

	if (only && q->index != only)
		return 0;
	lua_createtable(L, 0, 4);
	lat_lua_set_string(L, "kind", q->kind);
	lat_lua_set_integer(L, "index", q->index);
	lat_lua_set_integer(L, "handle", q->handle);
	lat_lua_set_integer(L, "parent", q->parent);
	return 1;
}

/* ---- methods ---- */

static int l_list(lua_State *L)
{
	struct push p = { .one = one_link, .size = sizeof(struct lat_link) };

	return give(L, &p, lat_link_list(self(L), collect_link, &p.list), "list the devices");
}

static int l_get(lua_State *L)
{
	struct lat_link link;
	int r = lat_link_get(self(L), luaL_checkstring(L, 2), &link);

	if (r < 0)
		return failed(L, r, "look at device", 2);
	lat_lua_push_link(L, &link);
	return 1;
}

/* The field `netns` of the table at 3: a descriptor, and whether it is ours to close. */
static int namespace_field(lua_State *L, int arg, bool *ours)
{
	int fd = 0;

	*ours = lua_type(L, arg) == LUA_TSTRING;
	if (*ours) {
		fd = open(lua_tostring(L, arg), O_RDONLY | O_CLOEXEC);
		return fd < 0 ? -errno : fd;
	}
	return lua_isnoneornil(L, arg) ? 0 : lat_netns_fd(lat_lua_check_netns(L, arg));
}

static int l_set(lua_State *L)
{
	struct lat_link_change change = { .set_up = false };
	uint32_t index;
	bool ours;
	int r;

	luaL_checktype(L, 3, LUA_TTABLE);
	lua_settop(L, 3);
	if (lua_getfield(L, 3, "up") != LUA_TNIL) {
		change.set_up = true;
		change.up = lua_toboolean(L, -1);
	}
	if (lua_getfield(L, 3, "mtu") != LUA_TNIL) {
		lua_Integer mtu = luaL_checkinteger(L, -1);

		luaL_argcheck(L, mtu >= 68 && mtu <= 65535, 3, "mtu: 68 to 65535 expected");
		change.mtu = (uint32_t)mtu;
	}
	if (lua_getfield(L, 3, "name") != LUA_TNIL)
		change.rename = luaL_checkstring(L, -1);
	if (lua_getfield(L, 3, "alias") != LUA_TNIL)
		change.alias = luaL_checkstring(L, -1);
	lua_getfield(L, 3, "netns"); /* at 8 */
	r = device(L, 2, &index);
	if (r < 0)
		return failed(L, r, "change device", 2);
	r = namespace_field(L, 8, &ours);
	if (r >= 0) {
		change.netns = r;
		r = lat_link_set(self(L), index, &change);
		if (ours)
			close(change.netns);
	}
	return done(L, r, "change device", 2);
}

static int l_add(lua_State *L)
{
	return done(L, lat_link_add(self(L), luaL_checkstring(L, 2), luaL_checkstring(L, 3)), "make device", 3);
}

static int l_add_veth(lua_State *L)
{
	const char *name = luaL_checkstring(L, 2), *peer = luaL_checkstring(L, 3);
	bool ours;
	int fd, r;

	lua_settop(L, 4);
	fd = namespace_field(L, 4, &ours);
	r = fd < 0 ? fd : lat_link_add_veth(self(L), name, peer, fd);
	if (ours && fd >= 0)
		close(fd);
	return done(L, r, "make veth pair", 2);
}

static int l_delete(lua_State *L)
{
	uint32_t index;
	int r = device(L, 2, &index);

	return done(L, r < 0 ? r : lat_link_delete(self(L), index), "remove device", 2);
}

/* The device of an optional argument, 0 for none. */
static int only(lua_State *L, int arg, uint32_t *out)
{
	*out = 0;
	return lua_isnoneornil(L, arg) ? 0 : device(L, arg, out);
}

#define LISTER(lua_name, what, record, text)                                                       \
	static int lua_name(lua_State *L)                                                          \
	{                                                                                          \
		struct push p = { .one = one_##what, .size = sizeof(struct record) };              \
		int r = only(L, 2, &p.only);                                                       \
                                                                                                   \
		if (r < 0)                                                                         \
			return failed(L, r, "look at device", 2);                                  \
		return give(L, &p, lat_link_##what##_list(self(L), collect_##what, &p.list), text); \
	}
LISTER(l_addresses, address, lat_link_address, "list the addresses")
LISTER(l_routes, route, lat_link_route, "list the routes")
LISTER(l_qdiscs, qdisc, lat_link_qdisc, "list the queueing disciplines")

static void check_address(lua_State *L, int arg, struct lat_link_address *out)
{
	const char *text = luaL_checkstring(L, arg);
	int r = lat_link_address_parse(text, out);

	if (r < 0)
		luaL_argerror(L, arg, lua_pushfstring(L, "'%s': %s", text, r == -ERANGE
			? "the prefix length is beyond the address family" : "not an address"));
}

static int change_address(lua_State *L, int (*change)(struct lat_links *, const struct lat_link_address *), const char *tried)
{
	struct lat_link_address a;
	uint32_t index;
	int r;

	check_address(L, 3, &a);
	r = device(L, 2, &index);
	if (r < 0)
		return failed(L, r, "look at device", 2);
	a.index = index;
	return done(L, change(self(L), &a), tried, 3);
}

static int l_address_add(lua_State *L)
{
	return change_address(L, lat_link_address_add, "add address");
}

static int l_address_delete(lua_State *L)
{
	return change_address(L, lat_link_address_delete, "remove address");
}

static lua_Integer number_field(lua_State *L, const char *key, lua_Integer max)
{
	lua_Integer n = 0;

	if (lua_getfield(L, 2, key) != LUA_TNIL) {
		n = luaL_checkinteger(L, -1);
		if (n < 0 || n > max)
			luaL_argerror(L, 2, lua_pushfstring(L, "%s: 0 to %I expected", key, max));
	}
	lua_pop(L, 1);
	return n;
}

static int change_route(lua_State *L, bool add)
{
	struct lat_link_route route = { .index = 0 };
	const char *text;
	bool replace;
	int r;

	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 2);
	route.metric = (uint32_t)number_field(L, "metric", UINT32_MAX);
	route.table = (uint32_t)number_field(L, "table", UINT32_MAX);
	route.protocol = (uint8_t)number_field(L, "protocol", UINT8_MAX);
	lua_getfield(L, 2, "replace");
	replace = lua_toboolean(L, -1);
	if (lua_getfield(L, 2, "via") != LUA_TNIL) {
		route.has_via = true;
		text = luaL_checkstring(L, -1);
		if (lat_addr_parse(text, &route.via) < 0)
			return luaL_argerror(L, 2, lua_pushfstring(L, "via: '%s' is no address", text));
	}
	lua_getfield(L, 2, "to"); /* at 5 */
	text = luaL_checkstring(L, 5);
	if (lat_prefix_parse(text, &route.to) < 0)
		return luaL_argerror(L, 2, lua_pushfstring(L, "to: '%s' is no prefix (address/length without host bits)", text));
	if (route.has_via && lat_addr_is4(&route.via) != (route.to.family == 4))
		return luaL_argerror(L, 2, "to and via must be of one family");
	if (lua_getfield(L, 2, "dev") != LUA_TNIL) { /* at 6 */
		r = device(L, 6, &route.index);
		if (r < 0)
			return failed(L, r, "look at device", 6);
	}
	r = add ? lat_link_route_add(self(L), &route, replace) : lat_link_route_delete(self(L), &route);
	return done(L, r, add ? "add route to" : "remove route to", 5);
}

static int l_route_add(lua_State *L)
{
	return change_route(L, true);
}

static int l_route_delete(lua_State *L)
{
	return change_route(L, false);
}

static int l_clsact(lua_State *L)
{
	uint32_t index;
	int r = device(L, 2, &index);

	luaL_checktype(L, 3, LUA_TBOOLEAN);
	return done(L, r < 0 ? r : lat_link_clsact(self(L), index, lua_toboolean(L, 3)), "change clsact of", 2);
}

static int l_valid_name(lua_State *L)
{
	size_t len;
	const char *name = luaL_checklstring(L, 1, &len);

	lua_pushboolean(L, strlen(name) == len && lat_link_name_ok(name));
	return 1;
}

#define FAILS ", string? error, string? code"
static const struct lat_api_function functions[] = {
	{ "open", l_open, "ns?: lattice.netns.Namespace", "lattice.link.Links?" FAILS,
		"A netlink socket of this namespace or the one given." },
	{ "watch", lat_lua_link_watch, "ns: lattice.netns.Namespace?, fn: fun(events: lattice.link.Event[]), buffer?: integer",
		"lattice.link.Watch?" FAILS,
		"Call fn with what changes of devices, addresses and routes; after what = \"resync\" some changes were lost: list "
		"again." },
	{ "valid_name", l_valid_name, "name: string", "boolean", "Whether a device may have this name." },
	{ 0 },
};

static const struct lat_api_function methods[] = {
	{ "list", l_list, "", "lattice.link.Link[]?" FAILS, "All devices." },
	{ "get", l_get, "name: string", "lattice.link.Link?" FAILS, "One device; ENODEV when there is none." },
	{ "set", l_set,
		"dev: string|integer, change: { up?: boolean, mtu?: integer, name?: string, alias?: string, netns?: "
		"lattice.netns.Namespace|string }",
		"boolean?" FAILS, "Change a device; netns: the namespace, or its path, that it goes to." },
	{ "add", l_add, "kind: string, name: string", "boolean?" FAILS,
		"Make a device of a kind without settings: \"dummy\", \"bridge\", \"wireguard\" ...; EEXIST, EOPNOTSUPP." },
	{ "add_veth", l_add_veth, "name: string, peer: string, ns?: lattice.netns.Namespace|string", "boolean?" FAILS,
		"Make a pair of joined devices, the peer in that namespace." },
	{ "delete", l_delete, "dev: string|integer", "boolean?" FAILS, "Remove a device." },
	{ "addresses", l_addresses, "dev?: string|integer", "lattice.link.Address[]?" FAILS, "Addresses, of all devices or one." },
	{ "address_add", l_address_add, "dev: string|integer, address: string", "boolean?" FAILS,
		"\"10.42.0.1/24\"; IPv6 ones are usable at once." },
	{ "address_delete", l_address_delete, "dev: string|integer, address: string", "boolean?" FAILS, "Remove an address." },
	{ "routes", l_routes, "dev?: string|integer", "lattice.link.Route[]?" FAILS,
		"Routes to networks and hosts, of all devices or one; not the table \"local\"." },
	{ "route_add", l_route_add,
		"route: { to: string, dev?: string|integer, via?: string, metric?: integer, table?: integer, protocol?: integer, "
		"replace?: boolean }",
		"boolean?" FAILS, "Add a route; EEXIST unless replace." },
	{ "route_delete", l_route_delete,
		"route: { to: string, dev?: string|integer, via?: string, metric?: integer, table?: integer, protocol?: integer }",
		"boolean?" FAILS, "Remove the route that matches." },
	{ "qdiscs", l_qdiscs, "dev?: string|integer", "lattice.link.Qdisc[]?" FAILS, "Queueing disciplines." },
	{ "clsact", l_clsact, "dev: string|integer, add: boolean", "boolean?" FAILS,
		"Add or remove the hook for programs on the way in and out; removing takes everybody's programs along." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.link.Link", "A network device.", NULL, NULL,
		"name: string, index: integer, mtu: integer, up: boolean, running: boolean, kind: string, alias: string, mac: "
		"string, qdisc: string" },
	{ "lattice.link.Address", "An address of a device.", NULL, NULL,
		"address: string, family: integer, index: integer, tentative: boolean" },
	{ "lattice.link.Route", "A route.", NULL, NULL,
		"to: string, index?: integer, via?: string, metric?: integer, table: integer, protocol: integer" },
	{ "lattice.link.Qdisc", "A queueing discipline.", NULL, NULL,
		"kind: string, index: integer, handle: integer, parent: integer" },
	{ "lattice.link.Event", "A change; with the fields of the Link, Address or Route.", NULL, NULL,
		"what: \"link\"|\"address\"|\"route\"|\"resync\", gone: boolean, index?: integer, name?: string, up?: boolean, "
		"address?: string, to?: string" },
	{ "lattice.link.Links", "A netlink socket.", &links_type, methods, NULL },
	{ "lattice.link.Watch", "Changes on their way to a function.", &lat_lua_link_watch_type, NULL, NULL },
	{ 0 },
};

const struct lat_api lat_api_link = {
	.name = "lattice.link",
	.doc = "Network devices, addresses, routes, and their changes.",
	.functions = functions,
	.classes = classes,
};
