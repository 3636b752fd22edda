/* What a new policy changes: rules that come and go, whatever their number and place. */
#ifndef LAT_CORE_CHANGES_H
#define LAT_CORE_CHANGES_H
#include "core/policy.h"

struct lat_change {
	const struct lat_rule *rule; /* of the policy that has it */
	bool added;
};

/* Rules are the same when their text and options are. Writes those of old that are gone, in their order, then those of
 * next that are new; out has room for the rules of both. old may be NULL. How many, or -ENOMEM. */
ssize_t lat_changes(const struct lat_policy *old, const struct lat_policy *next, struct lat_change *out);

#endif
