/* A run's decisions on unix sockets outside: only what a `unix` rule names, and only the socket that it named. */
#include "core/run_private.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

int lat_run_pin_unix(struct lat_run *run)
{
	const struct lat_policy_spec *spec = &run->policy->spec;

	run->unix_pins = calloc(spec->unix_path_count + 1, sizeof(*run->unix_pins));
	if (!run->unix_pins)
		return -ENOMEM;
	for (size_t i = 0; i < spec->unix_path_count; i++) {
		struct stat st;

		if (stat(spec->unix_paths[i], &st) == 0 && S_ISSOCK(st.st_mode))
			run->unix_pins[run->unix_pin_count++] = (struct lat_unix_pin){ st.st_dev, st.st_ino };
	}
	return 0;
}

/* Does the rule's path lead to this socket, and not only since the program moved or linked another one there? */
static bool unix_rule_matches(const struct lat_run *run, const char *rule, const char *bound, dev_t dev, ino_t ino)
{
	struct stat st;

	if (stat(rule, &st) < 0 || !S_ISSOCK(st.st_mode) || st.st_dev != dev || st.st_ino != ino)
		return false;
	for (size_t i = 0; i < run->unix_pin_count; i++)
		if (run->unix_pins[i].dev == dev && run->unix_pins[i].ino == ino)
			return true;
	return strcmp(bound, rule) == 0;
}

bool lat_run_connect_unix(void *ctx, const char *path, const char *bound, dev_t dev, ino_t ino,
	const struct lat_identity *who)
{
	struct lat_run *run = ctx;
	const struct lat_policy_spec *spec = &run->policy->spec;
	struct lat_record r = { .kind = LAT_RECORD_UNIX, .action = LAT_ACTION_DENY, .err = EACCES };
	bool allowed = false;

	for (size_t i = 0; i < spec->unix_path_count && !allowed; i++)
		allowed = unix_rule_matches(run, spec->unix_paths[i], bound, dev, ino);
	if (allowed) {
		r.action = LAT_ACTION_ALLOW;
		r.err = 0;
	} else if (lat_run_lenient(run)) {
		r.audit_only = 1;
		allowed = true;
	}
	r.who = *who;
	snprintf(r.where, sizeof(r.where), "%s", allowed && !r.audit_only ? "unix rule" : "default");
	snprintf(r.text, sizeof(r.text), "%s", path);
	lat_run_emit(run, &r);
	return allowed;
}
