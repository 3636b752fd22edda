/* A record as an OCSF 1.6 event; see audit.h for what goes where. */
#include "core/audit.h"
#include "base/json.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define OCSF_VERSION "1.6.0"

static const char *const kind_names[] = { "verdict", "close", "dns", "unix", "start", "exit", "reload", "loss", "selfcheck",
	"handler", "agent", "operator", "limit" };
_Static_assert(sizeof(kind_names) / sizeof(kind_names[0]) == LAT_RECORD_COUNT, "a name for each kind");

static const struct shape {
	uint16_t category, class;
} shapes[] = { { 4, 4001 }, { 4, 4001 }, { 4, 4003 }, { 4, 4001 }, { 1, 1007 }, { 1, 1007 }, { 5, 5019 }, { 0, 0 }, { 0, 0 },
	{ 0, 0 }, { 5, 5019 }, { 5, 5019 }, { 0, 0 } };
_Static_assert(sizeof(shapes) / sizeof(shapes[0]) == LAT_RECORD_COUNT, "a class for each kind");

static bool is_judgement(const struct lat_record *r)
{
	return r->kind == LAT_RECORD_VERDICT || r->kind == LAT_RECORD_UNIX || r->kind == LAT_RECORD_DNS;
}

static bool passed(const struct lat_record *r)
{
	return r->action == LAT_ACTION_ALLOW || r->action == LAT_ACTION_AUDIT;
}

static unsigned activity(const struct lat_record *r)
{
	switch (r->kind) {
	case LAT_RECORD_VERDICT:
	case LAT_RECORD_UNIX:
		return passed(r) ? 1 : 5; /* open, refuse */
	case LAT_RECORD_CLOSE:
	case LAT_RECORD_DNS: /* response */
	case LAT_RECORD_EXIT: /* terminate */
		return 2;
	case LAT_RECORD_START: /* launch */
	case LAT_RECORD_RELOAD: /* log */
	case LAT_RECORD_AGENT:
	case LAT_RECORD_OPERATOR:
		return 1;
	default:
		return 99; /* other */
	}
}

static unsigned severity(const struct lat_record *r)
{
	switch (r->kind) {
	case LAT_RECORD_LOSS:
		return 4;
	case LAT_RECORD_LIMIT:
		return 3;
	case LAT_RECORD_RELOAD:
	case LAT_RECORD_SELFCHECK:
	case LAT_RECORD_HANDLER:
	case LAT_RECORD_AGENT:
		return r->err ? 3 : 1;
	default:
		return is_judgement(r) && !passed(r) ? 2 : 1;
	}
}

/* Allowed, Blocked, Dropped, Logged, Rejected. */
static unsigned disposition(const struct lat_record *r)
{
	if (r->audit_only || r->action == LAT_ACTION_AUDIT)
		return 17;
	if (passed(r))
		return 1;
	if (r->action == LAT_ACTION_DROP)
		return 6;
	return r->err ? 25 : 2;
}

static void put_metadata(struct lat_json *j, const struct lat_record *r, const struct lat_audit_context *c)
{
	lat_json_literal(j,
		",\"metadata\":{\"version\":\"" OCSF_VERSION "\",\"product\":{\"name\":\"Lattice\",\"vendor_name\":\"Lattice\","
		"\"version\":\"" LATTICE_VERSION "\"},\"profiles\":[\"security_control\",\"host\"]", true);
	lat_json_numbered(j, "uid", c->run_id ? c->run_id : "", "-", r->seq);
	lat_json_uint(j, "sequence", r->seq);
	if (c->run_id)
		lat_json_string(j, "correlation_uid", c->run_id);
	lat_json_close(j, '}');
}

static void put_endpoint(struct lat_json *j, const char *key, const struct lat_addr *a, uint16_t port, const char *name)
{
	char text[LAT_ADDR_TEXT];

	lat_json_open(j, key, '{');
	lat_json_string(j, "ip", lat_addr_format(a, text, sizeof(text)));
	if (port)
		lat_json_uint(j, "port", port);
	if (name && *name)
		lat_json_string(j, "hostname", name);
	lat_json_close(j, '}');
}

