/* lattice.queue: packets that wait in an NFQUEUE for the script's verdict (kernel/queue.h), on the state's loop.
 *
 * A batch is copied out of the kernel's buffer first, then Lua is entered once for all of it. Whatever goes wrong there is a
 * drop for each packet that has no verdict yet. */
#include "lua/api.h"
#include "kernel/queue.h"
#include "launcher/nft.h"
#include "lua/l_netns.h"
#include "lua/runtime_impl.h"
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct held {
	uint32_t id;
	size_t size;
	uint8_t *data;
	bool done; /* has its verdict, or the script keeps it */
};

struct queue {
	struct lat_rt *rt;
	uv_poll_t poll;
	int fd;
	struct lat_queue *queue;
	uint64_t odd, packets;
	struct held batch[LAT_QUEUE_BATCH];
	size_t count;
};

static void free_queue(uv_handle_t *handle)
{
	free(handle->data);
}

static void close_queue(void *object)
{
	struct queue *q = object;
	lua_State *L = q->rt->L;

	if (lua_checkstack(L, 1)) {
		lua_pushnil(L);
		lua_rawsetp(L, LUA_REGISTRYINDEX, q);
	}
	uv_close((uv_handle_t *)&q->poll, free_queue);
	lat_queue_free(q->queue);
	q->queue = NULL;
	close(q->fd);
}

static const struct lat_box_type queue_type = { "lattice.queue.Queue", close_queue };

static void keep_packet(void *ctx, const struct lat_queue_packet *p)
{
	struct queue *q = ctx;
	struct held *h;

	if (q->count == LAT_QUEUE_BATCH)
		return; /* cannot be: see LAT_QUEUE_BATCH */
	h = &q->batch[q->count];
	h->data = malloc(p->size ? p->size : 1);
	if (!h->data) {
		lat_queue_verdict(q->queue, p->id, NF_DROP, 0);
		return;
	}
	memcpy(h->data, p->data, p->size);
	h->id = p->id;
	h->size = p->size;
	h->done = false;
	q->count++;
}

static const char *const verdicts[] = { "accept", "drop", "later", NULL };

/* The handler is called for each packet: (data, id) -> "accept" | "drop" | "later", mark? */
static int deliver(lua_State *L)
{
	struct queue *q = lua_touserdata(L, 1);

	lua_rawgetp(L, LUA_REGISTRYINDEX, q);
	lua_getiuservalue(L, -1, 1);
	for (size_t i = 0; i < q->count && q->queue; i++) {
		struct held *h = &q->batch[i];
		int verdict;
		uint32_t mark;

		lua_pushvalue(L, -1);
		lua_pushlstring(L, (const char *)h->data, h->size);
		lua_pushinteger(L, h->id);
		lua_call(L, 2, 2);
		verdict = luaL_checkoption(L, -2, "drop", verdicts);
		mark = (uint32_t)luaL_optinteger(L, -1, 0);
		if (verdict < 2 && q->queue)
			lat_queue_verdict(q->queue, h->id, verdict == 0 ? NF_ACCEPT : NF_DROP, mark);
		h->done = true;
		lua_pop(L, 2);
	}
	return 0;
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
	struct queue *q = poll->data;
	struct lat_rt *rt = q->rt;
	struct lat_rt_error err;
	int r;

	q->count = 0;
	r = lat_queue_receive(q->queue, keep_packet, q, &q->odd);
	if (r < 0 && r != -EAGAIN && r != -EINTR && r != -ENOBUFS) {
		uv_poll_stop(poll); /* the queue is gone; its packets are dropped */
		return;
	}
	if (status < 0) /* ENOBUFS shows as an error of the descriptor, on which libuv stops watching */
		uv_poll_start(poll, UV_READABLE, on_readable);
	q->packets += q->count;
	if (q->count == 0)
		return;
	/* The script may close the queue in its handler: q lives until the close callback, q->queue does not. */
	r = lat_rt_enter(rt, deliver, q, &err);
	for (size_t i = 0; i < q->count; i++) {
		if (!q->batch[i].done && q->queue)
			lat_queue_verdict(q->queue, q->batch[i].id, NF_DROP, 0);
		free(q->batch[i].data);
	}
	q->count = 0;
	if (r < 0)
		lat_rt_callback_failed(rt, &err);
}

static int l_open(lua_State *L)
{
	struct lat_netns *ns = lua_isnil(L, 1) ? NULL : lat_lua_check_netns(L, 1);
	lua_Integer number = luaL_checkinteger(L, 2), length = luaL_optinteger(L, 4, 1024);
	uv_loop_t *loop = lat_rt_loop(lat_rt_of(L));
	struct lat_box *box;
	struct queue *q;
	int r;

	luaL_argcheck(L, number >= 0 && number <= UINT16_MAX, 2, "a queue number expected");
	luaL_checktype(L, 3, LUA_TFUNCTION);
	luaL_argcheck(L, length > 0 && length <= 65536, 4, "a length expected");
	if (!loop)
		return luaL_error(L, "this state has no loop");
	box = lat_box_new(L, &queue_type);
	lua_pushvalue(L, 3);
	lua_setiuservalue(L, -2, 1);
	q = calloc(1, sizeof(*q));
	if (!q)
		return luaL_error(L, "out of memory");
	q->rt = lat_rt_of(L);
	q->poll.data = q;
	q->fd = ns ? lat_netns_socket(ns, AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER)
		   : socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_NETFILTER);
	r = q->fd < 0 ? (ns ? q->fd : -errno) : lat_queue_open(q->fd, (uint16_t)number, (uint32_t)length, &q->queue);
	if (r == 0) {
		r = uv_poll_init(loop, &q->poll, q->fd);
		if (r < 0)
			lat_queue_free(q->queue);
	}
	if (r < 0) {
		if (q->fd >= 0)
			close(q->fd);
		free(q);
		return lat_push_errno(L, r, "open a queue");
	}
	lat_box_fill(L, box, q);
	lua_pushvalue(L, -1);
	lua_rawsetp(L, LUA_REGISTRYINDEX, q);
	uv_poll_start(&q->poll, UV_READABLE, on_readable);
	return 1;
}

