/* Lua's side of a batch of events: handlers in their order, then watchers, all of it in one stay behind the door with a
 * deadline. A handler that fails is noted and the next one goes on; a stay that is stopped at the deadline is charged to the
 * handler that used most of it, and what has not had its turn gets it in another stay. */
#include "lua/events.h"
#include "base/clock.h"
#include "base/log.h"
#include "lua/runtime_impl.h"
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#define MEMORY (64u << 20) /* more than the state holds before the batch */
#define MAX_TRIPS 3
#define FORGIVEN_NS (60 * LAT_NS_PER_SEC) /* after so long without a trip the earlier ones are forgotten */
#define WATCH_BURST 256    /* events of a batch that one watcher gets; the rest is counted */

void lat_events_note(struct lat_events *s, const char *what, const char *name, const char *text)
{
	struct lat_record r = { .kind = LAT_RECORD_HANDLER, .err = EPROTO };

	snprintf(r.text, sizeof(r.text), "%s %.64s: %.160s", what, name, text);
	lat_warn("%s", r.text);
	if (lat_pump_audit(s->pump))
		lat_audit_emit(lat_pump_audit(s->pump), &r);
}

/* ---- what a batch table's functions give ---- */

static const struct lat_event *check_event(lua_State *L)
{
	struct lat_events *s = lat_box_check(L, lua_upvalueindex(1), &lat_events_type);
	lua_Integer i = luaL_checkinteger(L, 2);

	if (s->count == 0)
		luaL_error(L, "this batch is over: its events are valid until the handler returns");
	if (i < 1 || i > s->count)
		luaL_argerror(L, 2, "there is no such event in the batch");
	return &s->batch[i - 1];
}

static int batch_fields(lua_State *L)
{
	const struct lat_event *e = check_event(L);

	lua_pushinteger(L, e->dir);
	lua_pushinteger(L, e->action);
	lua_pushinteger(L, e->proto);
	lua_pushinteger(L, e->rule);
	lua_pushinteger(L, e->generation);
	lua_pushinteger(L, e->dport);
	lua_pushinteger(L, e->sport);
	lua_pushinteger(L, e->length);
	lua_pushinteger(L, (lua_Integer)e->time_ns);
	return 9;
}

static void push_addr(lua_State *L, const uint8_t bytes[16])
{
	struct lat_addr a;
	char text[LAT_ADDR_TEXT];

	memcpy(a.b, bytes, sizeof(a.b));
	lua_pushstring(L, lat_addr_format(&a, text, sizeof(text)));
}

/* Names are asked for again after a second: devices come, go and are renamed. */
static const char *device_name(struct lat_events *s, uint32_t ifindex)
{
	size_t slot = ifindex % (sizeof(s->devices) / sizeof(s->devices[0]));
	uint64_t now = lat_now_ns();

	if (s->devices[slot].ifindex != ifindex || s->devices[slot].until_ns < now) {
		s->devices[slot].ifindex = ifindex;
		s->devices[slot].until_ns = now + LAT_NS_PER_SEC;
		if (!ifindex || !if_indextoname(ifindex, s->devices[slot].name))
			s->devices[slot].name[0] = '\0';
	}
	return s->devices[slot].name;
}

static int batch_addresses(lua_State *L)
{
	const struct lat_event *e = check_event(L);
	struct lat_events *s = lat_box_check(L, lua_upvalueindex(1), &lat_events_type);

	push_addr(L, e->remote);
	push_addr(L, e->local);
	lua_pushstring(L, device_name(s, e->ifindex));
	return 3;
}

static void set_int(lua_State *L, const char *key, lua_Integer value)
{
	lua_pushinteger(L, value);
	lua_setfield(L, -2, key);
}

static void set_text(lua_State *L, const char *key, const char *text)
{
	lua_pushstring(L, text);
	lua_setfield(L, -2, key);
}

static bool passed(const struct lat_event *e)
{
	return e->action == LAT_ACTION_ALLOW || e->action == LAT_ACTION_AUDIT;
}

