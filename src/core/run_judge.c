/* The decisions of a run on flows, and the records of them: hooks of the flow engine and of the connect mediator. Whatever
 * is odd is denied. */
#include "core/run_wall.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include <stdio.h>
#include <string.h>

bool lat_run_is_probe(const struct lat_flow *f)
{
	struct lat_addr probe;

	lat_addr_parse(LAT_PROBE_ADDR4, &probe);
	return lat_addr_equal(&f->remote, &probe) && (f->dport == LAT_PROBE_PORT || f->proto != IPPROTO_TCP);
}

static void notice(const struct lat_record *r)
{
	bool quoted = r->kind == LAT_RECORD_VERDICT && r->text[0];
	char rule[400], what[700];

	lat_summary_describe(r, what, sizeof(what));
	lat_summary_suggest(r, rule, sizeof(rule));
	fprintf(stderr, "lattice: denied %s, %s%s%s%s; to allow: %s\n", what, r->where[0] ? r->where : "default",
		quoted ? " \"" : "", quoted ? r->text : "", quoted ? "\"" : "", rule);
}

void lat_run_emit(struct lat_run *run, struct lat_record *r)
{
	bool first = false;

	if (!r->generation && run->policy)
		r->generation = run->policy->generation;
	if (r->kind == LAT_RECORD_VERDICT || r->kind == LAT_RECORD_UNIX ||
	    (r->kind == LAT_RECORD_DNS && r->action == LAT_ACTION_DENY))
		first = lat_summary_add(run->summary, r);
	if (r->kind == LAT_RECORD_LIMIT && r->count)
		lat_summary_limit(run->summary, r);
	if (first && run->options->notices && lat_log_ready())
		notice(r);
	lat_audit_emit(run->audit, r);
}

static bool rate_exceeded(struct lat_run *run, uint32_t rule, uint64_t now_ns)
{
	uint32_t limit = rule ? run->policy->spec.rules[rule - 1].rate : 0;
	uint64_t second = now_ns / LAT_NS_PER_SEC;

	if (!limit)
		return false;
	if (second != run->rate_second) {
		memset(run->rate_used, 0, run->policy->spec.rule_count * sizeof(*run->rate_used));
		run->rate_second = second;
	}
	return ++run->rate_used[rule - 1] > limit;
}

int lat_run_judge(struct lat_run *run, const struct lat_flow *flow, const struct lat_identity *who, bool count_rate,
	struct lat_verdict *v, struct lat_question *q, char text[256])
{
	uint64_t now = lat_now_ns();
	const struct lat_policy_spec *spec = &run->policy->spec;
	const char *name;

	text[0] = '\0';
	lat_policy_judge(run->policy, run->pins, flow, now, v);
	if (v->action != LAT_ACTION_ASK && !(v->rule == 0 && spec->has_connect)) {
		if (count_rate && lat_verdict_passes(v) && rate_exceeded(run, v->rule, now)) {
			v->action = LAT_ACTION_DENY;
			v->reason = "rate limit of the rule";
		}
		return 0;
	}
	if (v->action == LAT_ACTION_ASK && !spec->has_ask) {
		v->action = LAT_ACTION_DENY;
		v->reason = "the rule asks, but the policy has no on(\"ask\") handler";
		return 0;
	}
	memset(q, 0, sizeof(*q));
	q->generation = run->policy->generation;
	q->kind = v->action == LAT_ACTION_ASK ? LAT_QUESTION_ASK : LAT_QUESTION_CONNECT;
	q->rule = v->rule;
	q->flow = *flow;
	q->who = *who;
	name = lat_pins_name(run->pins, &flow->remote, now);
	lat_set_text(q->name, name ? name : "");
	if (!lat_answers_get(run->answers, q, now, &v->action, text))
		return 1;
	v->by_handler = 1;
	v->reason = text[0] ? text : NULL;
	return 0;
}

/* A VERDICT record of the flow; the caller adds the name and emits. */
void lat_run_fill(struct lat_record *r, const struct lat_flow *flow, const struct lat_verdict *v,
	const struct lat_identity *who, const char *name)
{
	memset(r, 0, sizeof(*r));
	r->kind = LAT_RECORD_VERDICT;
	r->action = v->action;
	r->by_handler = v->by_handler;
	r->rule = v->rule;
	r->generation = v->generation;
	r->err = v->action == LAT_ACTION_DENY ? (v->err ? v->err : ECONNREFUSED) : 0;
	r->flow = *flow;
	r->who = *who;
	lat_set_text(r->name, name ? name : "");
	lat_set_text(r->where, v->where ? v->where : "default");
	lat_set_text(r->text, v->reason ? v->reason : "");
}

