/* What is particular to user mode: the flow engine behind the trap of the sandbox's network namespace. */
#include "core/run_private.h"
#include "base/clock.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

static int prepare(struct lat_run *run, struct lat_launch_spec *spec, char say[LAT_RUN_SAY])
{
	(void)run;
	(void)spec;
	(void)say;
	return 0;
}

static int open_engine(struct lat_run *run, struct lat_dns_options *dns)
{
	const struct lat_sandbox *s = &run->sandbox;
	int r;

	lat_run_flow_hooks(run, &run->hooks.flows);
	lat_run_connect_hooks(run, &run->hooks.connects);
	r = lat_flows_new(&(struct lat_flows_options){ .poller = run->poller, .hooks = &run->hooks.flows, .queue = s->queue,
				  .listener = s->listener, .raw4 = s->raw4, .raw6 = s->raw6 },
		&run->flows);
	if (r < 0)
		return r;
	dns->udp = s->dns_udp;
	dns->tcp = s->dns_tcp;
	return lat_connects_new(&(struct lat_connects_options){ .poller = run->poller, .hooks = &run->hooks.connects,
					.notify = s->notify, .diag = s->diag, .root = s->root },
		&run->connects);
}

static void tick(struct lat_run *run, uint64_t now_ns)
{
	lat_flows_tick(run->flows, now_ns);
}

static bool told(struct lat_run *run)
{
	return run->probe_refused_call && run->probe_refused_packet;
}

/* The packets of new flows are judged by run->policy; only which loopback ports come to be judged is the trap's. */
static int take(struct lat_run *run, struct lat_policy *policy, char say[LAT_RUN_SAY])
{
	lat_autofree struct lat_port_span *spans = calloc(policy->spec.host_port_count + 1, sizeof(*spans));
	int r;

	if (!spans)
		return -ENOMEM;
	for (size_t i = 0; i < policy->spec.host_port_count; i++)
		spans[i] = (struct lat_port_span){ policy->spec.host_ports[i].lo, policy->spec.host_ports[i].hi,
			policy->spec.host_ports[i].proto };
	r = lat_launch_host_ports(&run->sandbox, spans, policy->spec.host_port_count);
	if (r < 0)
		snprintf(say, LAT_RUN_SAY, "cannot change the host ports of the trap: %s", strerror(-r));
	return r;
}

/* Judges a live flow under the new policy: what it denies is cut. */
static bool keep(void *ctx, struct lat_flow_info *info)
{
	struct lat_run *run = ctx;
	struct lat_run_flow *rf = info->user;
	struct lat_verdict v;
	struct lat_question q;
	char text[256];

	if (!rf || lat_run_lenient(run))
		return true;
	if (!rf->passed) /* not decided yet: its question is asked again */
		return true;
	/* The pin of the name that it was opened by may have ended since; for this look only it holds. */
	if (rf->name[0])
		lat_pins_add(run->pins, &info->flow.remote, rf->name, lat_now_ns() + LAT_NS_PER_MS);
	if (lat_run_judge(run, &info->flow, &rf->who, false, &v, &q, text) == 1)
		return true; /* the new policy would ask: what was answered stays */
	return lat_verdict_passes(&v);
}

static size_t cut(struct lat_run *run)
{
	return lat_flows_sweep(run->flows, keep, run);
}

static void close_nothing(struct lat_run *run)
{
	(void)run;
}

const struct lat_run_mode lat_run_trap = { .name = "user", .prepare = prepare, .open = open_engine, .tick = tick,
	.told = told, .take = take, .cut = cut, .close = close_nothing };
