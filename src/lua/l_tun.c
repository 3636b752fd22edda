/* lattice.tun: TUN and TAP devices by kernel/tun.h; packets come to the script in batches on the state's loop. */
#include "lua/api.h"
#include "kernel/tun.h"
#include "lua/runtime_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 64

/* One queue on the loop: its own memory, for libuv frees it later than the device. */
struct reader {
	uv_poll_t poll;
	struct device *device;
	unsigned queue;
};

struct device {
	struct lat_rt *rt;
	struct lat_tun *tun;
	struct reader *readers[LAT_TUN_QUEUES]; /* all or none */
	struct reader *ready;                   /* whose packets deliver() reads */
	uint8_t buf[LAT_TUN_PACKET];
};

static void free_reader(uv_handle_t *handle)
{
	free(handle->data);
}

static void stop_reading(struct device *d)
{
	for (unsigned i = 0; i < LAT_TUN_QUEUES; i++) {
		if (d->readers[i])
			uv_close((uv_handle_t *)&d->readers[i]->poll, free_reader);
		d->readers[i] = NULL;
	}
}

static void close_device(void *object)
{
	struct device *d = object;
	lua_State *L = d->rt->L;

	if (lua_checkstack(L, 1)) {
		lua_pushnil(L);
		lua_rawsetp(L, LUA_REGISTRYINDEX, d);
	}
	stop_reading(d);
	lat_tun_close(d->tun);
	free(d);
}

static const struct lat_box_type device_type = { "lattice.tun.Device", close_device };

static struct device *self(lua_State *L)
{
	return lat_box_check(L, 1, &device_type);
}

static bool flag(lua_State *L, const char *key)
{
	bool value;

	lua_getfield(L, 1, key);
	value = lua_toboolean(L, -1);
	lua_pop(L, 1);
	return value;
}

static int l_open(lua_State *L)
{
	static const char *const kinds[] = { "tun", "tap", NULL };
	struct lat_tun_options o = { 0 };
	struct lat_box *box;
	struct device *d;
	lua_Integer queues;
	const char *text;
	int r;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	o.attach = flag(L, "attach");
	o.persist = flag(L, "persist");
	lua_getfield(L, 1, "queues");
	queues = luaL_optinteger(L, -1, 1);
	luaL_argcheck(L, queues >= 1 && queues <= LAT_TUN_QUEUES, 1, "queues: 1 to 16 expected");
	o.queues = (unsigned)queues;
	lua_getfield(L, 1, "kind");
	o.tap = luaL_checkoption(L, -1, "tun", kinds) == 1;
	lua_getfield(L, 1, "name");
	o.name = luaL_checkstring(L, -1);
	box = lat_box_new(L, &device_type);
	d = calloc(1, sizeof(*d));
	if (!d)
		return luaL_error(L, "out of memory");
	d->rt = lat_rt_of(L);
	r = lat_tun_open(&o, &d->tun);
	if (r == 0) {
		lat_box_fill(L, box, d);
		return 1;
	}
	free(d);
	text = lua_pushfstring(L, o.attach ? "attach to device %s" : "make device %s", o.name);
	if (r == -EINVAL && !o.attach)
		text = lua_pushfstring(L, "make device '%s': a name is 1 to 15 bytes without '/', ':', '%%' and spaces", o.name);
	return lat_push_errno(L, r, text);
}

static int l_name(lua_State *L)
{
	lua_pushstring(L, lat_tun_name(self(L)->tun));
	return 1;
}

static int l_index(lua_State *L)
{
	lua_pushinteger(L, lat_tun_index(self(L)->tun));
	return 1;
}

static unsigned check_queue(lua_State *L, int arg, const struct device *d)
{
	lua_Integer n = luaL_optinteger(L, arg, 1);

	luaL_argcheck(L, n >= 1 && n <= lat_tun_queues(d->tun), arg, "no such queue");
	return (unsigned)n - 1;
}

static int l_fd(lua_State *L)
{
	struct device *d = self(L);

	lua_pushinteger(L, lat_tun_fd(d->tun, check_queue(L, 2, d)));
	return 1;
}

static int l_persist(lua_State *L)
{
	int r;

	luaL_checktype(L, 2, LUA_TBOOLEAN);
	r = lat_tun_persist(self(L)->tun, lua_toboolean(L, 2));
	if (r < 0)
		return lat_push_errno(L, r, "change a device's persistence");
	lua_pushboolean(L, true);
	return 1;
}

/* ---- reading ---- */

