/* The tc enforcer over all its devices: a generation is in force on every one of them, or the old one still is. Whatever
 * waits for the kernel belongs into a thread; one call at a time, but that lat_filter_overlay and lat_filter_ask may come at any
 * time. */
#ifndef LAT_CORE_FILTER_H
#define LAT_CORE_FILTER_H
#include "core/image.h"
#include "lattice_abi.h"

#define LAT_FILTER_DEVICES 64

struct lat_filter {
	struct lat_tc *tc[LAT_FILTER_DEVICES];
	size_t count;
};

/* The names that an address stands for now. */
struct lat_filter_pin {
	struct lat_addr addr;
	const char *const *names;
	size_t name_count;
};

/* options->device is not looked at; of a cgroup there is one, and its device is "". say: a sentence for each device. After a failure nothing is left of a device that was
 * not there before; adopted ones stay as they were. */
int lat_filter_open(const struct lat_tc_options *options, const char *const *devices, size_t count,
	struct lat_filter **out, char say[LAT_TC_SAY]);
void lat_filter_close(struct lat_filter *filter, bool keep);
/* The policy must have kept its entries. */
int lat_filter_apply(struct lat_filter *filter, const struct lat_policy *policy, const struct lat_filter_pin *pins,
	size_t pin_count, char say[LAT_TC_SAY]);
/* Frees what apply replaced. */
void lat_filter_settle(struct lat_filter *filter);
int lat_filter_pin(struct lat_filter *filter, const struct lat_policy *policy, const struct lat_filter_pin *pins,
	size_t count);
/* The names of one address (none: it goes); the others stay. */
int lat_filter_pin_one(struct lat_filter *filter, const struct lat_policy *policy, const struct lat_filter_pin *pin);
int lat_filter_overlay(struct lat_filter *filter, const struct lat_tc_temp *temps, size_t count);
/* Sums over the devices; *out is malloc'ed, [0] is the default. */
int lat_filter_counters(struct lat_filter *filter, size_t rules, struct lat_tc_count **out);
/* The number of flows cut. */
int lat_filter_cut(struct lat_filter *filter);
/* The CLOSE event of an open flow, as the programs would have told its end, had they seen it; false: its end is told already, or
 * nobody is to hear of it. */
bool lat_filter_end_of(const struct lat_tc_key *key, const struct lat_tc_flow *flow, struct lat_event *out);
/* By the first device: they hold the same. */
int lat_filter_ask(struct lat_filter *filter, const struct lat_tc_question *question, struct lat_tc_answer *out);

#endif
