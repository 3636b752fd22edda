/* What the files of lattice.events share: l_events.c (the object and its readers) and events_batch.c (Lua's side of a
 * batch). Nobody else includes this. */
#ifndef LAT_LUA_EVENTS_H
#define LAT_LUA_EVENTS_H
#include "core/order.h"
#include "core/pump.h"
#include "kernel/ring.h"
#include "lua/api.h"

#define LAT_EVENTS_BATCH 256
#define LAT_EVENTS_WATCHERS 64

struct lat_events_handler {
	char *name, *before, *after; /* name NULL: the slot is free */
	unsigned trips;     /* batches that it was stopped in, of late */
	uint64_t tripped_ns; /* the last of them */
	bool noted, gone;   /* an error of it is in the audit; dropped */
	uint64_t spent_ns;  /* in this stay behind the door */
};

struct lat_events_filter {
	int verdict, dir, proto, port; /* -1: any; verdict 1: it passed */
	int64_t rule;                  /* -1: any */
	bool has_addr, closes, losses; /* closes, losses: those too */
	struct lat_prefix addr;
};

struct lat_events_watcher {
	bool used;
	unsigned trips;
	uint64_t serial, next, lost; /* next: number of the event to look at */
	struct lat_events_filter filter;
};

struct lat_events {
	struct lat_rt *rt;
	struct lat_pump *pump;
	struct lat_events_reader *readers;
	bool started, ended;    /* such records were written */
	bool last;              /* nothing goes to Lua any more, what waits still goes to the audit */
	bool draining, closing; /* closed from inside a handler: freed when the batch is done */
	uint32_t deadline_ms;
	struct lat_event batch[LAT_EVENTS_BATCH];
	unsigned count;
	struct lat_events_handler handlers[LAT_ORDER_MAX];
	size_t order[LAT_ORDER_MAX], handler_count; /* slots of the handlers, in their order */
	struct lat_events_watcher watchers[LAT_EVENTS_WATCHERS];
	uint64_t watch_serial;
	size_t running[LAT_ORDER_MAX], running_count; /* the order of this batch */
	size_t at; /* in this batch: the next of running, then of watchers */
	struct { uint32_t ifindex; uint64_t until_ns; char name[16]; } devices[8];
	struct lat_event *tap;  /* records as they are, of every kind, for who takes them; NULL: nobody */
	unsigned tap_most, tap_count;
	uint64_t tap_lost;
	struct lat_flow *ends; /* NULL, or flows whose end was told since */
	size_t ends_room, ends_count;
};

/* The box's user value: { [1] = functions by handler slot, [2] = their batch tables, [3] = functions by watcher slot }. */
enum { LAT_EVENTS_CALLS = 1, LAT_EVENTS_BATCHES, LAT_EVENTS_WATCHES };

/* Gives the batch to handlers and watchers and empties it. Called outside of the door. */
void lat_events_deliver(struct lat_events *s);
/* Writes to the audit what a handler did wrong. */
void lat_events_note(struct lat_events *s, const char *what, const char *name, const char *text);
/* The tables and functions of a handler's batch; leaves the batch table. box: index of the source. */
void lat_events_push_batch(lua_State *L, int box);
void lat_events_push_event(lua_State *L, struct lat_events *s, const struct lat_event *e);
bool lat_events_matches(const struct lat_events_filter *f, const struct lat_event *e);

extern const struct lat_box_type lat_events_type;
/* The source at index 1. */
struct lat_events *lat_events_check(lua_State *L);
/* A field that must be a text, left on the stack; NULL where it is nil and not needed. */
const char *lat_events_text(lua_State *L, int table, const char *key, bool needed);
/* The end of a source that was started. */
void lat_events_end_record(struct lat_events *s);
void lat_events_forget_handlers(struct lat_events *s);
/* Methods of the source. */
int lat_events_on(lua_State *L);
int lat_events_off(lua_State *L);
int lat_events_handlers(lua_State *L);
int lat_events_ring(lua_State *L);
int lat_events_nflog(lua_State *L);
int lat_events_push(lua_State *L);
int lat_events_held(lua_State *L);
int lat_events_account(lua_State *L);
int lat_events_watch(lua_State *L);
int lat_events_tap(lua_State *L);
int lat_events_taken(lua_State *L);
int lat_events_ends(lua_State *L);
/* As if a reader had read it. */
void lat_events_take(struct lat_events *s, const struct lat_event *e);
/* What waits still is for the audit and the tap, and for nobody else. */
void lat_events_take_last(struct lat_events *s);
/* Keeps a copy for the tap. */
void lat_events_tap_take(struct lat_events *s, const struct lat_event *e);

#define LAT_EVENTS_BATCH_FIELDS                                                                    \
	"count: integer, fields: (fun(self: lattice.events.Batch, i: integer): integer, integer, integer, integer, "     \
	"integer, integer, integer, integer, integer), addresses: (fun(self: lattice.events.Batch, i: integer): "        \
	"string, string, string), event: (fun(self: lattice.events.Batch, i: integer): table)"

#endif
