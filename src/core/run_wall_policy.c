/* Generations in kernel mode: filled and put in force by a thread, for the swap waits for the kernel. See run_wall.h. */
#include "core/run_wall.h"
#include "base/clock.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

/* An idle flow is judged again by its next packet: so long the names of open flows are pinned after a reload, whatever the
 * time to live of the answers said. */
#define KEPT_NS (10 * LAT_NS_PER_SEC)

static bool passes(uint8_t action)
{
	return action == LAT_ACTION_ALLOW || action == LAT_ACTION_AUDIT;
}

int lat_wall_policy(struct lat_run *run, struct lat_policy *policy, struct lat_policy **out)
{
	struct lat_policy_spec spec = policy->spec;
	lat_autofree struct lat_rule *rules = NULL;

	if (!lat_run_lenient(run)) {
		*out = lat_policy_ref(policy);
		return 0;
	}
	rules = calloc(spec.rule_count + 1, sizeof(*rules));
	if (!rules)
		return -ENOMEM;
	for (size_t i = 0; i < spec.rule_count; i++) {
		rules[i] = spec.rules[i];
		rules[i].rate = 0;
		if (!passes(rules[i].action))
			rules[i].action = LAT_ACTION_AUDIT;
	}
	spec.rules = rules;
	spec.has_ask = spec.has_connect = 0;
	if (!passes(spec.default_action))
		spec.default_action = LAT_ACTION_AUDIT;
	return lat_policy_build(policy->generation, &spec, out);
}

bool lat_wall_asks(const struct lat_run *run, const struct lat_policy *policy)
{
	const struct lat_policy_spec *spec = &policy->spec;

	if (lat_run_lenient(run)) /* everything passes, so nobody need be asked */
		return false;
	for (size_t i = 0; i < spec->rule_count; i++)
		if (spec->rules[i].action == LAT_ACTION_ASK)
			return spec->has_ask;
	return spec->has_connect;
}

/* The probe of the self-check is refused whatever the policy says: a temporary rule comes before all others. */
static int refuse_probe(struct lat_wall *w)
{
	struct lat_tc_temp t = { .box = { .rule = LAT_RULE_TEMPORARY | 1, .hi = UINT16_MAX, .proto = LAT_PROTO_ANY,
					 .dir = LAT_DIR_OUT, .action = LAT_ACTION_DENY, .log = 1 } };
	struct lat_addr probe;

	lat_addr_parse(LAT_PROBE_ADDR4, &probe);
	memcpy(t.addr, probe.b, sizeof(t.addr));
	memset(t.mask, 0xff, sizeof(t.mask));
	return lat_filter_overlay(w->filter, &t, 1);
}

static int apply(struct lat_wall *w, const struct lat_policy *policy, char say[LAT_TC_SAY])
{
	lat_autofree struct lat_filter_pin *pins = NULL;
	lat_autofree const char **names = NULL;
	size_t count;
	int r = lat_wall_pins(w, &pins, &names, &count);

	return r < 0 ? r : lat_filter_apply(w->filter, policy, pins, count, say);
}

int lat_wall_first(struct lat_run *run, char say[LAT_RUN_SAY])
{
	struct lat_wall *w = run->wall;
	char why[LAT_TC_SAY] = "";
	int r = lat_wall_policy(run, run->policy, &w->policy);

	if (r == 0)
		r = apply(w, w->policy, why);
	if (r == 0)
		r = refuse_probe(w);
	if (r < 0)
		snprintf(say, LAT_RUN_SAY, "the policy could not be put into the kernel: %.700s", why[0] ? why : strerror(-r));
	return r;
}

/* In the thread. The names do not change meanwhile: who changes them takes the lock. */
static void *work(void *arg)
{
	struct lat_wall *w = arg;
	uint64_t one = 1;

	pthread_mutex_lock(&w->lock);
	w->apply.result = apply(w, w->apply.policy, w->apply.say);
	if (w->apply.result == 0) {
		lat_tc_answers_clear(w->filter->tc[0]); /* they were answers to the old one, of which the maps know it too */
		w->apply.cut = lat_filter_cut(w->filter);
		lat_filter_settle(w->filter);
	}
	pthread_mutex_unlock(&w->lock);
	while (write(w->applied.fd, &one, sizeof(one)) < 0 && errno == EINTR) {
	}
	return NULL;
}

static void on_applied(struct lat_poll_item *item, uint32_t events)
{
	struct lat_wall *w = lat_container_of(item, struct lat_wall, applied);
	struct lat_run *run = w->run;
	uint64_t count;

	(void)events;
	if (read(item->fd, &count, sizeof(count)) < 0 || !w->apply.running)
		return;
	pthread_join(w->apply.thread, NULL);
	w->apply.running = false;
	if (w->apply.result == 0) {
		lat_policy_unref(w->policy);
		w->policy = w->apply.policy;
	} else {
		lat_policy_unref(w->apply.policy);
	}
	w->apply.policy = NULL;
	lat_run_taken(run, w->apply.result, w->apply.say[0] ? w->apply.say : strerror(-w->apply.result));
}

/* What open flows were opened by is pinned for a while more. */
static void keep_names(struct lat_wall *w)
{
	uint64_t now = lat_now_ns();

	for (size_t i = 0; i < LAT_WALL_FLOWS; i++) {
		const struct lat_wall_flow *f = &w->flows[i];

		if (f->used && f->name[0])
			lat_wall_pin(w->run, f->name, &f->flow.remote, now + KEPT_NS);
	}
}

int lat_wall_take(struct lat_run *run, struct lat_policy *policy, char say[LAT_RUN_SAY])
{
	struct lat_wall *w = run->wall;
	int r;

	if (lat_wall_asks(run, policy) && !w->notifies) {
		snprintf(say, LAT_RUN_SAY, "it has questions (ask, on(\"connect\")), and this run began with a policy that had none: "
			"its connects do not come to Lattice. Start the run again with it");
		return -EOPNOTSUPP;
	}
	if (w->agent)
		return lat_wall_agent_take(run, policy, say);
	if (!w->applied.ready) {
		w->applied = (struct lat_poll_item){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = on_applied };
		r = w->applied.fd < 0 ? -errno : lat_poller_add(run->poller, &w->applied, EPOLLIN);
		if (r < 0) {
			lat_close(&w->applied.fd);
			w->applied.ready = NULL;
			return r;
		}
	}
	r = lat_wall_policy(run, policy, &w->apply.policy);
	if (r < 0)
		return r;
	keep_names(w);
	lat_pump_generation(w->pump, policy); /* its first events may come before we know that it is in force */
	w->apply.say[0] = '\0';
	w->apply.cut = 0;
	r = -pthread_create(&w->apply.thread, NULL, work, w);
	if (r < 0) {
		lat_policy_unref(w->apply.policy);
		w->apply.policy = NULL;
		return r;
	}
	w->apply.running = true;
	return 1;
}

size_t lat_wall_cut(struct lat_run *run)
{
	return run->wall->apply.cut > 0 ? (size_t)run->wall->apply.cut : 0;
}

void lat_wall_apply_end(struct lat_wall *w)
{
	if (w->apply.running)
		pthread_join(w->apply.thread, NULL);
	w->apply.running = false;
	lat_policy_unref(w->apply.policy);
	w->apply.policy = NULL;
	if (w->applied.ready) {
		lat_poller_del(w->run->poller, &w->applied);
		lat_close(&w->applied.fd);
	}
}
