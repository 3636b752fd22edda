/* The readers of a source of events: each drains a ring buffer (or NFLOG group, or what a script pushed) with a budget a turn into the batch.
 *
 * An idle reader waits in poll; a busy one is looked at by a short timer instead, so that the enforcing side need not wake us
 * for each event; and an idle ring is looked at now and then for events whose producer did not wake us. */
#include "lua/events.h"
#include "base/clock.h"
#include "kernel/nflog.h"
#include "lua/runtime_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BUDGET 4096         /* events a turn of the loop */
#define BUSY 128            /* as many in a turn: on to the timer */
#define BUSY_MS 1
#define IDLE_MS 100
#define QUIET_TURNS 8       /* of the timer, then back to poll */
#define PUSH_MAX (1u << 20) /* events that a script may have pushed and nobody has taken */
#define LOSS_MS 20          /* a record of losses waits at most so long */
#define LAST_TURNS 64       /* of BUDGET: what waits when a source is closed */
#define STOP_MS 3000

struct lat_events_reader {
	struct lat_events *source; /* NULL: only its handles are left */
	struct lat_events_reader *next;
	struct lat_ring *ring;   /* neither: what was pushed */
	struct lat_nflog *nflog;
	uint8_t *pushed;
	size_t pushed_count, pushed_at;
	bool polled, busy;
	unsigned quiet, handles;
	uv_poll_t poll;
	uv_timer_t timer;
};

/* ---- the end ---- */

static void handle_closed(uv_handle_t *handle)
{
	struct lat_events_reader *r = handle->data;

	if (--r->handles == 0)
		free(r);
}

static void reader_end(struct lat_events_reader *r)
{
	r->source = NULL;
	if (r->polled)
		uv_close((uv_handle_t *)&r->poll, handle_closed);
	uv_close((uv_handle_t *)&r->timer, handle_closed);
	lat_ring_free(r->ring);
	lat_nflog_free(r->nflog);
	free(r->pushed);
	r->ring = NULL;
	r->nflog = NULL;
	r->pushed = NULL;
}

static void close_events(void *object);

const struct lat_box_type lat_events_type = { "lattice.events.Source", close_events };

struct lat_events *lat_events_check(lua_State *L)
{
	return lat_box_check(L, 1, &lat_events_type);
}

/* ---- draining ---- */

static void take(void *ctx, const void *data, size_t size)
{
	struct lat_events *s = ctx;
	struct lat_event *e = &s->batch[s->count];

	if ((s->closing && !s->last) || lat_pump_take(s->pump, data, size, e) < 0)
		return;
	lat_events_tap_take(s, e);
	if (e->kind == LAT_EVENT_CLOSE && s->ends_count < s->ends_room)
		lat_event_flow(e, &s->ends[s->ends_count++]);
	if (e->kind != LAT_EVENT_VERDICT)
		return;
	if (++s->count == LAT_EVENTS_BATCH)
		lat_events_deliver(s);
}

void lat_events_take(struct lat_events *s, const struct lat_event *e)
{
	take(s, e, sizeof(*e));
}

static void take_packet(void *ctx, const struct lat_nflog_packet *packet)
{
	struct lat_events *s = ctx;
	struct lat_event e;

	if (lat_event_from_nflog(packet, &e) == 0)
		take(s, &e, sizeof(e));
	else if (!s->closing || s->last)
		lat_pump_lost(s->pump, 1, false, "a packet of NFLOG was no event");
}

static int take_packets(struct lat_events_reader *r, int budget)
{
	struct lat_nflog_losses losses;
	int n = lat_nflog_dispatch(r->nflog, budget, &losses);

	if (r->source->closing && !r->source->last)
		return n;
	if (losses.lost)
		lat_pump_lost(r->source->pump, losses.lost, true, "the buffer of NFLOG was full");
	if (losses.odd)
		lat_pump_lost(r->source->pump, losses.odd, false, "a message of NFLOG was no packet");
	return n;
}