void lat_run_selfcheck(struct lat_run *run, const struct lat_flow *flow, const char *layer)
{
	struct lat_record r = { .kind = LAT_RECORD_SELFCHECK, .action = LAT_ACTION_DENY, .err = ECONNREFUSED };

	r.flow = *flow;
	snprintf(r.where, sizeof(r.where), "self-check");
	snprintf(r.text, sizeof(r.text), "probe refused %s", layer);
	lat_run_emit(run, &r);
}

static struct lat_pending *pending_find(struct lat_run *run, uint64_t id)
{
	for (unsigned i = 0; run->pending_count && i < LAT_RUN_PENDING; i++)
		if (run->pending[i].question.id == id)
			return &run->pending[i];
	return NULL;
}

static void pending_drop(struct lat_run *run, struct lat_pending *p)
{
	p->question.id = 0;
	run->pending_count--;
}

void lat_run_unask(struct lat_run *run, uint64_t id)
{
	struct lat_pending *p = pending_find(run, id);

	if (p)
		pending_drop(run, p);
}

void lat_run_asked(struct lat_run *run, uint64_t id, struct lat_run_flow *flow)
{
	pending_find(run, id)->flow = flow;
}

int lat_run_ask(struct lat_run *run, struct lat_question *q)
{
	struct lat_pending *p = pending_find(run, q->id);
	int r;

	if (!p && run->pending_count >= LAT_RUN_PENDING)
		return -EAGAIN;
	r = run->worker ? lat_worker_ask(run->worker, q) : -ENOSYS;
	if (r < 0)
		return r;
	if (!p) {
		for (p = run->pending; p->question.id; p++) {
		}
		run->pending_count++;
		p->asked_ns = lat_now_ns();
	}
	p->question = *q;
	return 0;
}

/* Writes the record of a judged flow and keeps in rf what its CLOSE record needs. */
void lat_run_judged(struct lat_run *run, struct lat_run_flow *rf, const struct lat_flow *flow, struct lat_verdict *v)
{
	const struct lat_policy_spec *spec = &run->policy->spec;
	struct lat_record r;

	lat_run_fill(&r, flow, v, &rf->who, rf->name);
	if (!lat_verdict_passes(v) && lat_run_lenient(run)) {
		r.audit_only = rf->audit_only = 1;
		r.err = 0;
		v->action = LAT_ACTION_AUDIT;
	}
	rf->told = true;
	rf->passed = lat_verdict_passes(v);
	lat_set_text(rf->where, r.where);
	lat_set_text(rf->reason, r.text);
	v->where = rf->where;
	v->reason = rf->reason;
	if (rf->passed && v->rule && v->rule <= spec->rule_count && !spec->rules[v->rule - 1].log && !rf->audit_only) {
		lat_summary_add(run->summary, &r); /* log = false: counted, not written */
		return;
	}
	lat_run_emit(run, &r);
}

struct lat_run_flow *lat_run_flow_new(struct lat_run *run, const struct lat_flow *flow, const struct lat_identity *who)
{
	struct lat_run_flow *rf = calloc(1, sizeof(*rf));
	const char *name = lat_pins_name(run->pins, &flow->remote, lat_now_ns());

	if (!rf)
		return NULL;
	rf->who = *who;
	rf->policy = lat_policy_ref(run->policy);
	lat_set_text(rf->name, name ? name : "");
	return rf;
}

void lat_run_flow_free(struct lat_run_flow *rf)
{
	lat_policy_unref(rf->policy);
	free(rf);
}

static int flow_judge(void *ctx, uint64_t id, const struct lat_flow *flow, struct lat_verdict *v, void **user)
{
	struct lat_run *run = ctx;
	struct lat_run_flow *rf;
	struct lat_identity who;
	struct lat_question q;
	char text[256];

	memset(v, 0, sizeof(*v));
	if (lat_run_is_probe(flow)) { /* before and after the self-check alike: it is never a real destination */
		if (run->probing && !run->probe_refused_packet)
			lat_run_selfcheck(run, flow, "at the packet");
		run->probe_refused_packet = run->probe_refused_packet || run->probing;
		return 0;
	}
	lat_connects_identify(run->connects, flow, &who);
	rf = lat_run_flow_new(run, flow, &who);
	if (!rf)
		return 0;
	*user = rf;
	if (lat_run_judge(run, flow, &rf->who, true, v, &q, text) == 1) {
		q.id = id;
		if (lat_run_ask(run, &q) == 0) {
			lat_run_asked(run, id, rf);
			return 1;
		}
		v->action = LAT_ACTION_DENY;
		v->reason = "too many questions are waiting for the policy's handlers";
	}
	lat_run_judged(run, rf, flow, v);
	return 0;
}