static void put_network(struct lat_json *j, const struct lat_record *r)
{
	const struct lat_flow *f = &r->flow;
	bool out = f->dir == LAT_DIR_OUT;
	char number[4];

	if (r->kind == LAT_RECORD_UNIX) {
		lat_json_open(j, "dst_endpoint", '{');
		lat_json_string(j, "name", r->text);
		lat_json_close(j, '}');
		lat_json_open(j, "connection_info", '{');
		lat_json_uint(j, "direction_id", 4); /* local */
		lat_json_string(j, "protocol_name", "unix");
		lat_json_close(j, '}');
		return;
	}
	put_endpoint(j, "src_endpoint", out ? &f->local : &f->remote, f->sport, out ? NULL : r->name);
	put_endpoint(j, "dst_endpoint", out ? &f->remote : &f->local, f->dport, out ? r->name : NULL);
	lat_json_open(j, "connection_info", '{');
	lat_json_uint(j, "direction_id", out ? 2 : 1);
	lat_json_string(j, "protocol_name", lat_proto_name(f->proto, number));
	lat_json_uint(j, "protocol_num", f->proto);
	lat_json_uint(j, "protocol_ver_id", lat_addr_is4(&f->remote) ? 4 : 6);
	lat_json_close(j, '}');
	if (r->kind == LAT_RECORD_CLOSE) {
		lat_json_open(j, "traffic", '{');
		lat_json_uint(j, "bytes_in", r->bytes_in);
		lat_json_uint(j, "bytes_out", r->bytes_out);
		lat_json_uint(j, "bytes", r->bytes_in + r->bytes_out);
		lat_json_close(j, '}');
		lat_json_uint(j, "duration", r->duration_ns / 1000000);
	}
}

static void put_dns(struct lat_json *j, const struct lat_record *r)
{
	char type[12];

	snprintf(type, sizeof(type), "%s", r->qtype == 1 ? "A" : r->qtype == 28 ? "AAAA" : "");
	if (!*type)
		snprintf(type, sizeof(type), "TYPE%u", r->qtype);
	lat_json_open(j, "query", '{');
	lat_json_string(j, "hostname", r->name);
	lat_json_string(j, "type", type);
	lat_json_string(j, "class", "IN");
	lat_json_close(j, '}');
	lat_json_uint(j, "rcode_id", r->rcode);
	lat_json_open(j, "connection_info", '{');
	lat_json_uint(j, "direction_id", 2);
	lat_json_close(j, '}');
}

static void put_user(struct lat_json *j, const struct lat_identity *who)
{
	lat_json_open(j, "user", '{');
	lat_json_numbered(j, "uid", "", "", who->uid);
	lat_json_close(j, '}');
}

static void put_process(struct lat_json *j, const struct lat_identity *who)
{
	const char *slash = strrchr(who->exe, '/');
	const char *name = slash ? slash + 1 : who->exe;

	lat_json_open(j, "process", '{');
	lat_json_int(j, "pid", who->pid);
	if (who->exe[0]) {
		lat_json_string(j, "name", name);
		lat_json_open(j, "file", '{');
		lat_json_string(j, "name", name);
		lat_json_string(j, "path", who->exe);
		lat_json_uint(j, "type_id", 1);
		lat_json_close(j, '}');
	}
	put_user(j, who);
	lat_json_close(j, '}');
}

/* Somebody whose program is not known. */
static void put_operator(struct lat_json *j, const struct lat_identity *who)
{
	lat_json_open(j, "actor", '{');
	put_user(j, who);
	lat_json_close(j, '}');
}

static void put_policy(struct lat_json *j, const struct lat_record *r, const struct lat_audit_context *c)
{
	if (r->generation == 0)
		return;
	lat_json_open(j, "policy", '{');
	if (c->policy)
		lat_json_string(j, "name", c->policy);
	lat_json_numbered(j, "version", "", "", r->generation);
	lat_json_close(j, '}');
	if (r->where[0]) {
		lat_json_open(j, "firewall_rule", '{');
		if (r->rule)
			lat_json_numbered(j, "name", "rule", " ", r->rule);
		else
			lat_json_string(j, "name", "default");
		lat_json_string(j, "uid", r->where);
		lat_json_close(j, '}');
	}
}

