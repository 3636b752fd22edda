/* A record's JSON line says everything that the record says, to a strict parser; and its line for people is plain text. */
#include "core/audit.h"
#include "base/clock.h"
#include <errno.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static const struct lat_audit_context context = { .run_name = "agent", .run_id = "r1", .mode = "user",
	.policy = "coding-agent", .host = "node-1", .line = 7 };

static struct lat_record sample(uint8_t kind)
{
	struct lat_record r = { .kind = kind, .action = LAT_ACTION_DENY, .seq = 42, .time_ms = 1790000000123, .err = 111,
		.rule = 3, .generation = 2, .flow = { .proto = IPPROTO_TCP, .sport = 40000, .dport = 443 },
		.who = { .pid = 812, .uid = 1000, .exe = "/usr/bin/curl" }, .name = "api.example",
		.where = "agent.lua:14", .text = "no reason" };

	lat_addr_parse("192.0.0.2", &r.flow.local);
	lat_addr_parse("203.0.113.9", &r.flow.remote);
	return r;
}

static json_t *line_of(const struct lat_record *r)
{
	static char buf[16384];
	json_error_t error;
	json_t *root;
	int n = lat_record_ocsf(r, &context, buf, sizeof(buf));

	assert_true(n > 0);
	assert_int_equal(strlen(buf), n);
	assert_null(strchr(buf, '\n'));
	root = json_loadb(buf, (size_t)n, JSON_REJECT_DUPLICATES, &error);
	if (!root)
		fail_msg("%s at %d in %s", error.text, error.position, buf);
	return root;
}

/* "a.b.c" */
static json_t *at(json_t *root, const char *path)
{
	char copy[128], *save = NULL;

	snprintf(copy, sizeof(copy), "%s", path);
	for (char *key = strtok_r(copy, ".", &save); key; key = strtok_r(NULL, ".", &save))
		root = json_object_get(root, key);
	return root;
}

static void number_is(json_t *root, const char *path, json_int_t want)
{
	if (!json_is_integer(at(root, path)))
		fail_msg("%s is no number", path);
	assert_int_equal(json_integer_value(at(root, path)), want);
}

static void text_is(json_t *root, const char *path, const char *want)
{
	if (!json_is_string(at(root, path)))
		fail_msg("%s is no string", path);
	assert_string_equal(json_string_value(at(root, path)), want);
}

static void a_refused_flow_is_a_network_activity(void **state)
{
	struct lat_record r = sample(LAT_RECORD_VERDICT);
	json_t *j = line_of(&r);

	number_is(j, "class_uid", 4001);
	number_is(j, "category_uid", 4);
	number_is(j, "activity_id", 5);
	number_is(j, "type_uid", 400105);
	number_is(j, "severity_id", 2);
	number_is(j, "action_id", 2);
	number_is(j, "disposition_id", 25);
	number_is(j, "time", 1790000000123);
	text_is(j, "metadata.version", "1.6.0");
	text_is(j, "metadata.product.name", "Lattice");
	text_is(j, "metadata.uid", "r1-42");
	number_is(j, "metadata.sequence", 42);
	text_is(j, "src_endpoint.ip", "192.0.0.2");
	number_is(j, "src_endpoint.port", 40000);
	text_is(j, "dst_endpoint.ip", "203.0.113.9");
	number_is(j, "dst_endpoint.port", 443);
	text_is(j, "dst_endpoint.hostname", "api.example");
	number_is(j, "connection_info.direction_id", 2);
	number_is(j, "connection_info.protocol_num", 6);
	number_is(j, "actor.process.pid", 812);
	text_is(j, "actor.process.file.path", "/usr/bin/curl");
	text_is(j, "actor.process.name", "curl");
	text_is(j, "actor.process.user.uid", "1000");
	text_is(j, "policy.name", "coding-agent");
	text_is(j, "policy.version", "2");
	text_is(j, "firewall_rule.name", "rule 3");
	text_is(j, "firewall_rule.uid", "agent.lua:14");
	text_is(j, "device.hostname", "node-1");
	text_is(j, "unmapped.lattice.kind", "verdict");
	text_is(j, "unmapped.lattice.action", "deny");
	text_is(j, "unmapped.lattice.text", "no reason");
	text_is(j, "unmapped.lattice.where", "agent.lua:14");
	number_is(j, "unmapped.lattice.rule", 3);
	number_is(j, "unmapped.lattice.errno", 111);
	number_is(j, "unmapped.lattice.line", 7);
	json_decref(j);
}

