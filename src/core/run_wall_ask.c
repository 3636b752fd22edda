/* What comes to the supervisor in kernel mode: connects of unix sockets, and, where the policy has questions, every connect.
 * What the tables decide is left to the programs, who judge the call that the supervisor makes like any other; a question
 * holds the call until the policy thread has answered, and the answer becomes an entry of the maps. See run_wall.h. */
#include "core/run_wall.h"
#include "base/clock.h"
#include "base/mem.h"
#include "kernel/group_sockets.h"
#include "kernel/diag.h"
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

/* An answer that holds for one call is an entry for as long as that call may take to be made. */
#define ONCE_NS (5 * LAT_NS_PER_SEC)
#define FOREVER_NS (365ull * 86400 * LAT_NS_PER_SEC)

static void refuse(struct lat_run *run, const struct lat_flow *flow, const struct lat_verdict *v,
	const struct lat_identity *who)
{
	struct lat_record r;

	lat_run_fill(&r, flow, v, who, lat_pins_name(run->pins, &flow->remote, lat_now_ns()));
	lat_run_emit(run, &r);
}

static int promote(struct lat_run *run, const struct lat_flow *flow, const struct lat_identity *who, bool everybody,
	uint64_t for_ns)
{
	struct lat_wall *w = run->wall;
	int r;

	if (w->agent)
		return lat_wall_agent_answer(w, flow, everybody ? 0 : who->pid, for_ns);
	pthread_mutex_lock(&w->lock);
	r = lat_tc_answer(w->filter->tc[0], &flow->remote, flow->proto, flow->dport, everybody ? 0 : (uint32_t)who->pid, true,
		for_ns);
	pthread_mutex_unlock(&w->lock);
	return r;
}

static void note(struct lat_wall *w, const struct lat_flow *flow, const char *text)
{
	struct lat_wall_said *s = &w->said[w->said_next++ % LAT_WALL_SAID];

	s->remote = flow->remote;
	s->dport = flow->dport;
	s->proto = flow->proto;
	snprintf(s->text, sizeof(s->text), "%.255s", text);
}

void lat_wall_said(const struct lat_wall *w, const struct lat_flow *flow, char *text, size_t size)
{
	text[0] = '\0';
	for (unsigned i = 1; i <= LAT_WALL_SAID && i <= w->said_next; i++) {
		const struct lat_wall_said *s = &w->said[(w->said_next - i) % LAT_WALL_SAID];

		if (s->dport == flow->dport && s->proto == flow->proto && lat_addr_equal(&s->remote, &flow->remote)) {
			snprintf(text, size, "%s", s->text);
			return;
		}
	}
}

/* Between sockets of the sandbox nobody need be asked. */
static bool stays_inside(struct lat_run *run, const struct lat_flow *flow)
{
	struct lat_addr none = { { 0 } };
	struct lat_diag_socket s;

	if (!lat_addr_is_loopback(&flow->remote))
		return false;
	if (lat_addr_is4(&flow->remote))
		lat_addr_parse("0.0.0.0", &none);
	return lat_diag_inet(run->sandbox.diag, flow->proto, &flow->remote, flow->dport, &none, 0, &s) == 0 &&
	       s.cgroup == lat_wall_group_id(run);
}

/* DNS, which the programs lead to us, and what goes nowhere. */
static bool is_ours(const struct lat_flow *flow)
{
	struct lat_addr dns;

	lat_addr_parse(LAT_TRAP_DNS, &dns);
	return lat_run_is_probe(flow) || (flow->dport == 53 && lat_addr_equal(&flow->remote, &dns));
}

/* A UDP connect sends nothing (getaddrinfo makes one to each address that it finds): it is a chance to ask, but no answer
 * makes it fail. What is sent without a permission is refused, and told, by the programs. */
