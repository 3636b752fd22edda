/* The tc programs of the ebpf enforcer on one device: load, attach, pin, adopt, fill, ask. Pro; in community every function
 * that could fail returns -LAT_EPRO.
 *
 * What is in force lives in the kernel: programs on both hooks of the device and the maps they read, all below a directory
 * of their own on a bpffs (PINS/NETNS-DEVICE). It outlives the process. The directory is locked while somebody works with
 * it; who dies leaves it to the next one, who takes the maps over and puts its own programs in place of the old ones,
 * without a packet in between that nobody judged.
 *
 * Everything here may be called from any thread, and one thing of one object at a time, but that lat_tc_overlay,
 * lat_tc_status, lat_tc_hooked and lat_tc_ask may come at any time. Texts for people go to `say`; NULL is fine. */
#ifndef LAT_KERNEL_TC_H
#define LAT_KERNEL_TC_H
#include "base/addr.h"
#include "tc_abi.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LAT_TC_SAY 1024

/* A generation as the maps hold it (core/image.h makes one). Rows without those of the counters. */
struct lat_tc_image {
	struct lat_tc_prefix *prefixes;
	struct lat_tc_node *nodes; /* of the prefixes */
	size_t prefix_count;
	unsigned char *rows;       /* row 0 is left to be filled */
	uint32_t row_count, rules_at, rule_count, generation;
	uint32_t hosts_at;
	uint16_t hosts;
	uint8_t keep, asks;
};

/* Instead of a device, the sockets of a cgroup (v2): the programs of cgroup.bpf.c hang on the group and live as long as it, without
 * a pin. There is no other side of such a device: "local" is the group's. */
struct lat_tc_cgroup {
	const char *path;     /* of the group's directory; NULL: a device is meant */
	const char *bind;     /* device that every socket is bound to, but for loopback; NULL: none */
	uint16_t dns_port;    /* on 127.0.0.1: where queries to 127.0.0.53 port 53 go, always allowed; 0: nowhere */
	bool no_unix;         /* no connect(2) of unix sockets by tasks of the group (where BPF is a security
	                         module, those of the group are reached; kernels from 6.7 on: none; else -EOPNOTSUPP) */
};

struct lat_tc_options {
	struct lat_tc_cgroup cgroup;
	const char *device;
	const char *pins;     /* directory; a bpffs is mounted there if it is on none */
	bool adopt;           /* take over what a dead one left; else -EEXIST if there is something */
	bool no_tcx;          /* clsact even where TCX is there; also by the environment: LATTICE_NO_TCX */
	uint32_t flows;       /* size of the flow table, 0: 262144 */
	uint32_t event_rate;  /* events a second of one rule on one CPU, 0: no limit */
};

struct lat_tc;

/* What fails takes back what it made. say: which hook, and why not the better one; or what went wrong. Until the first
 * generation nothing passes but what always does; an adopted device keeps the one it had. */
int lat_tc_open(const struct lat_tc_options *options, struct lat_tc **out, char say[LAT_TC_SAY]);
/* keep: all stays in force; else hooks, maps and the directory are removed. NULL is fine. */
void lat_tc_close(struct lat_tc *tc, bool keep);
/* Removes what dead ones left below pins for devices of this network namespace (device NULL: all): how many were removed.
 * those that are alive stay; -EBUSY: there was nothing else. */
int lat_tc_clear(const char *pins, const char *device, char say[LAT_TC_SAY]);
/* Loads the programs and attaches them to nothing: 0, or why it cannot be. */
int lat_tc_probe(char say[LAT_TC_SAY]);

/* ---- generations ---- */