static void actions_have_their_dispositions(void **state)
{
	static const struct {
		uint8_t action, audit_only;
		uint16_t err;
		json_int_t activity, action_id, disposition;
	} rows[] = {
		{ LAT_ACTION_ALLOW, 0, 0, 1, 1, 1 },
		{ LAT_ACTION_DENY, 0, 111, 5, 2, 25 },
		{ LAT_ACTION_DENY, 0, 0, 5, 2, 2 },
		{ LAT_ACTION_DROP, 0, 0, 5, 2, 6 },
		{ LAT_ACTION_AUDIT, 0, 0, 1, 1, 17 },
		{ LAT_ACTION_ALLOW, 1, 0, 1, 1, 17 },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct lat_record r = sample(LAT_RECORD_VERDICT);
		json_t *j;

		r.action = rows[i].action;
		r.audit_only = rows[i].audit_only;
		r.err = rows[i].err;
		j = line_of(&r);
		number_is(j, "activity_id", rows[i].activity);
		number_is(j, "action_id", rows[i].action_id);
		number_is(j, "disposition_id", rows[i].disposition);
		json_decref(j);
	}
}

static void every_kind_has_what_its_class_requires(void **state)
{
	static const json_int_t classes[] = { 4001, 4001, 4003, 4001, 1007, 1007, 5019, 0, 0, 0, 5019, 5019, 0 };

	for (uint8_t kind = 0; kind < LAT_RECORD_COUNT; kind++) {
		struct lat_record r = sample(kind);
		json_t *j;

		r.lost = 5;
		r.count = 6;
		r.bytes_in = 1ull << 40;
		r.duration_ns = 1500000000;
		r.status = -1;
		j = line_of(&r);
		number_is(j, "class_uid", classes[kind]);
		assert_int_equal(json_integer_value(at(j, "type_uid")),
			classes[kind] * 100 + json_integer_value(at(j, "activity_id")));
		assert_true(json_is_integer(at(j, "severity_id")));
		assert_true(json_is_string(at(j, "metadata.product.vendor_name")));
		if (classes[kind] == 4001 || classes[kind] == 4003)
			assert_true(json_is_integer(at(j, "connection_info.direction_id")));
		if (kind == LAT_RECORD_CLOSE) {
			number_is(j, "traffic.bytes_in", 1ll << 40);
			number_is(j, "duration", 1500);
		}
		if (kind == LAT_RECORD_EXIT)
			number_is(j, "exit_code", -1);
		if (kind == LAT_RECORD_LOSS)
			number_is(j, "unmapped.lattice.lost", 5);
		if (kind == LAT_RECORD_LIMIT)
			number_is(j, "unmapped.lattice.count", 6);
		json_decref(j);
	}
}

static void hostile_text_stays_inside_its_string(void **state)
{
	struct lat_record r = sample(LAT_RECORD_UNIX);
	json_t *j;

	snprintf(r.text, sizeof(r.text), "/tmp/\"},\n{\"x\":\"\x1b[2J\x7f\xff\xc3\xa9");
	j = line_of(&r);
	text_is(j, "unmapped.lattice.text", "/tmp/\"},\n{\"x\":\"\x1b[2J\x7f\xc3\xbf\xc3\xa9");
	text_is(j, "dst_endpoint.name", "/tmp/\"},\n{\"x\":\"\x1b[2J\x7f\xc3\xbf\xc3\xa9");
	assert_null(at(j, "x"));
	json_decref(j);
}

static void the_longest_record_fits(void **state)
{
	struct lat_record r = sample(LAT_RECORD_VERDICT);
	char small[64];

	memset(r.name, 1, sizeof(r.name) - 1);
	memset(r.where, 1, sizeof(r.where) - 1);
	memset(r.text, 1, sizeof(r.text) - 1);
	memset(r.who.exe, 1, sizeof(r.who.exe) - 1);
	json_decref(line_of(&r));
	assert_int_equal(lat_record_ocsf(&r, &context, small, sizeof(small)), -ENOSPC);
	r.kind = LAT_RECORD_COUNT;
	assert_int_equal(lat_record_ocsf(&r, &context, small, sizeof(small)), -EINVAL);
}

