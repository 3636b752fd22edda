/* See pump.h. Runs on the loop thread. */
#include "core/pump.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/text.h"
#include <stdio.h>
#include <string.h>

#define MEMORY_DEFAULT 4096
/* Events of a generation may come after the flip to the next one; with three, two quick reloads are named rightly. */
#define GENERATIONS 3
#define LOST_IN_KERNEL "the kernel's event buffer was full, or a rule made too many"
#define LOSS_NS (20 * LAT_NS_PER_MS) /* between two records of losses, so that a flood makes few */

struct lat_pump {
	struct lat_audit *audit;
	void (*emit)(void *ctx, struct lat_record *record, const struct lat_event *event);
	void *emit_ctx;
	struct lat_policy *policies[GENERATIONS]; /* newest first; NULL: none */
	struct lat_pump_name *names; /* sorted by address */
	size_t name_count;
	struct lat_pump_counters counters;
	uint64_t by_events, ahead; /* lost by LOSS events; of lat_pump_account, and not by events yet */
	struct lat_event loss; /* packets: not told yet, in one record */
	const char *loss_why;
	uint64_t loss_told_ns;
	uint64_t next;
	size_t size;
	struct lat_event *kept;
};

int lat_pump_new(const struct lat_pump_options *options, struct lat_pump **out, const char **failed_target)
{
	struct lat_pump *p = calloc(1, sizeof(*p));
	int r = 0;

	*failed_target = NULL;
	if (!p)
		return -ENOMEM;
	p->emit = options->emit;
	p->emit_ctx = options->emit_ctx;
	p->size = options->memory ? options->memory : MEMORY_DEFAULT;
	p->kept = calloc(p->size, sizeof(*p->kept));
	if (!p->kept)
		r = -ENOMEM;
	if (r == 0 && options->audit)
		r = lat_audit_start(options->audit, &p->audit, failed_target);
	if (r < 0) {
		free(p->kept);
		free(p);
		return r;
	}
	*out = p;
	return 0;
}

void lat_pump_generation(struct lat_pump *p, struct lat_policy *policy)
{
	if (p->policies[0] == policy)
		return;
	lat_policy_unref(p->policies[GENERATIONS - 1]);
	memmove(p->policies + 1, p->policies, (GENERATIONS - 1) * sizeof(p->policies[0]));
	p->policies[0] = lat_policy_ref(policy);
}

void lat_pump_rule(const struct lat_pump *p, const struct lat_event *e, struct lat_event_rule *out)
{
	const struct lat_policy *policy = NULL;

	*out = (struct lat_event_rule){ .where = "default", .log = true };
	if (e->rule & LAT_RULE_TEMPORARY) {
		snprintf(out->buf, sizeof(out->buf), "temporary:%u", e->rule & ~LAT_RULE_TEMPORARY);
		out->where = out->buf;
		return;
	}
	if (e->rule == 0)
		return;
	for (size_t i = 0; i < GENERATIONS && !policy; i++)
		if (p->policies[i] && p->policies[i]->generation == e->generation)
			policy = p->policies[i];
	if (policy && e->rule <= policy->spec.rule_count) {
		const struct lat_rule *rule = &policy->spec.rules[e->rule - 1];

		out->where = rule->where;
		out->reason = rule->reason;
		out->log = rule->log;
		return;
	}
	snprintf(out->buf, sizeof(out->buf), "rule %u", e->rule);
	out->where = out->buf;
}

static int by_address(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct lat_addr));
}

int lat_pump_names(struct lat_pump *p, const struct lat_pump_name *names, size_t count)
{
	struct lat_pump_name *copy = NULL;

	if (count) {
		copy = malloc(count * sizeof(*copy));
		if (!copy)
			return -ENOMEM;
		memcpy(copy, names, count * sizeof(*copy));
		qsort(copy, count, sizeof(*copy), by_address);
	}
	free(p->names);
	p->names = copy;
	p->name_count = count;
	return 0;
}

const char *lat_pump_name(const struct lat_pump *p, const struct lat_event *e)
{
	const struct lat_pump_name *found =
		p->name_count ? bsearch(e->remote, p->names, p->name_count, sizeof(*found), by_address) : NULL;

	return found ? found->name : NULL;
}

void lat_event_flow(const struct lat_event *e, struct lat_flow *f)
{
	memcpy(f->local.b, e->local, sizeof(f->local.b));
	memcpy(f->remote.b, e->remote, sizeof(f->remote.b));
	f->sport = e->sport;
	f->dport = e->dport;
	f->proto = e->proto;
	f->dir = e->dir;
}

uint64_t lat_event_time_ms(const struct lat_event *e)
{
	uint64_t now = lat_now_ns();

	return lat_wall_ms() - (e->time_ns < now ? (now - e->time_ns) / LAT_NS_PER_MS : 0);
}

/* The record as far as it is not text: that part is set where it is needed, which saves clearing a kilobyte an event. */
static void begin_record(struct lat_record *r, uint8_t kind)
{
	memset(r, 0, offsetof(struct lat_record, name));
	r->kind = kind;
	r->name[0] = r->where[0] = r->text[0] = '\0';
}

static void put(struct lat_pump *p, struct lat_record *r, const struct lat_event *e)
{
	if (p->emit)
		p->emit(p->emit_ctx, r, e);
	else
		lat_audit_emit(p->audit, r);
}

static void put_loss(struct lat_pump *p)
{
	struct lat_event_rule rule;
	struct lat_record r;

	begin_record(&r, LAT_RECORD_LOSS);
	r.lost = p->loss.packets;
	r.rule = p->loss.rule;
	r.generation = p->loss.generation;
	if (r.rule) {
		lat_pump_rule(p, &p->loss, &rule);
		lat_set_text(r.where, rule.where);
	}
	lat_set_text(r.text, p->loss_why);
	put(p, &r, NULL);
	p->loss.packets = 0;
	p->loss_told_ns = lat_now_ns();
}

