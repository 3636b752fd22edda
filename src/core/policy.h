/* One generation of a policy as C sees it: rules, tables, names, options. Built once, then immutable and counted by
 * reference; whoever holds an answer from it (a flow, a question) holds a reference. */
#ifndef LAT_CORE_POLICY_H
#define LAT_CORE_POLICY_H
#include "core/names.h"
#include "core/tables.h"

struct lat_rule {
	const char *where;  /* "agent.lua:14" */
	const char *reason; /* or NULL */
	const char *text;   /* the rule as text, for explanations */
	uint32_t ttl_s;     /* how long a passed flow may live, or how long an answer to ask is kept; 0: no limit */
	uint32_t rate;      /* new flows a second; 0: no limit */
	uint16_t err;       /* errno for a refused connect; 0: ECONNREFUSED */
	uint8_t action;     /* enum lat_action */
	uint8_t log;        /* 0: an allowed flow makes no record */
};

struct lat_policy_spec {
	const char *name;   /* policy "name" */
	uint8_t default_action;
	uint8_t keep_established; /* a reload does not cut open flows */
	uint8_t names_open;  /* a rule or the default allows any address: every name may be resolved */
	uint8_t has_ask, has_connect, has_dns; /* handlers exist */
	uint8_t keep_entries; /* the generation keeps entries and names: for enforcers that build tables of their own */
	const struct lat_rule *rules; /* rules[i] is rule number i + 1 */
	size_t rule_count;
	const struct lat_entry *entries;
	size_t entry_count;
	const struct lat_name_entry *names;
	size_t name_count;
	/* host rules: ports of the host's own loopback services that flows to 127.0.0.0/8 and ::1 are taken out for */
	const struct lat_host_port { uint16_t lo, hi; uint8_t proto; } *host_ports;
	size_t host_port_count;
	const char *const *unix_paths; /* outside unix sockets that the program may connect to */
	size_t unix_path_count;
};

struct lat_policy {
	uint32_t generation;
	struct lat_policy_spec spec; /* deep copy; without keep_entries, entries and names are NULL: tables and names hold
	                              * what they say */
	struct lat_tables *tables;
	struct lat_names *names;
	unsigned refs; /* of the loop thread only */
};

/* Deep-copies the spec, builds tables and names. 0, -ENOMEM, -E2BIG, or -EINVAL (what tables and names
 * refuse, a rule number beyond rule_count, an action out of range, a rule without `where`, odd ports, a unix path that
 * is not absolute). The result has one reference. */
int lat_policy_build(uint32_t generation, const struct lat_policy_spec *spec, struct lat_policy **out);
struct lat_policy *lat_policy_ref(struct lat_policy *policy);
void lat_policy_unref(struct lat_policy *policy); /* NULL is fine */
/* Fingerprint of what the rules mean (actions, options, match; not where they stand): LAT_POLICY_DIGEST hexadecimal digits and
 * the NUL. Of a generation with keep_entries. */
#define LAT_POLICY_DIGEST 64
void lat_policy_digest(const struct lat_policy *policy, char hex[LAT_POLICY_DIGEST + 1]);
/* First match over prefix and name rules; nothing matched: rule 0 and the default action. Rate limits are not here.
 * pins may be NULL (no names). Never fails: whatever is odd is denied. */
void lat_policy_judge(const struct lat_policy *policy, struct lat_pins *pins, const struct lat_flow *flow,
	uint64_t now_ns, struct lat_verdict *out);

#endif
