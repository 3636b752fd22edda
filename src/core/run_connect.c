/* The decisions of a run on calls of connect(2), and their records: hooks of the connect mediator. What is not plainly
 * allowed goes on to the wall, which judges the packet (run_judge.c). */
#include "core/run_private.h"
#include "base/clock.h"
#include "base/mem.h"
#include <netinet/in.h>
#include <stdio.h>

static int connect_tcp(void *ctx, const struct lat_flow *flow, const struct lat_identity *who)
{
	struct lat_run *run = ctx;
	struct lat_verdict v;
	struct lat_question q;
	struct lat_record r;
	char text[256];

	if (run->probing && lat_run_is_probe(flow)) {
		if (!run->probe_refused_call)
			lat_run_selfcheck(run, flow, "at the call");
		run->probe_refused_call = true;
		return ECONNREFUSED;
	}
	if (lat_run_judge(run, flow, who, false, &v, &q, text) == 1)
		return 0; /* a question: the wall holds the packet while it is asked */
	if (lat_verdict_passes(&v) || v.action == LAT_ACTION_DROP || lat_run_lenient(run))
		return 0; /* the wall judges again, on the packet, and writes the record */
	lat_run_fill(&r, flow, &v, who, lat_pins_name(run->pins, &flow->remote, lat_now_ns()));
	lat_run_emit(run, &r);
	return r.err;
}

static bool is_host_port(const struct lat_run *run, uint16_t port)
{
	const struct lat_policy_spec *spec = &run->policy->spec;

	for (size_t i = 0; i < spec->host_port_count; i++)
		if (spec->host_ports[i].proto != IPPROTO_UDP && spec->host_ports[i].lo <= port && port <= spec->host_ports[i].hi)
			return true;
	return false;
}

/* A plain "allow" needs no packet: the flow is dialled at once. Whatever is less plain goes the way over the queue. */
static int connect_dial(void *ctx, const struct lat_flow *flow, const struct lat_identity *who, uint64_t *id, bool *ready)
{
	struct lat_run *run = ctx;
	struct lat_run_flow *rf;
	struct lat_verdict v;
	struct lat_question q;
	char text[256];
	int64_t r;

	if (lat_addr_is_loopback(&flow->remote) && !is_host_port(run, flow->dport))
		return 0; /* stays inside */
	if (run->probing || lat_run_is_probe(flow) || lat_run_judge(run, flow, who, false, &v, &q, text) == 1 ||
	    !lat_verdict_passes(&v) || v.by_handler || (v.rule && run->policy->spec.rules[v.rule - 1].rate))
		return lat_addr_is_loopback(&flow->remote) ? 0 : connect_tcp(run, flow, who);
	rf = lat_run_flow_new(run, flow, who);
	if (!rf)
		return 0;
	rf->passed = true;
	r = lat_flows_dial(run->flows, flow, &v, rf, ready);
	if (r == 0)
		lat_run_flow_free(rf);
	if (r <= 0)
		return (int)-r;
	*id = (uint64_t)r;
	run->opening.flow = rf;
	run->opening.verdict = v;
	run->opening.tuple = *flow;
	return 0;
}

static void connect_connected(void *ctx, uint64_t id, const struct lat_addr *local, uint16_t sport)
{
	struct lat_run *run = ctx;
	struct lat_flow *tuple = &run->opening.tuple;

	if (local) {
		tuple->local = *local;
		tuple->sport = sport;
	}
	lat_run_judged(run, run->opening.flow, tuple, &run->opening.verdict);
	lat_flows_connected(run->flows, id, local, sport);
}

/* A connect that could not be judged was refused; there is no address to name. */
static void connect_failed(void *ctx, const char *what, int err, const struct lat_identity *who)
{
	struct lat_record r = { .kind = LAT_RECORD_HANDLER, .action = LAT_ACTION_DENY, .err = (uint16_t)err };

	r.who = *who;
	snprintf(r.text, sizeof(r.text), "connect refused: %s", what);
	lat_run_emit(ctx, &r);
}

static void connect_started(void *ctx)
{
	lat_flows_poll(((struct lat_run *)ctx)->flows);
}

void lat_run_connect_hooks(struct lat_run *run, struct lat_connects_hooks *connects)
{
	*connects = (struct lat_connects_hooks){ .ctx = run, .tcp = connect_tcp, .dial = connect_dial,
		.connected = connect_connected, .unix_path = lat_run_connect_unix,
		.started = connect_started, .failed = connect_failed };
}