bool lat_pump_flush(struct lat_pump *p)
{
	if (p->loss.packets && lat_now_ns() - p->loss_told_ns >= LOSS_NS)
		put_loss(p);
	return p->loss.packets != 0;
}

/* e: a LOSS event, or NULL. Losses of one kind add up until they are told. */
static void write_loss(struct lat_pump *p, uint64_t count, const struct lat_event *e, const char *why)
{
	uint32_t rule = e ? e->rule : 0, generation = e ? e->generation : 0;

	if ((!p->audit && !p->emit) || !count)
		return;
	if (p->loss.packets && (p->loss.rule != rule || p->loss.generation != generation || p->loss_why != why))
		put_loss(p);
	p->loss.rule = rule;
	p->loss.generation = generation;
	p->loss_why = why;
	p->loss.packets += count;
}

static void write_event(struct lat_pump *p, const struct lat_event *e)
{
	uint8_t kind = e->kind == LAT_EVENT_CLOSE ? LAT_RECORD_CLOSE : LAT_RECORD_VERDICT;
	const char *name = lat_pump_name(p, e);
	struct lat_event_rule rule;
	struct lat_record r;

	if (!p->emit && !lat_audit_wants(p->audit, kind, e->action))
		return;
	lat_pump_flush(p);
	lat_pump_rule(p, e, &rule);
	if (!rule.log && e->action == LAT_ACTION_ALLOW)
		return;
	begin_record(&r, kind);
	r.action = e->action;
	r.rule = e->rule;
	r.generation = e->generation;
	lat_event_flow(e, &r.flow);
	if (e->pid) { /* its program may have ended since: by the name of its thread */
		r.who.pid = (pid_t)e->pid;
		r.who.uid = e->uid;
		lat_copy_text(r.who.exe, sizeof(r.who.exe), e->comm, sizeof(e->comm));
	}
	if (e->kind == LAT_EVENT_CLOSE) {
		r.bytes_out = e->bytes_out;
		r.bytes_in = e->bytes_in;
		r.duration_ns = e->duration_ns;
	}
	if (name)
		lat_set_text(r.name, name);
	lat_set_text(r.where, rule.where);
	if (rule.reason)
		lat_set_text(r.text, rule.reason);
	put(p, &r, e);
}

uint64_t lat_pump_free(struct lat_pump *p, int timeout_ms)
{
	uint64_t lost = 0;

	if (!p)
		return 0;
	if (p->loss.packets)
		put_loss(p);
	if (p->audit)
		lost = lat_audit_stop(p->audit, timeout_ms);
	for (size_t i = 0; i < GENERATIONS; i++)
		lat_policy_unref(p->policies[i]);
	free(p->names);
	free(p->kept);
	free(p);
	return lost;
}

/* Everything that something further on uses as an index or takes for granted. */
static bool is_event(const struct lat_event *e)
{
	return e->kind >= LAT_EVENT_VERDICT && e->kind <= LAT_EVENT_LOSS && e->action < LAT_ACTION_COUNT &&
		e->dir < LAT_DIR_COUNT;
}

int lat_pump_take(struct lat_pump *p, const void *data, size_t size, struct lat_event *copy)
{
	struct lat_event *e = &p->kept[p->next % p->size], loss;

	if (size < sizeof(*e)) {
		p->counters.lost++;
		write_loss(p, 1, NULL, "a record of the kernel was too short for an event");
		return -EINVAL;
	}
	memcpy(&loss, data, sizeof(loss));
	if (!is_event(&loss)) {
		p->counters.lost++;
		write_loss(p, 1, NULL, "a record of the kernel was no event");
		return -EINVAL;
	}
	if (copy)
		*copy = loss;
	if (loss.kind == LAT_EVENT_LOSS) {
		uint64_t known = loss.packets < p->ahead ? loss.packets : p->ahead;

		p->by_events += loss.packets;
		p->ahead -= known;
		loss.packets -= known;
		p->counters.lost_in_kernel += loss.packets;
		write_loss(p, loss.packets, &loss,
			loss.rule ? "not told one by one: the rate of the rule" : LOST_IN_KERNEL);
		return 0;
	}
	*e = loss;
	p->next++;
	p->counters.seen++;
	if (p->audit || p->emit)
		write_event(p, e);
	return 0;
}

void lat_pump_account(struct lat_pump *p, uint64_t total)
{
	uint64_t told = p->by_events + p->ahead;

	if (total <= told)
		return;
	p->ahead += total - told;
	p->counters.lost_in_kernel += total - told;
	write_loss(p, total - told, NULL, LOST_IN_KERNEL);
}

void lat_pump_lost(struct lat_pump *p, uint64_t count, bool in_kernel, const char *why)
{
	*(in_kernel ? &p->counters.lost_in_kernel : &p->counters.lost) += count;
	write_loss(p, count, NULL, why);
}

uint64_t lat_pump_next(const struct lat_pump *p)
{
	return p->next;
}

uint64_t lat_pump_first(const struct lat_pump *p)
{
	return p->next > p->size ? p->next - p->size : 0;
}

const struct lat_event *lat_pump_at(const struct lat_pump *p, uint64_t number)
{
	return &p->kept[number % p->size];
}

void lat_pump_count(const struct lat_pump *p, struct lat_pump_counters *out)
{
	*out = p->counters;
	out->audit_lost = p->audit ? lat_audit_lost(p->audit) : 0;
}

struct lat_audit *lat_pump_audit(struct lat_pump *p)
{
	return p->audit;
}
