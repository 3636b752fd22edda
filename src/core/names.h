/* Names in rules, and the pins that bind a name to the addresses which the subject was given as its answer. */
#ifndef LAT_CORE_NAMES_H
#define LAT_CORE_NAMES_H
#include "core/flow.h"
#include "core/tables.h"

#define LAT_NAME_MAX 254 /* text without the trailing dot, with the NUL */

/* One name of a rule: "host.example" or "*.host.example" (any depth below, not host.example itself). */
struct lat_name_entry {
	const char *pattern; /* lower case, no trailing dot; copied */
	uint32_t rule;
	uint16_t port_lo, port_hi;
	uint8_t dir, proto;
	uint8_t allows;  /* the rule could let a flow pass (allow, audit, ask): such names are resolved */
	uint8_t private_ok; /* private = true: answers in private ranges may be used */
};

/* The name rules of one generation; immutable. */
struct lat_names;
/* 0, -ENOMEM, -E2BIG, or -EINVAL (rule 0, bad dir or ports, a pattern that is not a normalized name). */
int lat_names_build(const struct lat_name_entry *entries, size_t count, struct lat_names **out);
void lat_names_free(struct lat_names *names);
/* The lowest rule about a name, UINT32_MAX: there is none. */
uint32_t lat_names_least(const struct lat_names *names);
/* Could some rule let a flow to this name pass? A rule that an earlier deny for the name covers whole cannot.
 * *private_ok (only set when the answer is yes, may be NULL): through a rule that accepts private answers. */
bool lat_names_resolvable(const struct lat_names *names, const char *name, bool *private_ok);
/* Does `name` match `pattern`? Both lower case, without trailing dot. */
bool lat_name_matches(const char *pattern, const char *name);
/* Lower-cases, strips one trailing dot and checks a host name (letters, digits, '-', '_', labels 1..63, 253 in all; a
 * name that looks like an address is refused). 0 or -EINVAL. out: LAT_NAME_MAX bytes. */
int lat_name_normalize(const char *text, size_t len, char *out);

/* What the subject was told: address -> names, each until its time. Bounded: the entry that ends first makes room. */
struct lat_pins;
/* 0, -ENOMEM, or -EINVAL (max 0 or beyond 2^30). */
int lat_pins_new(size_t max, struct lat_pins **out);
void lat_pins_free(struct lat_pins *pins);
/* The subject got `addr` as an answer for `name` (normalized); valid before `until_ns` (monotonic; TTL and grace
 * included), or as long as an earlier answer said. 0, or -EINVAL (name empty or too long). */
int lat_pins_add(struct lat_pins *pins, const struct lat_addr *addr, const char *name, uint64_t until_ns);
/* Calls `each` for every name pinned to addr at now_ns, newest first; stops when it returns false. `each`
 * must not change the pins. */
void lat_pins_each(struct lat_pins *pins, const struct lat_addr *addr, uint64_t now_ns,
	bool (*each)(const char *name, void *arg), void *arg);
/* The newest name pinned to addr at now_ns, or NULL (for display and audit). Valid until the next call on pins. */
const char *lat_pins_name(struct lat_pins *pins, const struct lat_addr *addr, uint64_t now_ns);
void lat_pins_expire(struct lat_pins *pins, uint64_t now_ns);

/* The lowest rule number among name rules that match the flow through a pinned name, or 0. A private address counts
 * only for entries with private_ok; entries of rules that do not allow (deny, drop) match private addresses always. */
uint32_t lat_names_lookup(const struct lat_names *names, struct lat_pins *pins, const struct lat_flow *flow, uint64_t now_ns);

#endif
