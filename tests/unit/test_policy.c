/* A generation judges by the lowest rule of tables and names, keeps its own copies, and refuses odd specs. */
#include "core/policy.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define RULES 3

struct material {
	char where[3][16], reason[16];
	struct lat_rule rules[RULES];
	struct lat_entry entries[2];
	struct lat_name_entry names[1];
	struct lat_host_port ports[1];
	const char *paths[1];
	struct lat_policy_spec spec;
};

static void fill(struct material *m)
{
	memset(m, 0, sizeof(*m));
	for (unsigned i = 0; i < RULES; i++) {
		strcpy(m->where[i], "p.lua:1");
		m->where[i][6] = (char)('1' + i);
		m->rules[i].where = m->where[i];
	}
	strcpy(m->reason, "staging");
	m->rules[0].action = LAT_ACTION_DENY;
	m->rules[0].err = EACCES;
	m->rules[1].action = LAT_ACTION_ALLOW;
	m->rules[1].reason = m->reason;
	m->rules[2].action = LAT_ACTION_ASK;
	for (unsigned i = 0; i < 2; i++)
		m->entries[i] = (struct lat_entry){ .port_hi = 65535, .proto = LAT_PROTO_ANY };
	lat_prefix_parse("203.0.113.66", &m->entries[0].prefix);
	m->entries[0].rule = 1;
	lat_prefix_parse("203.0.113.0/24", &m->entries[1].prefix);
	m->entries[1].rule = 3;
	m->names[0] = (struct lat_name_entry){ .pattern = "*.example", .rule = 2, .port_hi = 65535,
		.proto = LAT_PROTO_ANY, .allows = 1 };
	m->ports[0] = (struct lat_host_port){ 5432, 5433, IPPROTO_TCP };
	m->paths[0] = "/run/x.sock";
	m->spec = (struct lat_policy_spec){ .name = "p", .rules = m->rules, .rule_count = RULES, .entries = m->entries,
		.entry_count = 2, .names = m->names, .name_count = 1, .host_ports = m->ports, .host_port_count = 1,
		.unix_paths = m->paths, .unix_path_count = 1 };
}

static struct lat_verdict judge(const struct lat_policy *p, struct lat_pins *pins, const char *address)
{
	struct lat_flow f = { .proto = IPPROTO_TCP, .dport = 443 };
	struct lat_verdict v;

	assert_int_equal(lat_addr_parse(address, &f.remote), 0);
	memset(&v, 0xff, sizeof(v));
	lat_policy_judge(p, pins, &f, 0, &v);
	return v;
}

static void the_lowest_rule_decides_and_is_named(void **state)
{
	struct material *m = malloc(sizeof(*m));
	struct lat_policy *p = NULL;
	struct lat_pins *pins = NULL;
	struct lat_verdict v;
	struct lat_addr a;

	fill(m);
	assert_int_equal(lat_policy_build(7, &m->spec, &p), 0);
	memset(m, 0xee, sizeof(*m)); /* the generation holds copies */
	free(m);
	assert_int_equal(lat_pins_new(4, &pins), 0);
	lat_addr_parse("203.0.113.66", &a);
	lat_pins_add(pins, &a, "a.example", 100);
	lat_addr_parse("203.0.113.7", &a);
	lat_pins_add(pins, &a, "b.example", 100);

	v = judge(p, pins, "203.0.113.66");
	assert_int_equal(v.rule, 1);
	assert_int_equal(v.action, LAT_ACTION_DENY);
	assert_int_equal(v.err, EACCES);
	assert_int_equal(v.generation, 7);
	assert_int_equal(v.by_handler, 0);
	v = judge(p, pins, "203.0.113.7");
	assert_int_equal(v.rule, 2);
	assert_true(lat_verdict_passes(&v));
	assert_string_equal(v.where, "p.lua:2");
	assert_string_equal(v.reason, "staging");
	v = judge(p, pins, "203.0.113.8");
	assert_int_equal(v.rule, 3);
	assert_false(lat_verdict_passes(&v));
	v = judge(p, NULL, "203.0.113.7");
	assert_int_equal(v.rule, 3);
	v = judge(p, pins, "192.0.2.1");
	assert_int_equal(v.rule, 0);
	assert_int_equal(v.action, LAT_ACTION_DENY);
	assert_string_equal(v.where, "default");
	assert_null(v.reason);
	assert_string_equal(p->spec.name, "p");
	assert_int_equal(p->spec.host_ports[0].hi, 5433);
	assert_string_equal(p->spec.unix_paths[0], "/run/x.sock");
	lat_pins_free(pins);
	lat_policy_unref(p);
}

static void the_default_action_answers_where_no_rule_does(void **state)
{
	struct lat_policy_spec spec = { .default_action = LAT_ACTION_ALLOW };
	struct lat_policy *p = NULL;
	struct lat_verdict v;
	struct lat_flow odd = { .dir = LAT_DIR_COUNT };

	assert_int_equal(lat_policy_build(1, &spec, &p), 0);
	v = judge(p, NULL, "192.0.2.1");
	assert_int_equal(v.action, LAT_ACTION_ALLOW);
	assert_int_equal(v.rule, 0);
	lat_policy_judge(p, NULL, &odd, 0, &v);
	assert_int_equal(v.action, LAT_ACTION_DENY);
	assert_string_equal(p->spec.name, "");
	lat_policy_unref(p);
}

static void references_keep_a_generation(void **state)
{
	struct material m;
	struct lat_policy *p = NULL;

	fill(&m);
	assert_int_equal(lat_policy_build(1, &m.spec, &p), 0);
	assert_ptr_equal(lat_policy_ref(p), p);
	lat_policy_unref(p);
	assert_int_equal(judge(p, NULL, "203.0.113.66").rule, 1);
	lat_policy_unref(p);
	lat_policy_unref(NULL);
}

static void odd_specs_are_refused_and_the_output_stays(void **state)
{
	struct material m;
	struct lat_policy *p = (void *)&m;

	for (unsigned i = 0; i < 10; i++) {
		fill(&m);
		switch (i) {
		case 0: m.spec.default_action = LAT_ACTION_COUNT; break;
		case 1: m.rules[2].action = LAT_ACTION_COUNT; break;
		case 2: m.entries[1].rule = RULES + 1; break;
		case 3: m.names[0].rule = RULES + 1; break;
		case 4: m.names[0].rule = 0; break;
		case 5: m.names[0].pattern = "*"; break;
		case 6: m.entries[0].prefix.len = 77; break;
		case 7: m.rules[0].where = NULL; break;
		case 8: m.ports[0].lo = 9999; break;
		default: m.paths[0] = "relative"; break;
		}
		assert_int_equal(lat_policy_build(1, &m.spec, &p), -EINVAL);
		assert_ptr_equal(p, &m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_lowest_rule_decides_and_is_named),
		cmocka_unit_test(the_default_action_answers_where_no_rule_does),
		cmocka_unit_test(references_keep_a_generation),
		cmocka_unit_test(odd_specs_are_refused_and_the_output_stays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