/* One Lua call for all that is there: (packets, queue). Behind the door: what is read here is in Lua strings at once. */
static int deliver(lua_State *L)
{
	struct device *d = lua_touserdata(L, 1);
	unsigned queue = d->ready->queue;
	lua_Integer n = 0;

	lua_rawgetp(L, LUA_REGISTRYINDEX, d);
	lua_getiuservalue(L, -1, 1);
	lua_createtable(L, 8, 0);
	while (n < BATCH) {
		ssize_t size = lat_tun_read(d->tun, queue, d->buf, sizeof(d->buf));

		if (size == -EBADFD) { /* deleted under us: readable for ever */
			stop_reading(d);
			lua_pushvalue(L, -2);
			lua_pushnil(L);
			lua_pushinteger(L, (lua_Integer)queue + 1);
			lua_call(L, 2, 0);
			return 0;
		}
		if (size < 0)
			break;
		lua_pushlstring(L, (const char *)d->buf, (size_t)size);
		lua_rawseti(L, -2, ++n);
	}
	if (n == 0)
		return 0;
	lua_pushinteger(L, (lua_Integer)queue + 1);
	lua_call(L, 2, 0);
	return 0;
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
	struct reader *reader = poll->data;
	struct device *d = reader->device;
	struct lat_rt *rt = d->rt;
	struct lat_rt_error err;

	d->ready = reader;
	if (lat_rt_enter(rt, deliver, d, &err) < 0)
		lat_rt_callback_failed(rt, &err);
}

static int start_reader(struct device *d, uv_loop_t *loop, unsigned queue)
{
	struct reader *reader = calloc(1, sizeof(*reader));
	int r;

	if (!reader)
		return -ENOMEM;
	r = uv_poll_init(loop, &reader->poll, lat_tun_fd(d->tun, queue));
	if (r < 0) {
		free(reader);
		return r;
	}
	reader->device = d;
	reader->queue = queue;
	reader->poll.data = reader;
	d->readers[queue] = reader;
	return uv_poll_start(&reader->poll, UV_READABLE, on_readable);
}

static int l_read(lua_State *L)
{
	struct device *d = self(L);
	uv_loop_t *loop = lat_rt_loop(lat_rt_of(L));
	int r = 0;

	if (!loop)
		return luaL_error(L, "this state has no loop");
	lua_settop(L, 2);
	if (!lua_isnil(L, 2))
		luaL_checktype(L, 2, LUA_TFUNCTION);
	lua_setiuservalue(L, 1, 1);
	lua_getiuservalue(L, 1, 1);
	stop_reading(d);
	if (lua_isnil(L, -1)) {
		lua_rawsetp(L, LUA_REGISTRYINDEX, d);
		lua_pushboolean(L, true);
		return 1;
	}
	lua_pushvalue(L, 1);
	lua_rawsetp(L, LUA_REGISTRYINDEX, d);
	for (unsigned i = 0; r == 0 && i < lat_tun_queues(d->tun); i++)
		r = start_reader(d, loop, i);
	if (r < 0) {
		stop_reading(d);
		return lat_push_errno(L, r, "watch a device");
	}
	lua_pushboolean(L, true);
	return 1;
}

static int l_write(lua_State *L)
{
	struct device *d = self(L);
	unsigned queue = check_queue(L, 3, d);
	lua_Integer count = 0;
	ssize_t r = 0;
	size_t size;

	if (lua_type(L, 2) == LUA_TSTRING) {
		const char *packet = lua_tolstring(L, 2, &size);

		r = lat_tun_write(d->tun, queue, packet, size);
		count = r >= 0;
	} else {
		luaL_checktype(L, 2, LUA_TTABLE);
		for (; r >= 0 && lua_rawgeti(L, 2, count + 1) == LUA_TSTRING; count += r >= 0) {
			const char *packet = lua_tolstring(L, -1, &size);

			r = lat_tun_write(d->tun, queue, packet, size);
			lua_pop(L, 1);
		}
	}
	if (r < 0 && count == 0)
		return lat_push_errno(L, (int)r, "write to a device");
	lua_pushinteger(L, count);
	return 1;
}

#define FAILS ", string? error, string? code"
static const struct lat_api_function functions[] = {
	{ "open", l_open,
		"options: { name: string, kind?: \"tun\"|\"tap\", attach?: boolean, persist?: boolean, queues?: integer }",
		"lattice.tun.Device?" FAILS,
		"Make a device (EEXIST if the name is taken), or attach to one that is there; it ends with the box unless it "
		"persists." },
	{ 0 },
};

static const struct lat_api_function methods[] = {
	{ "name", l_name, "", "string", "Its name." },
	{ "index", l_index, "", "integer", "Its interface index, for lattice.link." },
	{ "fd", l_fd, "queue?: integer", "integer", "The descriptor of a queue; the box closes it." },
	{ "persist", l_persist, "persist: boolean", "boolean?" FAILS, "Whether it outlives the box." },
	{ "read", l_read, "fn?: fun(packets: string[]?, queue: integer)", "boolean?" FAILS,
		"Call fn with what was read, at most 64 packets at once; nil packets: the device was deleted. Without fn: stop." },
	{ "write", l_write, "packets: string|string[], queue?: integer", "integer? written" FAILS,
		"Write packets until one is refused (EAGAIN: no room, EIO: the device is down); how many were taken." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.tun.Device", "A TUN or TAP device, open.", &device_type, methods, NULL },
	{ 0 },
};

const struct lat_api lat_api_tun = {
	.name = "lattice.tun",
	.doc = "TUN and TAP devices: their packets, read and written by the script.",
	.functions = functions,
	.classes = classes,
};