static int take_pushed(struct lat_events_reader *r, int budget)
{
	int n = 0;

	for (; n < budget && r->pushed_at < r->pushed_count; n++)
		take(r->source, r->pushed + r->pushed_at++ * sizeof(struct lat_event), sizeof(struct lat_event));
	if (r->pushed_at == r->pushed_count)
		r->pushed_at = r->pushed_count = 0;
	return n;
}

static void on_readable(uv_poll_t *poll, int status, int events);
static void on_timer(uv_timer_t *timer);

static void pace(struct lat_events_reader *r, int n)
{
	bool more = n >= BUDGET;
	uint64_t again;

	if (!r->polled) {
		if (r->pushed_count || lat_pump_flush(r->source->pump))
			uv_timer_start(&r->timer, on_timer, r->pushed_count ? 0 : LOSS_MS, 0);
		return;
	}
	r->quiet = n ? 0 : r->quiet + 1;
	if (!r->busy && n >= BUSY) {
		r->busy = true;
		uv_poll_stop(&r->poll);
	} else if (r->busy && r->quiet >= QUIET_TURNS) {
		r->busy = false;
		uv_poll_start(&r->poll, UV_READABLE, on_readable);
	}
	/* A producer that woke us may put more behind it without doing so again for a moment (bpf/tc_abi.h). */
	again = more ? 0 : r->busy || r->quiet < QUIET_TURNS ? BUSY_MS : IDLE_MS;
	if (!r->ring && !r->busy && lat_pump_flush(r->source->pump))
		uv_timer_start(&r->timer, on_timer, LOSS_MS, 0);
	if (r->ring || r->busy)
		uv_timer_start(&r->timer, on_timer, again, 0);
}

static int take_some(struct lat_events_reader *r)
{
	return r->ring ? lat_ring_dispatch(r->ring, BUDGET) : r->nflog ? take_packets(r, BUDGET) : take_pushed(r, BUDGET);
}

void lat_events_take_last(struct lat_events *s)
{
	s->last = true;
	for (struct lat_events_reader *r = s->readers; r; r = r->next)
		for (int turns = 0; turns < LAST_TURNS && take_some(r) >= BUDGET; turns++)
			s->count = 0;
}

static void events_end(struct lat_events *s)
{
	lat_events_take_last(s);
	while (s->readers) {
		struct lat_events_reader *r = s->readers;

		s->readers = r->next;
		reader_end(r);
	}
	lat_events_end_record(s);
	lat_pump_free(s->pump, STOP_MS);
	lat_events_forget_handlers(s);
	free(s->tap);
	free(s);
}

static void drain(struct lat_events_reader *r)
{
	struct lat_events *s = r->source;
	int n;

	s->draining = true;
	n = take_some(r);
	lat_events_deliver(s);
	s->draining = false;
	if (s->closing)
		events_end(s);
	else
		pace(r, n > 0 ? n : 0);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
	drain(poll->data);
}

static void on_timer(uv_timer_t *timer)
{
	drain(timer->data);
}

static void close_events(void *object)
{
	struct lat_events *s = object;
	lua_State *L = s->rt->L;

	if (lua_checkstack(L, 1)) {
		lua_pushnil(L);
		lua_rawsetp(L, LUA_REGISTRYINDEX, s);
	}
	s->closing = true;
	if (!s->draining)
		events_end(s);
}

/* A reader of this source, first in its list, with its timer. fd: to poll, or -1. */
static int reader_new(struct lat_events *s, int fd, struct lat_events_reader **out)
{
	uv_loop_t *loop = lat_rt_loop(s->rt);
	struct lat_events_reader *r = loop ? calloc(1, sizeof(*r)) : NULL;
	int e;

	if (!r)
		return -ENOMEM;
	r->poll.data = r->timer.data = r;
	if (fd >= 0) {
		e = uv_poll_init(loop, &r->poll, fd);
		if (e < 0) {
			free(r);
			return e;
		}
		r->polled = true;
		uv_poll_start(&r->poll, UV_READABLE, on_readable);
	}
	uv_timer_init(loop, &r->timer);
	r->handles = 1 + r->polled;
	r->source = s;
	r->next = s->readers;
	s->readers = r;
	*out = r;
	return 0;
}