static int ask(void *ctx, uint64_t id, const struct lat_flow *f, const struct lat_identity *who)
{
	struct lat_run *run = ctx;
	struct lat_flow flow = *f;
	struct lat_question q;
	struct lat_verdict v;
	char text[256];

	if (lat_addr_is_any(&flow.remote))
		lat_addr_parse(lat_addr_is4(&flow.remote) ? "127.0.0.1" : "::1", &flow.remote);
	if (is_ours(&flow) || !lat_wall_asks(run, run->policy) || stays_inside(run, &flow))
		return 0;
	if (lat_run_judge(run, &flow, who, false, &v, &q, text) == 0) {
		if (!v.by_handler)
			return 0; /* the tables' */
		if (lat_verdict_passes(&v) || flow.proto == IPPROTO_UDP)
			return 0; /* an answer that holds: the maps have it */
		refuse(run, &flow, &v, who);
		return ECONNREFUSED;
	}
	q.id = id;
	if (lat_run_ask(run, &q) == 0)
		return -EINPROGRESS;
	if (flow.proto == IPPROTO_UDP)
		return 0;
	v = (struct lat_verdict){ .action = LAT_ACTION_DENY, .rule = q.rule, .generation = q.generation, .by_handler = 1,
		.reason = "too many questions are waiting for the policy's handlers" };
	refuse(run, &flow, &v, who);
	return ECONNREFUSED;
}

void lat_wall_answered(struct lat_run *run, const struct lat_question *q, const struct lat_answer *a)
{
	struct lat_verdict v = { .generation = q->generation, .rule = q->rule, .by_handler = 1, .action = LAT_ACTION_DENY };
	/* In another pid namespace than the first the programs know processes by other numbers than we do. An answer for once then
	 * opens the place to the whole sandbox for a moment, and every connect of it is still asked about. */
	bool process = a->for_run && a->scope == LAT_SCOPE_PROCESS, numbers = run->wall->knows_pids;
	bool everybody = a->for_run ? !process : !numbers;
	int r = process && !numbers ? -EOPNOTSUPP : 0;

	if (a->action == LAT_ACTION_ALLOW && r == 0)
		r = promote(run, &q->flow, &q->who, everybody,
			!a->for_run ? ONCE_NS : a->ttl_s ? a->ttl_s * LAT_NS_PER_SEC : FOREVER_NS);
	if ((a->action == LAT_ACTION_ALLOW && r == 0) || q->flow.proto == IPPROTO_UDP) {
		note(run->wall, &q->flow, a->text);
		lat_connects_answered(run->connects, q->id, 0);
		return;
	}
	v.reason = r == -EOPNOTSUPP ? "an answer for one process needs the host's pid namespace"
		   : r < 0	    ? "the answer could not be put into the kernel"
		   : a->text[0]	    ? a->text
				    : NULL;
	v.where = q->rule && q->rule <= run->policy->spec.rule_count ? run->policy->spec.rules[q->rule - 1].where
								     : "on(\"connect\")";
	refuse(run, &q->flow, &v, &q->who);
	lat_connects_answered(run->connects, q->id, ECONNREFUSED);
}

/* Held by a process of the group; of no other: what is inherited was closed before the command began, and what is passed came
 * over a socket that a rule named. */
static bool inside(void *ctx, uint32_t inode)
{
	struct lat_run *run = ctx;

	return lat_group_holds_socket(lat_wall_group_path(run), inode) == 1;
}

static void failed(void *ctx, const char *what, int err, const struct lat_identity *who)
{
	struct lat_record r = { .kind = LAT_RECORD_HANDLER, .action = LAT_ACTION_DENY, .err = (uint16_t)err };

	r.who = *who;
	snprintf(r.text, sizeof(r.text), "connect refused: %s", what);
	lat_run_emit(ctx, &r);
}

void lat_wall_connect_hooks(struct lat_run *run, struct lat_connects_hooks *connects)
{
	*connects = (struct lat_connects_hooks){ .ctx = run, .ask = ask, .inside = inside,
		.unix_path = lat_run_connect_unix, .failed = failed };
}
