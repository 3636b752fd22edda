/* A bounded hash of destinations, sorted only when printed; see summary.h. */
#include "core/summary.h"
#include "base/mem.h"
#include <jansson.h>
#include <string.h>

#define SHOWN 10

struct destination {
	uint64_t allowed, denied;
	struct lat_record sample; /* the last refusal, or the first passing record */
	bool used;
};

struct lat_summary {
	uint64_t allowed, denied, other; /* other: refused or passed beyond the table */
	struct limit { uint64_t count; char name[16], text[256]; } limits[4]; /* that were met */
	size_t max, count;
	struct destination at[];
};

int lat_summary_new(size_t max, struct lat_summary **out)
{
	struct lat_summary *s = calloc(1, sizeof(*s) + max * sizeof(s->at[0]));

	if (!s)
		return -ENOMEM;
	s->max = max;
	*out = s;
	return 0;
}

void lat_summary_free(struct lat_summary *s)
{
	free(s);
}

static bool same(const struct lat_record *a, const struct lat_record *b)
{
	if (a->kind != b->kind)
		return false;
	if (a->kind == LAT_RECORD_UNIX)
		return strcmp(a->text, b->text) == 0;
	if (strcmp(a->name, b->name) != 0 || a->flow.proto != b->flow.proto || a->flow.dport != b->flow.dport)
		return false;
	return a->name[0] || lat_addr_equal(&a->flow.remote, &b->flow.remote);
}

static size_t hash(const struct lat_record *r)
{
	const char *text = r->kind == LAT_RECORD_UNIX ? r->text : r->name;
	uint64_t h = 1469598103934665603ull;

	for (const char *p = text; *p; p++)
		h = (h ^ (uint8_t)*p) * 1099511628211ull;
	if (!text[0])
		for (size_t i = 0; i < sizeof(r->flow.remote.b); i++)
			h = (h ^ r->flow.remote.b[i]) * 1099511628211ull;
	return (size_t)((h ^ r->flow.dport ^ ((uint64_t)r->flow.proto << 17)) * 1099511628211ull >> 16);
}

bool lat_summary_add(struct lat_summary *s, const struct lat_record *r)
{
	bool passes = r->audit_only || r->action == LAT_ACTION_ALLOW || r->action == LAT_ACTION_AUDIT;
	size_t at = hash(r);

	if (passes)
		s->allowed++;
	else
		s->denied++;
	for (size_t i = 0; i < 16 && i < s->max; i++) {
		struct destination *d = &s->at[(at + i) % s->max];
		bool first;

		if (d->used && !same(&d->sample, r))
			continue;
		first = !passes && d->denied == 0;
		if (!d->used) {
			d->used = true;
			s->count++;
			d->sample = *r;
		} else if (!passes) {
			d->sample = *r;
		}
		if (passes)
			d->allowed++;
		else
			d->denied++;
		return first;
	}
	s->other++;
	return false;
}

void lat_summary_limit(struct lat_summary *s, const struct lat_record *r)
{
	for (size_t i = 0; i < LAT_ARRAY_SIZE(s->limits); i++) {
		struct limit *l = &s->limits[i];

		if (l->name[0] && strcmp(l->name, r->name) != 0)
			continue;
		snprintf(l->name, sizeof(l->name), "%.15s", r->name);
		snprintf(l->text, sizeof(l->text), "%s", r->text);
		l->count = r->count;
		return;
	}
}

void lat_summary_suggest(const struct lat_record *r, char *buf, size_t size)
{
	char host[LAT_NAME_MAX], proto[4];
	const char *p = lat_proto_name(r->flow.proto, proto);
	bool in = r->flow.dir == LAT_DIR_IN;

	if (r->kind == LAT_RECORD_UNIX) {
		snprintf(buf, size, "unix \"%s\"", r->text);
		return;
	}
	if (r->kind == LAT_RECORD_DNS) {
		snprintf(buf, size, "allow \"tcp to %s port 443\"", r->name);
		return;
	}
	if (r->name[0])
		snprintf(host, sizeof(host), "%s", r->name);
	else if (lat_addr_is_loopback(&r->flow.remote))
		snprintf(host, sizeof(host), "host");
	else if (lat_addr_is_any(&r->flow.remote)) /* of a bind: nobody has come yet */
		snprintf(host, sizeof(host), "any");
	else
		lat_addr_format(&r->flow.remote, host, sizeof(host));
	if (r->flow.proto == IPPROTO_TCP || r->flow.proto == IPPROTO_UDP)
		snprintf(buf, size, "allow \"%s%s %s %s port %u\"", in ? "in " : "", p, in ? "from" : "to", host, r->flow.dport);
	else
		snprintf(buf, size, "allow \"%s%s %s %s\"", in ? "in " : "", p, in ? "from" : "to", host);
}

