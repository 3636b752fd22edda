/* What the programs tell, as records of the run: who, which name, by which rule. See run_wall.h. */
#include "core/run_wall.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/text.h"
#include "kernel/proc.h"
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

#define BUDGET 256
#define MOST_OPEN 8192

/* ---- open flows ---- */

static struct lat_wall_flow *slot_of(struct lat_wall *w, const struct lat_flow *f)
{
	uint32_t h = 2166136261u;

	for (size_t i = 0; i < sizeof(f->remote.b); i++)
		h = (h ^ f->remote.b[i]) * 16777619u;
	h = (h ^ f->sport ^ (uint32_t)f->dport << 16) * 16777619u;
	return &w->flows[(h ^ h >> 15 ^ f->proto) & (LAT_WALL_FLOWS - 1)];
}

static bool same_flow(const struct lat_flow *a, const struct lat_flow *b)
{
	return a->sport == b->sport && a->dport == b->dport && a->proto == b->proto && a->dir == b->dir &&
	       lat_addr_equal(&a->remote, &b->remote) && lat_addr_equal(&a->local, &b->local);
}

/* Two flows in one slot: the newer one is kept. */
static void remember(struct lat_wall *w, const struct lat_record *r)
{
	struct lat_wall_flow *f = slot_of(w, &r->flow);

	f->used = true;
	f->flow = r->flow;
	f->who = r->who;
	f->by_handler = r->by_handler;
	lat_set_text(f->name, r->name);
}

static bool recall(struct lat_wall *w, struct lat_record *r)
{
	struct lat_wall_flow *f = slot_of(w, &r->flow);

	if (!f->used || !same_flow(&f->flow, &r->flow))
		return false;
	r->who = f->who;
	r->by_handler = f->by_handler;
	lat_set_text(r->name, f->name);
	f->used = false;
	return true;
}

/* ---- who ---- */

/* To look it up takes the kernel 15 us, so it is believed for as long as a look may come too late anyway (a tick). */
#define KNOWN_NS (250 * LAT_NS_PER_MS)

/* Who made the socket, as the programs noted it; its program by /proc, as long as it lives, else the thread's name. */
static void identify(struct lat_wall *w, const struct lat_event *e, struct lat_identity *who)
{
	struct lat_wall_known *known = &w->known[e->pid % LAT_WALL_KNOWN];
	uint64_t now;
	struct lat_proc proc;

	memset(who, 0, sizeof(*who));
	if (!e->pid)
		return;
	who->pid = (pid_t)e->pid;
	who->uid = e->uid;
	lat_copy_text(who->exe, sizeof(who->exe), e->comm, sizeof(e->comm));
	if (!w->knows_pids)
		return;
	now = lat_now_ns();
	if (known->pid == who->pid && now < known->until_ns && memcmp(known->comm, e->comm, sizeof(known->comm)) == 0) {
		memcpy(who->exe, known->exe, sizeof(who->exe));
		return;
	}
	if (lat_proc_open(who->pid, &proc) < 0)
		return;
	if (lat_proc_exe(&proc, who->exe, sizeof(who->exe)) > 0) {
		*known = (struct lat_wall_known){ .pid = who->pid, .until_ns = now + KNOWN_NS };
		memcpy(known->comm, e->comm, sizeof(known->comm));
		memcpy(known->exe, who->exe, sizeof(known->exe));
	}
	lat_proc_close(&proc);
}

/* ---- records ---- */

static bool passes(uint8_t action)
{
	return action == LAT_ACTION_ALLOW || action == LAT_ACTION_AUDIT;
}

/* What the policy itself says, which a lenient run's maps do not. */
static bool would_be_denied(const struct lat_run *run, const struct lat_event *e)
{
	const struct lat_policy_spec *spec = &run->policy->spec;

	if (!lat_run_lenient(run) || e->generation != run->policy->generation)
		return false;
	if (e->rule == 0)
		return !passes(spec->default_action);
	return e->rule <= spec->rule_count && !passes(spec->rules[e->rule - 1].action);
}

/* Did a handler decide? A rule that asks lets nothing pass by itself. */
static bool by_answer(const struct lat_run *run, const struct lat_event *e)
{
	const struct lat_policy_spec *spec = &run->policy->spec;

	if (!passes(e->action) || lat_run_lenient(run) || e->generation != run->policy->generation)
		return false;
	if (e->rule == 0)
		return spec->has_connect && !passes(spec->default_action);
	return e->rule <= spec->rule_count && spec->rules[e->rule - 1].action == LAT_ACTION_ASK;
}

static uint16_t errno_of(const struct lat_run *run, const struct lat_event *e)
{
	const struct lat_policy_spec *spec = &run->policy->spec;

	if (e->action != LAT_ACTION_DENY || e->dir != LAT_DIR_OUT)
		return 0;
	if (e->rule && e->rule <= spec->rule_count && e->generation == run->policy->generation &&
		spec->rules[e->rule - 1].err)
		return spec->rules[e->rule - 1].err;
	return ECONNREFUSED;
}

