/* Kernel mode without privilege: the wall is the agent's. It made the group and loaded the programs, for a policy that its config
 * lets this user run by; the supervisor launches, answers DNS, tells pins, and writes what the programs tell. See
 * agent_link.h and run_wall.h. The agent's end is the end of the run: it (or its keeper) kills what is inside. */
#include "core/run_wall.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#define PROBE_MS 2000 /* the word on the self-check's probe comes over the agent */

/* Generations are numbered on both sides: an event of the agent's is one of the policy here. */
static void on_event(void *ctx, const void *data, size_t size)
{
	struct lat_wall *w = ctx;
	struct lat_event e;

	memcpy(&e, data, sizeof(e));
	if (e.generation == w->agent_generation)
		e.generation = w->policy->generation;
	(void)size;
	if (w->pump)
		lat_pump_take(w->pump, &e, sizeof(e), NULL);
}

static void on_lost(void *ctx, uint64_t count)
{
	struct lat_wall *w = ctx;

	if (w->pump)
		lat_pump_lost(w->pump, count, false, "the agent could not hand them over in time");
}

static void on_reload(void *ctx)
{
	((struct lat_wall *)ctx)->run->reload_due = true;
}

int lat_wall_agent_open(struct lat_wall *w, char say[LAT_RUN_SAY])
{
	const struct lat_agent_hooks hooks = { .ctx = w, .event = on_event, .lost = on_lost, .reload = on_reload };
	struct lat_run *run = w->run;
	char why[LAT_AGENT_SAY];
	int r;

	if (lat_run_lenient(run)) {
		snprintf(say, LAT_RUN_SAY, "--audit-only and --learn let everything pass, and the agent walls no such run: be root, "
			"or take another mode");
		return -EOPNOTSUPP;
	}
	r = lat_agent_open(run->options->agent, &hooks, &w->agent, why);
	if (r < 0)
		snprintf(say, LAT_RUN_SAY, "kernel mode by the agent: %.900s", why[0] ? why : strerror(-r));
	w->policy = lat_policy_ref(run->policy);
	return r;
}

/* Both sides read the same file: another content on one of them would name the wrong rules. */
static int compare(const struct lat_policy *policy, const char *digest, char *say, size_t size)
{
	char ours[LAT_POLICY_DIGEST + 1];

	lat_policy_digest(policy, ours);
	if (strcmp(ours, digest) == 0)
		return 0;
	snprintf(say, size, "the agent has another policy in force than the one that was read here");
	return -ESTALE;
}

static int place(void *ctx, pid_t init, char say[256])
{
	struct lat_run *run = ctx;
	struct lat_wall *w = run->wall;
	const struct lat_agent_run what = { .init = init, .policy = run->options->agent_policy, .name = run->options->name,
		.dns_port = w->dns_port, .no_unix = !w->notifies };
	struct lat_agent_started started;
	char why[LAT_AGENT_SAY];
	struct stat st;
	int r = lat_agent_start(w->agent, &what, &started, why);

	if (r < 0) {
		snprintf(say, 256, "the agent refused the run: %.200s", why[0] ? why : strerror(-r));
		return r;
	}
	w->agent_generation = started.generation;
	snprintf(w->agent_group, sizeof(w->agent_group), "%s", started.group);
	w->agent_group_id = stat(started.group, &st) == 0 ? st.st_ino : 0;
	return compare(run->policy, started.digest, say, 256);
}

void lat_wall_agent_launch(struct lat_run *run, struct lat_launch_spec *spec)
{
	spec->place = place;
	spec->place_ctx = run;
}

/* ---- while it runs ---- */

static void check_end(struct lat_wall *w)
{
	struct lat_run *run = w->run;

	if (!lat_agent_ended(w->agent) || run->stop || run->ended)
		return;
	lat_error("the agent ended the run: %s; the command was killed", lat_agent_ended(w->agent));
	run->status = LAT_RUN_FAILED;
	run->stop = true;
}

static void on_link(struct lat_poll_item *item, uint32_t events)
{
	struct lat_wall *w = lat_container_of(item, struct lat_wall, ring_item);

	(void)events;
	if (lat_agent_dispatch(w->agent) < 0)
		lat_poller_del(w->run->poller, item);
	check_end(w);
}

int lat_wall_agent_watch(struct lat_wall *w)
{
	w->ring_item = (struct lat_poll_item){ .fd = lat_agent_fd(w->agent), .ready = on_link };
	return lat_poller_add(w->run->poller, &w->ring_item, EPOLLIN);
}

void lat_wall_agent_told(struct lat_wall *w)
{
	uint64_t until = lat_now_ns() + PROBE_MS * LAT_NS_PER_MS;

	while (!w->run->probe_refused_packet && lat_now_ns() < until && lat_agent_dispatch(w->agent) == 0) {
		struct pollfd p = { .fd = lat_agent_fd(w->agent), .events = POLLIN };

		poll(&p, 1, 10);
	}
}

int lat_wall_agent_pin(struct lat_wall *w, const struct lat_filter_pin *pins, size_t count)
{
	char why[LAT_AGENT_SAY];
	int r = lat_agent_pin(w->agent, pins, count, why);

	if (r < 0 && lat_log_ready())
		lat_warn("the agent did not take what names resolved to: %s", why);
	check_end(w);
	return r;
}

int lat_wall_agent_answer(struct lat_wall *w, const struct lat_flow *flow, pid_t pid, uint64_t for_ns)
{
	char why[LAT_AGENT_SAY];
	int r = lat_agent_answer(w->agent, &flow->remote, flow->proto, flow->dport, pid, true, for_ns, why);

	if (r < 0 && lat_log_ready())
		lat_warn("the agent did not take an answer: %s", why);
	check_end(w);
	return r;
}

int lat_wall_agent_take(struct lat_run *run, struct lat_policy *policy, char say[LAT_RUN_SAY])
{
	struct lat_wall *w = run->wall;
	struct lat_agent_reloaded now;
	char why[LAT_AGENT_SAY];
	int r = lat_agent_reload(w->agent, &now, why);

	check_end(w);
	if (r < 0) {
		snprintf(say, LAT_RUN_SAY, "%s", why[0] ? why : strerror(-r));
		return r;
	}
	r = compare(policy, now.digest, say, LAT_RUN_SAY);
	if (r < 0)
		return r;
	lat_pump_generation(w->pump, policy);
	lat_policy_unref(w->policy);
	w->policy = lat_policy_ref(policy);
	w->agent_generation = now.generation;
	w->apply.cut = (int)now.cut;
	return 0;
}

/* Everything inside has ended: what the programs told last comes, then the agent takes the group away. */
void lat_wall_agent_end(struct lat_wall *w)
{
	char why[LAT_AGENT_SAY];

	lat_agent_finish(w->agent, why);
}
