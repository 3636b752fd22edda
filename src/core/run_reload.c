/* Generations of a run: SIGHUP asks the policy thread for the next one; when it comes whole, it is swapped in, open flows
 * are judged again, and questions of the old one are asked anew. A refused one changes nothing. */
#include "core/run_private.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

void lat_run_reload(struct lat_run *run)
{
	struct lat_question q = { .kind = LAT_QUESTION_RELOAD };

	if (run->reloading) { /* one at a time; the last request wins */
		run->reload_again = true;
		return;
	}
	if (!run->worker)
		return;
	q.generation = run->next_generation;
	if (lat_worker_ask(run->worker, &q) < 0) {
		lat_error("reload: the policy thread is busy; the old policy stays. Send SIGHUP again.");
		return;
	}
	run->reloading = true;
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

static void requestion(struct lat_run *run)
{
	for (unsigned i = 0; i < LAT_RUN_PENDING; i++) {
		struct lat_pending *p = &run->pending[i];
		struct lat_answer a = { .action = LAT_ACTION_DENY };
		struct lat_question old = p->question, q;
		struct lat_verdict v;

		if (!old.id)
			continue;
		if (old.kind != LAT_QUESTION_DNS) {
			if (p->flow) { /* its records speak of the new one from now on */
				lat_policy_unref(p->flow->policy);
				p->flow->policy = lat_policy_ref(run->policy);
			}
			if (lat_run_judge(run, &old.flow, &old.who, true, &v, &q, a.text) == 1) {
				q.id = old.id;
				if (lat_run_ask(run, &q) == 0)
					continue;
				snprintf(a.text, sizeof(a.text), "too many questions");
			} else {
				a.action = lat_verdict_passes(&v) ? LAT_ACTION_ALLOW : LAT_ACTION_DENY;
				old.rule = v.rule;
			}
		} else {
			bool private_ok;

			a.action = lat_names_resolvable(run->policy->names, old.name, &private_ok) ||
						   run->policy->spec.names_open
					   ? LAT_ACTION_ALLOW
					   : LAT_ACTION_DENY;
		}
		old.generation = run->policy->generation;
		lat_run_answered(run, &old, &a);
	}
}

static int use_host_ports(struct lat_run *run, const struct lat_policy *policy)
{
	lat_autofree struct lat_port_span *spans = calloc(policy->spec.host_port_count + 1, sizeof(*spans));

	if (!spans)
		return -ENOMEM;
	for (size_t i = 0; i < policy->spec.host_port_count; i++)
		spans[i] = (struct lat_port_span){ policy->spec.host_ports[i].lo, policy->spec.host_ports[i].hi,
			policy->spec.host_ports[i].proto };
	return lat_launch_host_ports(&run->sandbox, spans, policy->spec.host_port_count);
}

void lat_run_reloaded(struct lat_run *run, struct lat_answer *a)
{
	struct lat_record r = { .kind = LAT_RECORD_RELOAD, .action = LAT_ACTION_ALLOW };
	struct lat_run_reload *extra = a->extra;
	const char *target = NULL;
	uint32_t *rate_used = NULL;
	size_t cut = 0;
	int e = 0;

	run->reloading = false;
	if (a->failed || !a->policy) {
		r.action = LAT_ACTION_DENY;
		snprintf(r.text, sizeof(r.text), "%.255s", a->text);
		lat_error("reload refused, the old policy stays: %s", a->text);
		goto out;
	}
	/* Everything that can fail comes before the swap. */
	rate_used = calloc(a->policy->spec.rule_count + 1, sizeof(*rate_used));
	if (!rate_used) {
		e = -ENOMEM;
		snprintf(r.text, sizeof(r.text), "out of memory");
	} else if ((e = use_host_ports(run, a->policy)) < 0) {
		snprintf(r.text, sizeof(r.text), "cannot change the host ports of the trap: %s", strerror(-e));
	} else if (extra && (e = lat_audit_reroute(run->audit, extra->routes, extra->route_count, &target)) < 0) {
		snprintf(r.text, sizeof(r.text), "cannot open audit sink %.180s: %s", target ? target : "", strerror(-e));
		use_host_ports(run, run->policy); /* if that fails too, they stay queued and judged by the old policy */
	}
	if (e < 0) {
		free(rate_used);
		r.action = LAT_ACTION_DENY;
		lat_error("reload refused, the old policy stays: %s", r.text);
		lat_policy_unref(a->policy);
		goto out;
	}
	lat_policy_unref(run->policy);
	run->policy = a->policy;
	run->next_generation = a->policy->generation + 1;
	free(run->rate_used);
	run->rate_used = rate_used;
	lat_answers_clear(run->answers);
	requestion(run);
	if (!run->policy->spec.keep_established)
		cut = lat_flows_sweep(run->flows, keep, run);
	r.generation = run->policy->generation;
	snprintf(r.text, sizeof(r.text), "policy \"%.100s\" loaded: %zu rules, %zu open connections cut",
		run->policy->spec.name ? run->policy->spec.name : "", run->policy->spec.rule_count, cut);
	if ((run->options->notices || run->options->verbose) && lat_log_ready())
		fprintf(stderr, "lattice: generation %u: %s\n", run->policy->generation, r.text);
out:
	lat_run_emit(run, &r);
	if (extra)
		extra->release(extra);
	if (run->reload_again) {
		run->reload_again = false;
		lat_run_reload(run);
	}
}

void lat_run_worker_done(void *ctx, struct lat_answer *a)
{
	struct lat_run *run = ctx;

	if (a->kind == LAT_QUESTION_RELOAD) {
		lat_run_reloaded(run, a);
		return;
	}
	for (unsigned i = 0; i < LAT_RUN_PENDING; i++) {
		struct lat_question q = run->pending[i].question;

		if (q.id != a->id)
			continue;
		if (q.generation == a->generation) /* an answer of an older generation is not used */
			lat_run_answered(run, &q, a);
		return;
	}
}

void lat_run_questions_tick(struct lat_run *run, uint64_t now_ns)
{
	struct lat_answer late = { .action = LAT_ACTION_DENY, .failed = 1 };

	for (unsigned i = 0; run->pending_count && i < LAT_RUN_PENDING; i++) {
		struct lat_question q = run->pending[i].question;

		if (!q.id || now_ns - run->pending[i].asked_ns < LAT_QUESTION_TIMEOUT_NS)
			continue;
		snprintf(late.text, sizeof(late.text), "no answer from the policy's handler in time: denied");
		lat_run_answered(run, &q, &late);
	}
}