/* The registry holds the box while something may come. */
static void hold(lua_State *L, struct lat_events *s)
{
	lua_pushvalue(L, 1);
	lua_rawsetp(L, LUA_REGISTRYINDEX, s);
}

int lat_events_ring(lua_State *L)
{
	struct lat_events *s = lat_events_check(L);
	int fd = (int)luaL_checkinteger(L, 2), r;
	struct lat_events_reader *reader;
	struct lat_ring *ring;

	hold(L, s);
	r = lat_ring_open(fd, take, s, &ring);
	if (r < 0)
		return lat_push_errno(L, r, "read a ring buffer");
	for (reader = s->readers; reader; reader = reader->next)
		if (reader->ring && lat_ring_id(reader->ring) == lat_ring_id(ring)) { /* a device came back: its ring is read */
			lat_ring_free(ring);
			lua_pushboolean(L, true);
			return 1;
		}
	r = reader_new(s, lat_ring_fd(ring), &reader);
	if (r < 0) {
		lat_ring_free(ring);
		return lat_push_errno(L, r, "read a ring buffer");
	}
	reader->ring = ring;
	uv_timer_start(&reader->timer, on_timer, 0, 0);
	lua_pushboolean(L, true);
	return 1;
}

int lat_events_nflog(lua_State *L)
{
	struct lat_events *s = lat_events_check(L);
	lua_Integer group = luaL_checkinteger(L, 2);
	struct lat_events_reader *reader;
	struct lat_nflog *nflog;
	int r;

	luaL_argcheck(L, group >= 0 && group <= UINT16_MAX, 2, "a group of NFLOG expected: 0 to 65535");
	hold(L, s);
	r = lat_nflog_open((uint16_t)group, take_packet, s, &nflog);
	if (r < 0)
		return lat_push_errno(L, r, "take the packets of an NFLOG group");
	r = reader_new(s, lat_nflog_fd(nflog), &reader);
	if (r < 0) {
		lat_nflog_free(nflog);
		return lat_push_errno(L, r, "take the packets of an NFLOG group");
	}
	reader->nflog = nflog;
	lua_pushboolean(L, true);
	return 1;
}

int lat_events_held(lua_State *L)
{
	struct lat_events *s = lat_events_check(L);
	lua_Integer count = luaL_checkinteger(L, 2);

	luaL_argcheck(L, count >= 0, 2, "a count expected");
	lat_pump_lost(s->pump, (uint64_t)count, true, "held back by the limit of the rules that log");
	return 0;
}

int lat_events_account(lua_State *L)
{
	struct lat_events *s = lat_events_check(L);
	lua_Integer total = luaL_checkinteger(L, 2);

	luaL_argcheck(L, total >= 0, 2, "a count expected");
	lat_pump_account(s->pump, (uint64_t)total);
	return 0;
}

int lat_events_push(lua_State *L)
{
	struct lat_events *s = lat_events_check(L);
	struct lat_events_reader *r = s->readers;
	size_t len, n;
	const char *bytes = luaL_checklstring(L, 2, &len);
	uint8_t *room;
	int e;

	luaL_argcheck(L, len % sizeof(struct lat_event) == 0, 2, "whole records of struct lat_event expected");
	hold(L, s);
	n = len / sizeof(struct lat_event);
	while (r && r->polled)
		r = r->next;
	if (!r && (e = reader_new(s, -1, &r)) < 0)
		return lat_push_errno(L, e, "push events");
	if (r->pushed_count + n > PUSH_MAX) {
		lat_pump_lost(s->pump, n, false, "too many events were pushed at once");
		return lat_push_errno(L, ENOBUFS, "push events");
	}
	room = realloc(r->pushed, (r->pushed_count + n) * sizeof(struct lat_event) + 1);
	if (!room)
		return lat_push_errno(L, ENOMEM, "push events");
	memcpy(room + r->pushed_count * sizeof(struct lat_event), bytes, len);
	r->pushed = room;
	r->pushed_count += n;
	uv_timer_start(&r->timer, on_timer, 0, 0);
	lua_pushboolean(L, true);
	return 1;
}