void lat_events_push_event(lua_State *L, struct lat_events *s, const struct lat_event *e)
{
	const char *name = lat_pump_name(s->pump, e);
	struct lat_event_rule rule;

	lat_pump_rule(s->pump, e, &rule);
	lua_createtable(L, 0, 20);
	if (name)
		set_text(L, "name", name);
	set_text(L, "kind", e->kind == LAT_EVENT_CLOSE ? "close" : "verdict");
	set_int(L, "time_ms", (lua_Integer)lat_event_time_ms(e));
	set_text(L, "verdict", passed(e) ? "allow" : "deny");
	set_text(L, "action", lat_action_name(e->action));
	set_text(L, "dir", e->dir == LAT_DIR_OUT ? "out" : "in");
	set_int(L, "proto", e->proto);
	push_addr(L, e->remote);
	lua_setfield(L, -2, "addr");
	push_addr(L, e->local);
	lua_setfield(L, -2, "local_addr");
	set_int(L, "port", e->dport);
	set_int(L, "sport", e->sport);
	set_int(L, "rule", e->rule);
	set_text(L, "where", rule.where);
	if (rule.reason)
		set_text(L, "reason", rule.reason);
	set_text(L, "device", device_name(s, e->ifindex));
	set_int(L, "generation", e->generation);
	set_int(L, "length", e->length);
	if (e->kind == LAT_EVENT_CLOSE) {
		set_int(L, "packets", (lua_Integer)e->packets);
		set_int(L, "bytes_out", (lua_Integer)e->bytes_out);
		set_int(L, "bytes_in", (lua_Integer)e->bytes_in);
		set_int(L, "duration_ns", (lua_Integer)e->duration_ns);
	}
}

static int batch_event(lua_State *L)
{
	const struct lat_event *e = check_event(L);

	lat_events_push_event(L, lat_box_check(L, lua_upvalueindex(1), &lat_events_type), e);
	return 1;
}

void lat_events_push_batch(lua_State *L, int box)
{
	static const luaL_Reg functions[] = { { "fields", batch_fields }, { "addresses", batch_addresses },
		{ "event", batch_event }, { NULL, NULL } };

	box = lua_absindex(L, box);
	lua_createtable(L, 0, 4);
	lua_pushvalue(L, box);
	luaL_setfuncs(L, functions, 1);
	set_int(L, "count", 0);
}

/* ---- watchers ---- */

bool lat_events_matches(const struct lat_events_filter *f, const struct lat_event *e)
{
	struct lat_addr remote;

	if (e->kind == LAT_EVENT_CLOSE && !f->closes)
		return false;
	if ((f->verdict >= 0 && f->verdict != passed(e)) || (f->dir >= 0 && f->dir != e->dir) ||
	    (f->proto >= 0 && f->proto != e->proto) || (f->port >= 0 && f->port != e->dport) ||
	    (f->rule >= 0 && f->rule != e->rule))
		return false;
	memcpy(remote.b, e->remote, sizeof(remote.b));
	return !f->has_addr || lat_prefix_contains(&f->addr, &remote);
}

/* The next event for this watcher in what is kept; NULL: none. What was overwritten before it was seen is lost. */
static const struct lat_event *next_event(struct lat_events *s, struct lat_events_watcher *w)
{
	uint64_t first = lat_pump_first(s->pump), end = lat_pump_next(s->pump);

	if (w->next < first) {
		w->lost += first - w->next;
		w->next = first;
	}
	while (w->next < end) {
		const struct lat_event *e = lat_pump_at(s->pump, w->next++);

		if (lat_events_matches(&w->filter, e))
			return e;
	}
	return NULL;
}

/* Stack: the watcher's function at the top. */
static void serve_watcher(lua_State *L, struct lat_events *s, struct lat_events_watcher *w)
{
	const struct lat_event *e;
	unsigned given = 0;

	while (!s->closing && w->used && (e = next_event(s, w))) {
		if (given == WATCH_BURST) {
			w->lost++;
			continue;
		}
		given++;
		lua_pushvalue(L, -1);
		lat_events_push_event(L, s, e);
		lua_call(L, 1, 0);
	}
	if (!s->closing && w->used && w->lost && w->filter.losses) {
		lua_pushvalue(L, -1);
		lua_createtable(L, 0, 2);
		set_text(L, "kind", "loss");
		set_int(L, "lost", (lua_Integer)w->lost);
		w->lost = 0;
		lua_call(L, 1, 0);
	}
}

static int call_watcher(lua_State *L)
{
	struct lat_events *s = lua_touserdata(L, 2);

	lua_settop(L, 2);
	lua_insert(L, 1);
	serve_watcher(L, s, &s->watchers[s->at - s->running_count]);
	return 0;
}

/* ---- the stay ---- */

/* A handler was stopped; one that is stopped again and again is dropped. */
static void blame(struct lat_events *s, struct lat_events_handler *h, const char *text)
{
	uint64_t now = lat_now_ns();

	if (now - h->tripped_ns > FORGIVEN_NS)
		h->trips = 0;
	h->tripped_ns = now;
	h->gone = ++h->trips >= MAX_TRIPS;
	if (!h->noted || h->gone)
		lat_events_note(s, h->gone ? "dropped: handler" : "handler", h->name, text);
	h->noted = true;
}

