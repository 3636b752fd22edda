/* A fixed open-addressing table; see answers.h. */
#include "core/answers.h"
#include "base/clock.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

#define PROBES 8

struct entry {
	uint64_t until_ns; /* 0: free; UINT64_MAX: rest of the run */
	struct lat_addr addr;
	uint32_t rule;
	pid_t pid; /* 0: of every process */
	uint16_t port;
	uint8_t kind, proto, dir, action;
	char name[LAT_NAME_MAX];
	char text[256];
};

struct lat_answers {
	size_t max;
	struct entry entries[];
};

int lat_answers_new(size_t max, struct lat_answers **out)
{
	struct lat_answers *a = calloc(1, sizeof(*a) + max * sizeof(a->entries[0]));

	if (!a)
		return -ENOMEM;
	a->max = max;
	*out = a;
	return 0;
}

void lat_answers_free(struct lat_answers *a)
{
	free(a);
}

static size_t hash(const struct lat_question *q)
{
	uint64_t h = 1469598103934665603ull;

	for (size_t i = 0; i < sizeof(q->flow.remote.b); i++)
		h = (h ^ q->flow.remote.b[i]) * 1099511628211ull;
	for (const char *p = q->name; *p; p++)
		h = (h ^ (uint8_t)*p) * 1099511628211ull;
	h = (h ^ q->flow.dport ^ ((uint64_t)q->kind << 20) ^ ((uint64_t)q->flow.proto << 24)) * 1099511628211ull;
	return (size_t)(h >> 16);
}

static bool same(const struct entry *e, const struct lat_question *q)
{
	return (!e->pid || e->pid == q->who.pid) && e->kind == q->kind && e->rule == q->rule && e->proto == q->flow.proto && e->dir == q->flow.dir &&
	       e->port == q->flow.dport && lat_addr_equal(&e->addr, &q->flow.remote) &&
	       strcmp(e->name, q->name) == 0;
}

void lat_answers_put(struct lat_answers *a, const struct lat_question *q, const struct lat_answer *answer, uint64_t now_ns)
{
	size_t at = hash(q);
	struct entry *e = &a->entries[at % a->max];

	for (size_t i = 0; i < PROBES; i++) {
		struct entry *c = &a->entries[(at + i) % a->max];

		if (c->until_ns <= now_ns || same(c, q)) {
			e = c;
			break;
		}
	}
	memset(e, 0, sizeof(*e));
	e->until_ns = answer->ttl_s ? now_ns + answer->ttl_s * LAT_NS_PER_SEC : UINT64_MAX;
	e->addr = q->flow.remote;
	e->rule = q->rule;
	e->pid = answer->scope == LAT_SCOPE_PROCESS ? q->who.pid : 0;
	e->port = q->flow.dport;
	e->kind = q->kind;
	e->proto = q->flow.proto;
	e->dir = q->flow.dir;
	e->action = answer->action;
	snprintf(e->name, sizeof(e->name), "%s", q->name);
	snprintf(e->text, sizeof(e->text), "%.255s", answer->text);
}

bool lat_answers_get(struct lat_answers *a, const struct lat_question *q, uint64_t now_ns, uint8_t *action, char *text)
{
	size_t at = hash(q);

	for (size_t i = 0; i < PROBES; i++) {
		struct entry *e = &a->entries[(at + i) % a->max];

		if (e->until_ns > now_ns && same(e, q)) {
			*action = e->action;
			snprintf(text, 256, "%s", e->text);
			return true;
		}
	}
	return false;
}

void lat_answers_clear(struct lat_answers *a)
{
	memset(a->entries, 0, a->max * sizeof(a->entries[0]));
}
