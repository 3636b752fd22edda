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

static int use_routes(struct lat_run *run, const struct lat_run_reload *extra, char say[LAT_RUN_SAY])
{
	const struct lat_run_options *o = run->options;
	const char *target = NULL;
	int r = lat_audit_reroute(run->audit, extra ? extra->routes : o->routes, extra ? extra->route_count : o->route_count,
		&target);

	if (r < 0)
		snprintf(say, LAT_RUN_SAY, "cannot open audit sink %.180s: %s", target ? target : "", strerror(-r));
	return r;
}

static void tell(struct lat_run *run, uint8_t action, uint32_t generation, const char *text)
{
	struct lat_record r = { .kind = LAT_RECORD_RELOAD, .action = action, .generation = generation };

	snprintf(r.text, sizeof(r.text), "%.255s", text);
	lat_run_emit(run, &r);
	run->reloading = false;
	if (run->reload_again) {
		run->reload_again = false;
		lat_run_reload(run);
	}
}

void lat_run_reload_end(struct lat_run *run)
{
	lat_policy_unref(run->next.policy);
	free(run->next.rate_used);
	if (run->next.extra)
		run->next.extra->release(run->next.extra);
	memset(&run->next, 0, sizeof(run->next));
}

static void refuse(struct lat_run *run, const char *why)
{
	lat_error("reload refused, the old policy stays: %s", why);
	lat_run_reload_end(run);
	requestion(run); /* those that waited for its end */
	tell(run, LAT_ACTION_DENY, 0, why);
}

void lat_run_taken(struct lat_run *run, int error, const char *why)
{
	char text[LAT_RUN_SAY];
	size_t cut = 0;

	if (error < 0) {
		if (run->next.extra) /* should that fail, too: the records go where the new policy wants them */
			use_routes(run, run->routed, text);
		refuse(run, why);
		return;
	}
	lat_policy_unref(run->policy);
	free(run->rate_used);
	if (run->next.extra && run->routed)
		run->routed->release(run->routed);
	run->policy = run->next.policy;
	run->rate_used = run->next.rate_used;
	run->routed = run->next.extra ? run->next.extra : run->routed;
	memset(&run->next, 0, sizeof(run->next));
	run->next_generation = run->policy->generation + 1;
	lat_answers_clear(run->answers);
	requestion(run);
	if (!run->policy->spec.keep_established)
		cut = run->mode->cut(run);
	snprintf(text, sizeof(text), "policy \"%.100s\" loaded: %zu rules, %zu open connections cut",
		run->policy->spec.name ? run->policy->spec.name : "", run->policy->spec.rule_count, cut);
	if ((run->options->notices || run->options->verbose) && lat_log_ready())
		fprintf(stderr, "lattice: generation %u: %s\n", run->policy->generation, text);
	tell(run, LAT_ACTION_ALLOW, run->policy->generation, text);
}

/* Everything that can fail comes before the swap; what a mode puts in force comes last of it. */
void lat_run_reloaded(struct lat_run *run, struct lat_answer *a)
{
	char say[LAT_RUN_SAY] = "";
	int r;

	run->next.extra = a->extra;
	if (a->failed || !a->policy) {
		refuse(run, a->text);
		return;
	}
	run->next.policy = a->policy;
	run->next.rate_used = calloc(a->policy->spec.rule_count + 1, sizeof(*run->next.rate_used));
	if (!run->next.rate_used) {
		refuse(run, "out of memory");
		return;
	}
	r = run->next.extra ? use_routes(run, run->next.extra, say) : 0;
	if (r < 0) {
		refuse(run, say);
		return;
	}
	r = run->mode->take(run, run->next.policy, say);
	if (r <= 0)
		lat_run_taken(run, r, say[0] ? say : strerror(-r));
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
		if (a->stale && run->next.policy) /* loaded, but not in force yet: asked again when it is, or is refused */
			return;
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