static void the_line_for_people_is_plain(void **state)
{
	struct lat_record r = sample(LAT_RECORD_VERDICT);
	char buf[4096];

	assert_true(lat_record_line(&r, buf, sizeof(buf)) > 0);
	assert_string_equal(buf, "DENY tcp 203.0.113.9:443 (api.example) curl[812] agent.lua:14: no reason");
	r.action = LAT_ACTION_ALLOW;
	r.text[0] = '\0';
	strcpy(r.name, "\x1b[2J\xff");
	lat_record_line(&r, buf, sizeof(buf));
	assert_string_equal(buf, "ALLOW tcp 203.0.113.9:443 (\\x1b[2J\\xff) curl[812] agent.lua:14");
	r = sample(LAT_RECORD_DNS);
	r.rcode = 5;
	r.qtype = 28;
	lat_record_line(&r, buf, sizeof(buf));
	assert_string_equal(buf, "DENY dns api.example AAAA REFUSED curl[812] agent.lua:14: no reason");
	r = (struct lat_record){ .kind = LAT_RECORD_LOSS, .lost = 9 };
	lat_record_line(&r, buf, sizeof(buf));
	assert_string_equal(buf, "LOSS 9 records could not be written");
	assert_int_equal(lat_record_line(&r, buf, 5), -ENOSPC);
	r = (struct lat_record){ .kind = LAT_RECORD_LIMIT, .count = 2, .name = "memory", .text = "2 were killed" };
	lat_record_line(&r, buf, sizeof(buf));
	assert_string_equal(buf, "LIMIT memory: 2 were killed");
	for (r.kind = 0; r.kind < LAT_RECORD_COUNT; r.kind++)
		assert_true(lat_record_line(&r, buf, sizeof(buf)) > 0);
}

/* The same event through jansson, for the comparison of costs. */
static char *by_jansson(const struct lat_record *r)
{
	json_t *j = json_pack("{s:I,s:i,s:i,s:i,s:i,s:i,s:{s:s,s:{s:s,s:s,s:s},s:[s,s],s:s,s:I,s:s},s:i,s:i,s:i,s:s,s:{s:s,s:i},"
			      "s:{s:s,s:i,s:s},s:{s:i,s:s,s:i,s:i},s:{s:{s:i,s:s,s:{s:s,s:s,s:i},s:{s:s}}},s:{s:s,s:s},s:{s:s,s:s},"
			      "s:{s:s,s:i},s:{s:{s:s,s:i,s:s,s:i,s:i,s:s,s:s,s:s,s:i,s:s,s:s}}}",
		"time", (json_int_t)r->time_ms, "category_uid", 4, "class_uid", 4001, "activity_id", 5, "type_uid", 400105,
		"severity_id", 2, "metadata", "version", "1.6.0", "product", "name", "Lattice", "vendor_name", "Lattice", "version",
		"0.1.0", "profiles", "security_control", "host", "uid", "r1-42", "sequence", (json_int_t)r->seq, "correlation_uid",
		"r1", "action_id", 2, "disposition_id", 25, "status_id", 2, "status_detail", r->text, "src_endpoint", "ip",
		"192.0.0.2", "port", 40000, "dst_endpoint", "ip", "203.0.113.9", "port", 443, "hostname", r->name, "connection_info",
		"direction_id", 2, "protocol_name", "tcp", "protocol_num", 6, "protocol_ver_id", 4, "actor", "process", "pid", 812,
		"name", "curl", "file", "name", "curl", "path", r->who.exe, "type_id", 1, "user", "uid", "1000", "policy", "name",
		"coding-agent", "version", "2", "firewall_rule", "name", "rule 3", "uid", r->where, "device", "hostname", "node-1",
		"type_id", 0, "unmapped", "lattice", "kind", "verdict", "line", 7, "action", "deny", "rule", 3, "generation", 2,
		"where", r->where, "text", r->text, "name", r->name, "errno", 111, "run", "agent", "mode", "user");
	char *text = json_dumps(j, JSON_COMPACT);

	json_decref(j);
	return text;
}

static void it_costs_less_than_a_library(void **state)
{
	struct lat_record r = sample(LAT_RECORD_VERDICT);
	char buf[16384];
	uint64_t t0 = lat_now_ns(), t1, t2;
	int n = 0;

	for (int i = 0; i < 20000; i++)
		n = lat_record_ocsf(&r, &context, buf, sizeof(buf));
	t1 = lat_now_ns();
	for (int i = 0; i < 20000; i++)
		free(by_jansson(&r));
	t2 = lat_now_ns();
	print_message("%d bytes: own writer %.2f us, jansson %.2f us\n", n, (double)(t1 - t0) / 2e7, (double)(t2 - t1) / 2e7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_refused_flow_is_a_network_activity),
		cmocka_unit_test(actions_have_their_dispositions),
		cmocka_unit_test(every_kind_has_what_its_class_requires),
		cmocka_unit_test(hostile_text_stays_inside_its_string),
		cmocka_unit_test(the_longest_record_fits),
		cmocka_unit_test(the_line_for_people_is_plain),
		cmocka_unit_test(it_costs_less_than_a_library),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