static void flow_closed(void *ctx, const struct lat_flow_info *info)
{
	struct lat_run *run = ctx;
	struct lat_run_flow *rf = info->user;

	lat_run_unask(run, info->id);
	if (!rf)
		return;
	if (rf->passed && !(rf->policy && info->verdict.rule && info->verdict.rule <= rf->policy->spec.rule_count &&
			    !rf->policy->spec.rules[info->verdict.rule - 1].log)) {
		struct lat_record r;

		lat_run_fill(&r, &info->flow, &info->verdict, &rf->who, rf->name);
		r.kind = LAT_RECORD_CLOSE;
		r.audit_only = rf->audit_only;
		r.bytes_out = info->bytes_out;
		r.bytes_in = info->bytes_in;
		r.duration_ns = lat_now_ns() - info->started_ns;
		lat_set_text(r.where, rf->where);
		lat_set_text(r.text, rf->reason);
		lat_run_emit(run, &r);
	}
	lat_run_flow_free(rf);
}

static void flow_dial_failed(void *ctx, const struct lat_flow_info *info, int err)
{
	struct lat_run *run = ctx;
	struct lat_run_flow *rf = info->user;
	struct lat_record r;

	if (!rf || !rf->passed)
		return;
	if (!rf->told) {
		struct lat_verdict v = info->verdict;

		lat_run_judged(run, rf, &info->flow, &v);
	}
	lat_run_fill(&r, &info->flow, &info->verdict, &rf->who, rf->name);
	r.kind = LAT_RECORD_CLOSE;
	r.err = (uint16_t)err;
	snprintf(r.text, sizeof(r.text), "destination: %s", strerror(err));
	rf->passed = false; /* this is its CLOSE record */
	lat_run_emit(run, &r);
}

static void flow_want_sockets(void *ctx, unsigned count)
{
	struct lat_run *run = ctx;

	lat_launch_want_sockets(&run->sandbox, count);
}

void lat_run_answered(struct lat_run *run, const struct lat_question *q, const struct lat_answer *a)
{
	struct lat_pending *p = pending_find(run, q->id);
	struct lat_verdict v = { .generation = q->generation, .rule = q->rule, .by_handler = 1 };
	struct lat_run_flow *rf;

	if (a->failed) {
		struct lat_record r = { .kind = LAT_RECORD_HANDLER, .action = LAT_ACTION_DENY };

		r.flow = q->flow;
		lat_set_text(r.name, q->name);
		snprintf(r.text, sizeof(r.text), "%.255s", a->text);
		lat_run_emit(run, &r);
		lat_warn("%s", a->text);
	}
	if (!p)
		return; /* the flow ended meanwhile */
	rf = p->flow;
	pending_drop(run, p);
	if (a->for_run && !a->failed)
		lat_answers_put(run->answers, q, a, lat_now_ns());
	if (q->kind == LAT_QUESTION_DNS) {
		lat_dns_answer(run->dns, q->id & ~LAT_DNS_ID, a->action == LAT_ACTION_ALLOW, false);
		return;
	}
	if (run->wall) {
		lat_wall_answered(run, q, a);
		return;
	}
	v.action = a->action == LAT_ACTION_ALLOW ? LAT_ACTION_ALLOW : LAT_ACTION_DENY;
	v.reason = a->text[0] ? a->text : NULL;
	v.where = q->rule && q->rule <= run->policy->spec.rule_count ? run->policy->spec.rules[q->rule - 1].where
								     : "on(\"connect\")";
	lat_run_judged(run, rf, &q->flow, &v);
	if (run->mode->answered)
		run->mode->answered(run, q->id, &v);
	else
		lat_flows_answer(run->flows, q->id, &v);
}

void lat_run_flow_hooks(struct lat_run *run, struct lat_flows_hooks *flows)
{
	*flows = (struct lat_flows_hooks){ .ctx = run, .judge = flow_judge, .dial_failed = flow_dial_failed,
		.closed = flow_closed, .want_sockets = flow_want_sockets };
}