/* One rule in a table of its own; every call replaces nothing and adds to it. */
static int send_rule(int fd, uint16_t number, uint8_t proto, uint16_t port, bool compat)
{
	static const struct lat_nft_hook hook = { NF_INET_PRE_ROUTING, -150, false };
	uint16_t wire = htons(port);
	int r = 0;

	for (int v6 = 0; r == 0 && v6 < 2; v6++) {
		struct lat_nft n;

		r = lat_nft_begin(&n, "lattice-queue");
		if (r < 0)
			return r;
		n.family = v6 ? NFPROTO_IPV6 : NFPROTO_IPV4;
		n.compat_queue = compat;
		lat_nft_table(&n);
		lat_nft_chain(&n, "hold", &hook);
		lat_nft_rule(&n, "hold");
		lat_nft_l4proto(&n, proto);
		lat_nft_transport(&n, 2, 2, &wire, NULL);
		if (proto == IPPROTO_TCP)
			lat_nft_tcp_syn(&n, true);
		lat_nft_queue(&n, number);
		r = lat_nft_end(&n);
		if (r == 0)
			r = lat_nft_send(fd, &n);
		lat_nft_free(&n);
	}
	return r;
}

static int l_hold(lua_State *L)
{
	static const char *const protos[] = { "tcp", "udp", NULL };
	struct lat_netns *ns = lat_lua_check_netns(L, 1);
	lua_Integer number = luaL_checkinteger(L, 2), port = luaL_checkinteger(L, 4);
	uint8_t proto = luaL_checkoption(L, 3, NULL, protos) == 0 ? IPPROTO_TCP : IPPROTO_UDP;
	int fd, r;

	luaL_argcheck(L, number >= 0 && number <= UINT16_MAX, 2, "a queue number expected");
	luaL_argcheck(L, port > 0 && port <= UINT16_MAX, 4, "a port expected");
	fd = lat_netns_socket(ns, AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
	if (fd < 0)
		return lat_push_errno(L, fd, "reach the namespace's netfilter");
	r = send_rule(fd, (uint16_t)number, proto, (uint16_t)port, false);
	if (r == -ENOENT) /* a kernel without nft_queue */
		r = send_rule(fd, (uint16_t)number, proto, (uint16_t)port, true);
	close(fd);
	if (r < 0)
		return lat_push_errno(L, r, "add a rule");
	lua_pushboolean(L, true);
	return 1;
}

static int l_verdict(lua_State *L)
{
	struct queue *q = lat_box_check(L, 1, &queue_type);
	lua_Integer id = luaL_checkinteger(L, 2), mark = luaL_optinteger(L, 4, 0);
	int verdict = luaL_checkoption(L, 3, NULL, verdicts), r;

	luaL_argcheck(L, verdict < 2, 3, "\"accept\" or \"drop\" expected");
	r = lat_queue_verdict(q->queue, (uint32_t)id, verdict == 0 ? NF_ACCEPT : NF_DROP, (uint32_t)mark);
	if (r < 0)
		return lat_push_errno(L, r, "give a verdict");
	lua_pushboolean(L, true);
	return 1;
}

static int l_packets(lua_State *L)
{
	struct queue *q = lat_box_check(L, 1, &queue_type);

	lua_pushinteger(L, (lua_Integer)q->packets);
	lua_pushinteger(L, (lua_Integer)q->odd);
	return 2;
}

static const struct lat_api_function functions[] = {
	{ "open", l_open,
		"ns: lattice.netns.Namespace?, number: integer, fn: (fun(data: string, id: integer): "
		"(\"accept\"|\"drop\"|\"later\"), integer?), length?: integer",
		"lattice.queue.Queue?, string? error, string? code",
		"Take the packets of an NFQUEUE of a namespace (nil: this one); fn says what becomes of each, with a mark. "
		"An error or nothing is a drop; \"later\" holds it for verdict()." },
	{ "hold", l_hold,
		"ns: lattice.netns.Namespace, number: integer, proto: \"tcp\"|\"udp\", port: integer",
		"boolean?, string? error, string? code",
		"Make packets to that port (of TCP: the first one) wait in the namespace's queue; without a reader they are "
		"dropped." },
	{ 0 },
};

static const struct lat_api_function methods[] = {
	{ "verdict", l_verdict, "id: integer, verdict: \"accept\"|\"drop\", mark?: integer",
		"boolean?, string? error, string? code", "Say what becomes of a packet that was held for later." },
	{ "packets", l_packets, "", "integer packets, integer odd",
		"How many packets came, and how many messages that were none." },
	{ 0 },
};

static const struct lat_api_class classes[] = {
	{ "lattice.queue.Queue", "A queue; what it still holds is dropped when it is closed.", &queue_type, methods, NULL },
	{ 0 },
};

const struct lat_api lat_api_queue = {
	.name = "lattice.queue",
	.doc = "Packets that wait for the script's verdict (NFQUEUE).",
	.functions = functions,
	.classes = classes,
};