static void put_count(struct lat_json *j, const char *key, uint64_t value)
{
	if (value)
		lat_json_uint(j, key, value);
}

static void put_text(struct lat_json *j, const char *key, const char *text)
{
	if (text && *text)
		lat_json_string(j, key, text);
}

static void put_own(struct lat_json *j, const struct lat_record *r, const struct lat_audit_context *c)
{
	lat_json_open(j, "unmapped", '{');
	lat_json_open(j, "lattice", '{');
	lat_json_string(j, "kind", kind_names[r->kind]);
	put_count(j, "line", c->line);
	lat_json_string(j, "action", lat_action_name(r->action));
	lat_json_uint(j, "rule", r->rule);
	lat_json_uint(j, "generation", r->generation);
	put_text(j, "where", r->where);
	put_text(j, "text", r->text);
	put_text(j, "name", r->name);
	put_count(j, "errno", r->err);
	if (r->by_handler)
		lat_json_bool(j, "by_handler", true);
	if (r->audit_only)
		lat_json_bool(j, "audit_only", true);
	if (r->kind == LAT_RECORD_DNS) {
		lat_json_uint(j, "qtype", r->qtype);
		lat_json_uint(j, "rcode", r->rcode);
	}
	put_count(j, "duration_ns", r->duration_ns);
	put_count(j, "lost", r->lost);
	put_count(j, "count", r->count);
	if (r->kind == LAT_RECORD_EXIT)
		lat_json_int(j, "status", r->status);
	put_text(j, "run", c->run_name);
	put_text(j, "mode", c->mode);
	if (r->kind == LAT_RECORD_START)
		put_text(j, "passed_over", c->passed_over);
	lat_json_close(j, '}');
	lat_json_close(j, '}');
}

int lat_record_ocsf(const struct lat_record *r, const struct lat_audit_context *c, char *buf, size_t size)
{
	const struct shape *shape;
	struct lat_json j;

	if (r->kind >= LAT_RECORD_COUNT)
		return -EINVAL;
	shape = &shapes[r->kind];
	lat_json_init(&j, buf, size);
	lat_json_open(&j, NULL, '{');
	lat_json_uint(&j, "time", r->time_ms);
	lat_json_uint(&j, "category_uid", shape->category);
	lat_json_uint(&j, "class_uid", shape->class);
	lat_json_uint(&j, "activity_id", activity(r));
	lat_json_uint(&j, "type_uid", shape->class * 100u + activity(r));
	lat_json_uint(&j, "severity_id", severity(r));
	put_metadata(&j, r, c);
	if (is_judgement(r)) {
		lat_json_uint(&j, "action_id", passed(r) || r->audit_only ? 1 : 2);
		lat_json_uint(&j, "disposition_id", disposition(r));
	}
	if (is_judgement(r) || shape->class == 5019 || r->kind == LAT_RECORD_EXIT)
		lat_json_uint(&j, "status_id", r->err || r->rcode || r->status ? 2 : 1);
	if (r->kind != LAT_RECORD_UNIX)
		put_text(&j, "status_detail", r->text);
	if (shape->class == 4001)
		put_network(&j, r);
	else if (shape->class == 4003)
		put_dns(&j, r);
	else if (shape->class == 1007 && r->kind == LAT_RECORD_EXIT)
		lat_json_int(&j, "exit_code", r->status);
	if (shape->class == 1007)
		put_process(&j, &r->who);
	if (r->who.pid || shape->class == 1007) {
		lat_json_open(&j, "actor", '{');
		put_process(&j, &r->who);
		lat_json_close(&j, '}');
	} else if (r->kind == LAT_RECORD_OPERATOR) {
		put_operator(&j, &r->who);
	}
	put_policy(&j, r, c);
	lat_json_open(&j, "device", '{');
	put_text(&j, "hostname", c->host);
	lat_json_uint(&j, "type_id", 0);
	lat_json_close(&j, '}');
	put_own(&j, r, c);
	lat_json_close(&j, '}');
	return lat_json_end(&j);
}