static void on_record(void *ctx, struct lat_record *r, const struct lat_event *e)
{
	struct lat_wall *w = ctx;
	struct lat_run *run = w->run;
	const char *name;

	if (!e) { /* losses */
		lat_run_emit(run, r);
		return;
	}
	if (lat_run_is_probe(&r->flow)) {
		if (run->probing && !run->probe_refused_packet)
			lat_run_selfcheck(run, &r->flow, "by the programs");
		run->probe_refused_packet = run->probe_refused_packet || run->probing;
		return;
	}
	if (r->kind != LAT_RECORD_CLOSE)
		identify(w, e, &r->who);
	name = lat_pins_name(run->pins, &r->flow.remote, lat_now_ns());
	lat_set_text(r->name, name ? name : "");
	if (r->action == LAT_ACTION_ASK) { /* nobody was there to be asked, or there is nobody */
		r->action = LAT_ACTION_DENY;
		r->err = ECONNREFUSED;
	} else if (by_answer(run, e)) {
		r->by_handler = 1;
		lat_wall_said(w, &r->flow, r->text, sizeof(r->text));
	} else {
		r->err = r->kind == LAT_RECORD_VERDICT ? errno_of(run, e) : 0;
	}
	r->audit_only = would_be_denied(run, e);
	if (r->audit_only) {
		r->err = 0;
		if (r->kind == LAT_RECORD_VERDICT)
			r->action = e->rule ? run->policy->spec.rules[e->rule - 1].action
					    : run->policy->spec.default_action;
	}
	if (r->kind == LAT_RECORD_CLOSE && w->ended_count < w->ended_room)
		w->ended[w->ended_count++] = r->flow;
	if (r->kind == LAT_RECORD_CLOSE && !recall(w, r))
		identify(w, e, &r->who);
	else if (r->kind != LAT_RECORD_CLOSE && passes(e->action))
		remember(w, r);
	lat_run_emit(run, r);
}

static void on_event(void *ctx, const void *data, size_t size)
{
	lat_pump_take(((struct lat_wall *)ctx)->pump, data, size, NULL);
}

static void on_ring(struct lat_poll_item *item, uint32_t events)
{
	struct lat_wall *w = lat_container_of(item, struct lat_wall, ring_item);

	(void)events;
	lat_ring_dispatch(w->ring, BUDGET);
}

int lat_wall_events_open(struct lat_wall *w)
{
	const char *none;
	int fd, r;

	w->flows = calloc(LAT_WALL_FLOWS, sizeof(*w->flows));
	if (!w->flows)
		return -ENOMEM;
	r = lat_pump_new(&(struct lat_pump_options){ .emit = on_record, .emit_ctx = w, .memory = 16 }, &w->pump, &none);
	if (r < 0)
		return r;
	lat_pump_generation(w->pump, w->run->policy);
	if (w->agent)
		return lat_wall_agent_watch(w);
	fd = lat_tc_events(w->filter->tc[0]);
	if (fd < 0)
		return fd;
	r = lat_ring_open(fd, on_event, w, &w->ring);
	if (r < 0) {
		lat_close(&fd);
		return r;
	}
	w->ring_item = (struct lat_poll_item){ .fd = lat_ring_fd(w->ring), .ready = on_ring };
	return lat_poller_add(w->run->poller, &w->ring_item, EPOLLIN);
}

void lat_wall_events_read(struct lat_wall *w)
{
	struct lat_tc_status status;

	if (w->agent) { /* they come by the poller */
		lat_pump_flush(w->pump);
		return;
	}
	while (lat_ring_dispatch(w->ring, BUDGET) == BUDGET) {
	}
	if (lat_tc_status(w->filter->tc[0], &status) == 0)
		lat_pump_account(w->pump, status.stats[LAT_TC_STAT_FULL]);
	lat_pump_flush(w->pump);
}

static void tell_end(struct lat_wall *w, const struct lat_tc_key *key, const struct lat_tc_flow *flow, size_t known)
{
	struct lat_event e;
	struct lat_flow f;

	if (!lat_filter_end_of(key, flow, &e))
		return;
	lat_event_flow(&e, &f);
	for (size_t i = 0; i < known; i++)
		if (same_flow(&w->ended[i], &f))
			return;
	lat_pump_take(w->pump, &e, sizeof(e), NULL);
}

void lat_wall_events_end(struct lat_wall *w)
{
	lat_autofree struct lat_tc_key *keys = calloc(MOST_OPEN, sizeof(*keys));
	lat_autofree struct lat_tc_flow *flows = calloc(MOST_OPEN, sizeof(*flows));
	int n = keys && flows ? lat_tc_flows(w->filter->tc[0], keys, flows, MOST_OPEN) : 0;
	size_t known;

	/* Sockets of the dead go on ending meanwhile: what was open in the table may have been told since. */
	w->ended = n > 0 ? calloc((size_t)n * 2, sizeof(*w->ended)) : NULL;
	w->ended_room = w->ended ? (size_t)n * 2 : 0;
	lat_wall_events_read(w);
	known = w->ended_count;
	w->ended_room = 0;
	for (int i = 0; i < n; i++)
		tell_end(w, &keys[i], &flows[i], known);
	lat_pump_flush(w->pump);
}

/* What was lost is told while there is still an audit to tell it to. */
void lat_wall_events_done(struct lat_wall *w)
{
	lat_pump_free(w->pump, 0);
	w->pump = NULL;
}

void lat_wall_events_close(struct lat_wall *w)
{
	if (w->ring) {
		lat_poller_del(w->run->poller, &w->ring_item);
		lat_ring_free(w->ring);
	}
	if (w->agent && w->ring_item.ready)
		lat_poller_del(w->run->poller, &w->ring_item);
	lat_wall_events_done(w);
	free(w->ended);
	free(w->flows);
}
