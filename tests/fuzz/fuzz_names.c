/* Names from DNS and from policies: what is accepted is a plain name, patterns agree with the plain matching, and pins keep
 * to their bound. Lines of the input: a pattern each (a leading '!' denies), then names below an empty line. */
#include "core/names.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "does not hold: %s\n", what);
	abort();
}

struct patterns {
	char text[MOST][LAT_NAME_MAX + 2];
	struct lat_name_entry entries[MOST];
	size_t count;
};

static void add_pattern(struct patterns *p, const char *line, size_t len)
{
	bool denies = len && line[0] == '!', wild;
	char name[LAT_NAME_MAX];
	struct lat_name_entry *e = &p->entries[p->count];

	line += denies;
	len -= denies;
	wild = len > 2 && memcmp(line, "*.", 2) == 0;
	if (p->count == MOST || lat_name_normalize(line + 2 * wild, len - 2 * wild, name) < 0)
		return;
	snprintf(p->text[p->count], sizeof(p->text[0]), "%s%s", wild ? "*." : "", name);
	*e = (struct lat_name_entry){ .pattern = p->text[p->count], .rule = (uint32_t)(p->count / 2 + 1),
		.port_hi = UINT16_MAX, .proto = LAT_PROTO_ANY, .allows = !denies, .private_ok = p->count % 3 == 0 };
	p->count++;
}

static void check_normalized(const char *name)
{
	char again[LAT_NAME_MAX];
	struct lat_addr a;

	must(lat_name_normalize(name, strlen(name), again) == 0 && strcmp(name, again) == 0, "normalizing is idempotent");
	must(lat_addr_parse(name, &a) < 0, "a name is no address");
	must(strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == strlen(name), "its bytes are plain");
}

static void check_name(const struct patterns *p, const struct lat_names *names, struct lat_pins *pins, const char *name,
	uint8_t last)
{
	struct lat_flow f = { .proto = IPPROTO_TCP, .dport = 443 };
	uint8_t raw[4] = { last & 1 ? 10 : 203, 0, 113, last };
	uint32_t want = 0;

	check_normalized(name);
	lat_addr_from4(&f.remote, raw);
	lat_pins_expire(pins, 10);
	must(lat_pins_add(pins, &f.remote, name, 20) == 0, "a name is pinned");
	must(strcmp(lat_pins_name(pins, &f.remote, 10), name) == 0, "it is the newest");
	for (size_t i = 0; i < p->count; i++) {
		const struct lat_name_entry *e = &p->entries[i];

		if (lat_name_matches(e->pattern, name) && (!(last & 1) || !e->allows || e->private_ok) &&
			(!want || e->rule < want))
			want = e->rule;
	}
	must(lat_names_lookup(names, pins, &f, 19) == want, "the look-up is the plain one");
	must(lat_names_lookup(names, pins, &f, 20) == 0, "a pin ends");
	lat_pins_expire(pins, 20);
	must(!lat_pins_name(pins, &f.remote, 0), "and is gone");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct patterns p = { .count = 0 };
	struct lat_names *names = NULL;
	struct lat_pins *pins = NULL;
	const char *at = (const char *)data, *end = at + size;
	bool below = false;

	for (int line = 0; at < end && line < 64; line++) {
		const char *stop = memchr(at, '\n', (size_t)(end - at));
		size_t len = (size_t)((stop ? stop : end) - at);
		char name[LAT_NAME_MAX];

		if (!below && len == 0) {
			must(lat_names_build(p.entries, p.count, &names) == 0, "plain patterns build");
			must(lat_pins_new(3, &pins) == 0, "pins");
			below = true;
		} else if (!below) {
			add_pattern(&p, at, len);
		} else if (lat_name_normalize(at, len, name) == 0) {
			bool private_ok = false;

			check_name(&p, names, pins, name, (uint8_t)(len + line));
			(void)lat_names_resolvable(names, name, &private_ok);
		}
		at += len + 1;
	}
	lat_names_free(names);
	lat_pins_free(pins);
	return 0;
}
