/* A run's decisions on names: hooks of the DNS server. */
#include "core/run_private.h"
#include "core/run_wall.h"
#include "base/clock.h"
#include <stdio.h>
#include <string.h>

static enum lat_dns_decision dns_judge(void *ctx, uint64_t id, const char *name, uint16_t qtype, bool *private_ok)
{
	struct lat_run *run = ctx;
	const struct lat_policy_spec *spec = &run->policy->spec;
	struct lat_question q = { .kind = LAT_QUESTION_DNS, .qtype = qtype };
	uint8_t action;
	char text[256];

	*private_ok = false;
	if (lat_run_lenient(run)) {
		*private_ok = true;
		return LAT_DNS_RESOLVE;
	}
	if (lat_names_resolvable(run->policy->names, name, private_ok))
		return LAT_DNS_RESOLVE;
	if (spec->names_open) {
		*private_ok = spec->default_action == LAT_ACTION_ALLOW || spec->default_action == LAT_ACTION_AUDIT;
		return LAT_DNS_RESOLVE;
	}
	if (!spec->has_dns)
		return LAT_DNS_REFUSE;
	q.generation = run->policy->generation;
	snprintf(q.name, sizeof(q.name), "%s", name);
	if (lat_answers_get(run->answers, &q, lat_now_ns(), &action, text))
		return action == LAT_ACTION_ALLOW ? LAT_DNS_RESOLVE : LAT_DNS_REFUSE;
	q.id = id | LAT_DNS_ID;
	return lat_run_ask(run, &q) == 0 ? LAT_DNS_WAIT : LAT_DNS_REFUSE;
}

static bool dns_pin(void *ctx, const char *name, const struct lat_addr *addr, uint64_t until_ns)
{
	struct lat_run *run = ctx;
	size_t len = strlen(run->answer);
	char text[LAT_ADDR_TEXT];

	if (lat_pins_add(run->pins, addr, name, until_ns) < 0 || (run->wall && !lat_wall_pin(run, name, addr, until_ns)))
		return false;
	lat_addr_format(addr, text, sizeof(text));
	if (len + strlen(text) + 2 <= sizeof(run->answer))
		snprintf(run->answer + len, sizeof(run->answer) - len, "%s%s", len ? " " : "", text);
	return true;
}

#define DNS_REFUSED 5

static void dns_done(void *ctx, const char *name, uint16_t qtype, uint16_t rcode, size_t addresses,
	size_t refused_private, bool tcp, uint16_t sport)
{
	struct lat_run *run = ctx;
	struct lat_record r = { .kind = LAT_RECORD_DNS, .action = LAT_ACTION_DENY, .rcode = rcode, .qtype = qtype };
	bool answered = rcode != DNS_REFUSED && refused_private == 0;

	/* What was answered is recorded too: labels under an allowed wildcard could carry data out. */
	lat_addr_parse(LAT_TRAP_DNS, &r.flow.remote);
	r.flow.dport = 53;
	r.flow.sport = sport;
	r.flow.proto = tcp ? IPPROTO_TCP : IPPROTO_UDP;
	if (run->wall)
		lat_wall_dns_asker(run, &r.flow, &r.who);
	else if (run->preload)
		lat_preload_asker(run, lat_dns_asker(run->dns), &r.who);
	else if (run->connects)
		lat_connects_identify(run->connects, &r.flow, &r.who);
	snprintf(r.name, sizeof(r.name), "%s", name);
	snprintf(r.where, sizeof(r.where), "%s", answered ? "" : "default");
	if (answered) {
		r.action = LAT_ACTION_ALLOW;
		snprintf(r.text, sizeof(r.text), "%s", addresses ? run->answer : "");
	} else if (rcode == DNS_REFUSED)
		snprintf(r.text, sizeof(r.text), "no rule could allow this name");
	else
		snprintf(r.text, sizeof(r.text), "%zu private address%s left out, %zu given (private = true would allow)",
			refused_private, refused_private == 1 ? "" : "es", addresses);
	run->answer[0] = '\0';
	lat_run_emit(run, &r);
}

void lat_run_dns_hooks(struct lat_run *run, struct lat_dns_hooks *dns)
{
	*dns = (struct lat_dns_hooks){ .ctx = run, .judge = dns_judge, .pin = dns_pin, .done = dns_done };
}