void lat_summary_describe(const struct lat_record *r, char *buf, size_t size)
{
	bool ports = r->flow.proto == IPPROTO_TCP || r->flow.proto == IPPROTO_UDP;
	char end[LAT_ENDPOINT_TEXT], proto[4];
	const char *p = lat_proto_name(r->flow.proto, proto);

	if (r->kind == LAT_RECORD_UNIX)
		snprintf(buf, size, "unix %s", r->text);
	else if (r->kind == LAT_RECORD_DNS)
		snprintf(buf, size, "dns %s", r->name);
	else if (ports)
		snprintf(buf, size, "%s %s%s%s%s", p, lat_endpoint_format(&r->flow.remote, r->flow.dport, end, sizeof(end)),
			r->name[0] ? " (" : "", r->name, r->name[0] ? ")" : "");
	else
		snprintf(buf, size, "%s %s%s%s%s", p, lat_addr_format(&r->flow.remote, end, sizeof(end)),
			r->name[0] ? " (" : "", r->name, r->name[0] ? ")" : "");
}

static int by_denied(const void *a, const void *b)
{
	const struct destination *const *x = a, *const *y = b;

	return (*x)->denied < (*y)->denied ? 1 : (*x)->denied > (*y)->denied ? -1 : 0;
}

static int by_allowed(const void *a, const void *b)
{
	const struct destination *const *x = a, *const *y = b;

	return (*x)->allowed < (*y)->allowed ? 1 : (*x)->allowed > (*y)->allowed ? -1 : 0;
}

/* Destinations with a count, most first; returns how many. list has room for max. */
static size_t sorted(const struct lat_summary *s, bool denied, const struct destination **list)
{
	size_t n = 0;

	for (size_t i = 0; i < s->max; i++)
		if (s->at[i].used && (denied ? s->at[i].denied : s->at[i].allowed))
			list[n++] = &s->at[i];
	qsort(list, n, sizeof(*list), denied ? by_denied : by_allowed);
	return n;
}

void lat_summary_print(const struct lat_summary *s, FILE *out, uint64_t lost)
{
	lat_autofree const struct destination **list = calloc(s->max, sizeof(*list));
	char what[400], rule[400];
	size_t n;

	if (!list)
		return;
	fprintf(out, "lattice: %llu allowed, %llu denied", (unsigned long long)s->allowed, (unsigned long long)s->denied);
	if (lost)
		fprintf(out, ", %llu audit records lost", (unsigned long long)lost);
	fputc('\n', out);
	n = sorted(s, false, list);
	for (size_t i = 0; i < n && i < SHOWN; i++) {
		lat_summary_describe(&list[i]->sample, what, sizeof(what));
		fprintf(out, "  allowed %6llu  %s\n", (unsigned long long)list[i]->allowed, what);
	}
	if (n > SHOWN)
		fprintf(out, "  ... and %zu more allowed destinations\n", n - SHOWN);
	n = sorted(s, true, list);
	for (size_t i = 0; i < n && i < SHOWN; i++) {
		lat_summary_describe(&list[i]->sample, what, sizeof(what));
		lat_summary_suggest(&list[i]->sample, rule, sizeof(rule));
		fprintf(out, "  denied  %6llu  %s  (%s)  to allow: %s\n", (unsigned long long)list[i]->denied, what,
			list[i]->sample.where[0] ? list[i]->sample.where : "default", rule);
	}
	if (n > SHOWN)
		fprintf(out, "  ... and %zu more denied destinations: see the audit log\n", n - SHOWN);
	for (size_t i = 0; i < LAT_ARRAY_SIZE(s->limits) && s->limits[i].name[0]; i++)
		fprintf(out, "  limit   %s: %s\n", s->limits[i].name, s->limits[i].text);
}

static json_t *destinations(const struct lat_summary *s, bool denied)
{
	lat_autofree const struct destination **list = calloc(s->max, sizeof(*list));
	json_t *array = json_array();
	char what[400], rule[400];
	size_t n = list ? sorted(s, denied, list) : 0;

	for (size_t i = 0; i < n; i++) {
		json_t *row;

		lat_summary_describe(&list[i]->sample, what, sizeof(what));
		lat_summary_suggest(&list[i]->sample, rule, sizeof(rule));
		row = json_pack("{s:s, s:I, s:s}", "destination", what, "count",
			(json_int_t)(denied ? list[i]->denied : list[i]->allowed), "where",
			list[i]->sample.where[0] ? list[i]->sample.where : "default");
		if (denied && row)
			json_object_set_new(row, "to_allow", json_string(rule));
		json_array_append_new(array, row);
	}
	return array;
}

static json_t *limits_met(const struct lat_summary *s)
{
	json_t *o = json_object();

	for (size_t i = 0; i < LAT_ARRAY_SIZE(s->limits) && s->limits[i].name[0]; i++)
		json_object_set_new(o, s->limits[i].name, json_integer((json_int_t)s->limits[i].count));
	return o;
}

void lat_summary_json(const struct lat_summary *s, FILE *out, int status, uint64_t lost)
{
	json_t *o = json_pack("{s:s, s:i, s:I, s:I, s:I, s:o, s:o, s:o}", "schema", "lattice/run/v1", "status", status,
		"allowed", (json_int_t)s->allowed, "denied", (json_int_t)s->denied, "audit_lost", (json_int_t)lost,
		"allowed_destinations", destinations(s, false), "denied_destinations", destinations(s, true),
		"limits_met", limits_met(s));

	if (!o)
		return;
	json_dumpf(o, out, JSON_COMPACT);
	fputc('\n', out);
	json_decref(o);
}