static void run_handler(lua_State *L, struct lat_events *s, int base)
{
	size_t slot = s->running[s->at];
	struct lat_events_handler *h = &s->handlers[slot];
	uint64_t begin = lat_now_ns();
	int status;

	lua_pushcfunction(L, lat_limits_uncounted);
	lua_rawgeti(L, base + LAT_EVENTS_CALLS, (lua_Integer)slot + 1);
	lua_rawgeti(L, base + LAT_EVENTS_BATCHES, (lua_Integer)slot + 1);
	set_int(L, "count", s->count);
	status = lua_pcall(L, 2, 0, 0);
	h->spent_ns += lat_now_ns() - begin;
	if (status != LUA_OK && !s->rt->tripped) {
		const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "it failed";

		if (status == LUA_ERRMEM)
			blame(s, h, text);
		else if (!h->noted)
			lat_events_note(s, "handler", h->name, text);
		h->noted = true;
	}
	lua_settop(L, base + LAT_EVENTS_WATCHES);
}

static void run_watcher(lua_State *L, struct lat_events *s, int base)
{
	size_t slot = s->at - s->running_count;
	struct lat_events_watcher *w = &s->watchers[slot];

	lua_pushcfunction(L, lat_limits_uncounted);
	lua_pushcfunction(L, call_watcher);
	lua_rawgeti(L, base + LAT_EVENTS_WATCHES, (lua_Integer)slot + 1);
	lua_pushlightuserdata(L, s);
	if (lua_pcall(L, 3, 0, 0) != LUA_OK && !s->rt->tripped) {
		w->used = false;
		lat_events_note(s, "ended:", "a watcher",
			lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "it failed");
	}
	lua_settop(L, base + LAT_EVENTS_WATCHES);
}

static int deliver(lua_State *L)
{
	struct lat_events *s = lua_touserdata(L, 1);
	int base;

	lua_rawgetp(L, LUA_REGISTRYINDEX, s);
	lua_getiuservalue(L, -1, 1);
	base = lua_gettop(L);
	for (int i = LAT_EVENTS_CALLS; i <= LAT_EVENTS_WATCHES; i++)
		lua_rawgeti(L, base, i);
	for (; s->at < s->running_count && !s->closing && !s->rt->tripped; s->at++)
		if (s->count && !s->handlers[s->running[s->at]].gone)
			run_handler(L, s, base);
	for (; s->at < s->running_count + LAT_EVENTS_WATCHERS && !s->closing && !s->rt->tripped; s->at++)
		if (s->watchers[s->at - s->running_count].used)
			run_watcher(L, s, base);
	return 0;
}

/* The stay was stopped: whoever used most of it pays. */
static void charge(struct lat_events *s, const struct lat_rt_error *err)
{
	struct lat_events_handler *worst = NULL;

	for (size_t i = 0; i < s->running_count; i++) {
		struct lat_events_handler *h = &s->handlers[s->running[i]];

		if (h->spent_ns && (!worst || h->spent_ns > worst->spent_ns))
			worst = h;
	}
	if (s->at > s->running_count) { /* it was a watcher that was stopped */
		struct lat_events_watcher *w = &s->watchers[s->at - s->running_count - 1];

		if (!worst || worst->spent_ns < (uint64_t)s->deadline_ms * LAT_NS_PER_MS / 2) {
			w->used = ++w->trips < MAX_TRIPS;
			if (!w->used)
				lat_events_note(s, "ended:", "a watcher", err->text);
			return;
		}
	}
	if (worst)
		blame(s, worst, err->text);
}

static bool anything_to_do(const struct lat_events *s)
{
	if (s->count)
		for (size_t i = 0; i < s->handler_count; i++)
			if (!s->handlers[s->order[i]].gone)
				return true;
	for (size_t i = 0; i < LAT_EVENTS_WATCHERS; i++)
		if (s->watchers[i].used && s->watchers[i].next < lat_pump_next(s->pump))
			return true;
	return false;
}

void lat_events_deliver(struct lat_events *s)
{
	struct lat_rt_limits keep = s->rt->limits, limits = { .deadline_ms = s->deadline_ms };
	struct lat_rt_error err;

	if (!s->closing && !s->last && anything_to_do(s)) {
		limits.memory = lat_rt_memory(s->rt) + MEMORY;
		memcpy(s->running, s->order, s->handler_count * sizeof(s->order[0])); /* a handler may add one */
		s->running_count = s->handler_count;
		for (s->at = 0; s->at < s->running_count + LAT_EVENTS_WATCHERS && !s->closing;) {
			size_t was = s->at;

			for (size_t i = 0; i < s->running_count; i++)
				s->handlers[s->running[i]].spent_ns = 0;
			lat_rt_set_limits(s->rt, &limits);
			if (lat_rt_enter(s->rt, deliver, s, &err) == 0)
				break;
			lat_rt_set_limits(s->rt, &keep);
			if (s->closing || s->rt->ending)
				break;
			s->at += s->at == was; /* it failed before anybody's turn */
			charge(s, &err);
		}
		lat_rt_set_limits(s->rt, &keep);
	}
	s->count = 0;
	if (!s->closing)
		lat_pump_flush(s->pump);
}
