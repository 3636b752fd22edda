/* Records of the event ring: any bytes. What is taken as an event is safe to name, to show and to write to the audit. */
#include "core/pump.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct lat_pump *new_pump(void)
{
	struct lat_rule rules[2] = { { .where = "p.lua:1", .reason = "why", .text = "a", .log = 1 },
		{ .where = "p.lua:2", .text = "b", .action = LAT_ACTION_ALLOW } };
	struct lat_policy_spec spec = { .name = "p", .rules = rules, .rule_count = 2 };
	struct lat_pump_options options = { .memory = 4 };
	struct lat_policy *policy;
	struct lat_pump *pump;
	const char *failed;

	if (lat_pump_new(&options, &pump, &failed) < 0 || lat_policy_build(1, &spec, &policy) < 0)
		abort();
	lat_pump_generation(pump, policy);
	lat_policy_unref(policy);
	return pump;
}

static void look(struct lat_pump *pump, const struct lat_event *e)
{
	static const struct lat_audit_context context = { .run_name = "r", .run_id = "i", .mode = "node", .policy = "p",
		.host = "h", .line = 1 };
	struct lat_record r = { .kind = LAT_RECORD_VERDICT, .action = e->action, .rule = e->rule, .generation = e->generation };
	struct lat_event_rule rule;
	char line[16384];

	lat_pump_rule(pump, e, &rule);
	if (!rule.where || !rule.where[0])
		abort();
	lat_event_flow(e, &r.flow);
	snprintf(r.where, sizeof(r.where), "%s", rule.where);
	if (lat_record_ocsf(&r, &context, line, sizeof(line)) < 0 || lat_record_line(&r, line, sizeof(line)) < 0)
		abort();
	lat_event_time_ms(e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct lat_pump *pump = new_pump();
	struct lat_pump_counters c;
	uint64_t taken = 0, refused = 0;

	while (size > 0) {
		size_t len = size < sizeof(struct lat_event) + 1 ? size : sizeof(struct lat_event);
		uint8_t *copy = malloc(len); /* exactly as long: reading past the end is seen */
		struct lat_event e;

		if (!copy)
			break;
		memcpy(copy, data, len);
		memset(&e, 0xa5, sizeof(e));
		if (lat_pump_take(pump, copy, len, &e) == 0) {
			if (e.action >= LAT_ACTION_COUNT || e.dir >= LAT_DIR_COUNT)
				abort();
			taken += e.kind != LAT_EVENT_LOSS;
			look(pump, &e);
		} else {
			if (e.kind != 0xa5)
				abort(); /* touched on failure */
			refused++;
		}
		free(copy);
		data += len;
		size -= len;
	}
	lat_pump_count(pump, &c);
	if (c.seen != taken || c.lost != refused || lat_pump_next(pump) != taken)
		abort();
	lat_pump_free(pump, 0);
	return 0;
}
