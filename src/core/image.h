/* A generation as the maps of the tc programs hold it (bpf/tc_abi.h): made of the same tables that user mode asks, so the
 * two cannot differ. Everything here runs in any thread; nothing of it is kept by what it was made of. */
#ifndef LAT_CORE_IMAGE_H
#define LAT_CORE_IMAGE_H
#include "core/policy.h"
#include "kernel/tc.h"

/* What an image is made of; of a policy that keeps its entries. */
struct lat_image_spec {
	uint32_t generation;
	uint8_t default_action;
	uint8_t keep_established;
	uint8_t asks;                        /* handlers decide what no rule does */
	const struct lat_host_port *hosts;   /* ports of the host's loopback that rules may open to a cgroup; those
	                                      * beyond LAT_TC_HOST_MOST stay closed */
	size_t host_count;
	const struct lat_rule *rules;
	size_t rule_count;
	const struct lat_entry *entries;
	size_t entry_count;
	const struct lat_tables *tables; /* of these entries, made for maps; NULL: they are made here */
};

/* 0, -ENOMEM, -E2BIG, or -EINVAL (what lat_tables_build refuses, a rule number beyond rule_count). */
int lat_image_build(const struct lat_image_spec *spec, struct lat_tc_image *out);
void lat_image_fini(struct lat_tc_image *image);

/* The name rules for one pinned address. names: the patterns of the policy, with their rules. */
void lat_image_pin(const struct lat_name_entry *entries, size_t count, const struct lat_addr *addr,
	const char *const *names, size_t name_count, struct lat_tc_pin *out);

#endif