/* Fills new maps beside those in force. What is in force does not change, whatever happens. */
int lat_tc_prepare(struct lat_tc *tc, const struct lat_tc_image *image, char say[LAT_TC_SAY]);
/* The names' addresses for the prepared generation (prepared true) or the one in force: the whole list. */
int lat_tc_pins(struct lat_tc *tc, bool prepared, const struct lat_addr *addrs, const struct lat_tc_pin *pins, size_t count);
/* What one address is pinned to, for the generation in force; the others stay. An empty pin: it is none any more. */
int lat_tc_pin(struct lat_tc *tc, const struct lat_addr *addr, const struct lat_tc_pin *pin);
/* Puts the prepared generation in force. After a failure the old one is. */
int lat_tc_flip(struct lat_tc *tc);
/* Back to the one before the last flip (whose maps must not have been freed). */
int lat_tc_flip_back(struct lat_tc *tc);
/* Frees the maps that are not in force, prepared ones too. Waits for the kernel: not on the loop. */
void lat_tc_settle(struct lat_tc *tc);
/* The temporary rules, whole list, in order; -E2BIG beyond LAT_TC_OVERLAY_MOST, of a cgroup
 * LAT_TC_OVERLAY_GROUP. */
int lat_tc_overlay(struct lat_tc *tc, const struct lat_tc_temp *temps, size_t count);

/* ---- answers, of a cgroup: where the tables say ask, or handlers decide what no rule does ---- */

/* The process (0: all of the group) may, or may not, talk to remote (port 0 where there are none) for so long, as far as the
 * generation in force asks. -ENOENT: none is in force. */
int lat_tc_answer(struct lat_tc *tc, const struct lat_addr *remote, uint8_t proto, uint16_t port, uint32_t pid, bool allow,
	uint64_t for_ns);
/* Forgets them all. Flows that are open go on. */
int lat_tc_answers_clear(struct lat_tc *tc);

/* ---- looking ---- */

struct lat_tc_status {
	char device[16];
	char path[256];
	uint32_t ifindex;
	uint32_t generation;  /* 0: none in force */
	uint32_t stamp;
	uint32_t rule_count;
	uint32_t rows;
	bool tcx, adopted, ether;
	uint64_t stats[LAT_TC_STAT_COUNT];
};

int lat_tc_status(struct lat_tc *tc, struct lat_tc_status *out);
/* Do both hooks have our programs? 1; 0: somebody took one off; -ENODEV: the device is gone. */
int lat_tc_hooked(const struct lat_tc *tc);
/* Adds packets and bytes of each rule of the generation in force to counts[0..max-1]; rules beyond max are left out. */
int lat_tc_counters(struct lat_tc *tc, struct lat_tc_count *counts, size_t max);
/* At most max flows; how many were written. */
int lat_tc_flows(struct lat_tc *tc, struct lat_tc_key *keys, struct lat_tc_flow *flows, size_t max);
/* Flows that the tables in force deny are marked so, and sockets of this host on them are destroyed where the kernel can: how
 * many there were. None where open flows are kept. */
int lat_tc_cut(struct lat_tc *tc);

struct lat_tc_question {
	struct lat_addr local, remote;
	uint16_t sport, dport;
	uint8_t proto, dir;
};

struct lat_tc_answer {
	uint32_t rule, generation;
	uint8_t action; /* enum lat_action */
	uint8_t passes;
	uint8_t why;    /* enum lat_tc_stat */
};

/* What the loaded program says of a new flow, by a test run that leaves no trace. */
int lat_tc_ask(struct lat_tc *tc, const struct lat_tc_question *question, struct lat_tc_answer *out);
/* Runs a packet (with an Ethernet header) through a program as if it came by the device; 1: passed, 0: dropped. Leaves the traces
 * of a real one. */
int lat_tc_run(struct lat_tc *tc, uint8_t dir, const void *packet, size_t size);
/* The mean time of `repeat` such runs. asked: as a question. */
int lat_tc_time(struct lat_tc *tc, uint8_t dir, bool asked, const void *packet, size_t size, uint32_t repeat, uint32_t *ns);
/* The ring of struct lat_event: a descriptor of the caller's own. */
int lat_tc_events(struct lat_tc *tc);
const char *lat_tc_stat_name(enum lat_tc_stat stat);

#endif
