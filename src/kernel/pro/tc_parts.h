/* What the files of the tc enforcer share (tc.c, tc_hook.c, tc_pins.c, tc_apply.c, tc_look.c); nobody else includes this. */
#ifndef LAT_KERNEL_PRO_TC_PARTS_H
#define LAT_KERNEL_PRO_TC_PARTS_H
#include "kernel/tc.h"
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <pthread.h>

enum { TC_OUT, TC_IN, TC_DIRS };

#define TC_CGROUP_UNIX_CONNECT 49 /* enum bpf_attach_type of 6.7; Debian 12's header ends before it */

enum tc_map {
	TC_LIVE, TC_LPM_SLOTS, TC_DATA_SLOTS, TC_OVERLAYS, TC_PINS, TC_FLOWS, TC_FRAGMENTS, TC_STATS, TC_TOLD, TC_EVENTS,
	TC_CONFIG, TC_MAPS
};
extern const char *const lat_tc_map_names[TC_MAPS];

struct tc_slot {
	int lpm, data;         /* -1: none that we know */
	unsigned char *mapped; /* data for reading, NULL: not mapped */
	uint32_t rows;
};

/* What the programs of a cgroup have beside. */
struct tc_group {
	int fd;                /* its directory; -1: these are of a device */
	uint64_t id;           /* bpf_get_current_cgroup_id of its tasks */
	uint32_t bind;
	char bind_name[16];
	uint16_t dns_port;
	bool no_unix, comm;
	int answers;           /* map */
};

struct lat_tc {
	struct tc_group group;
	char device[16], path[256];
	uint32_t ifindex;
	int lock;              /* the directory, locked */
	bool made_dir, mounted;
	bool adopted;
	bool deferred;         /* adopted from another ABI: hooks and pins change with the first generation */
	struct bpf_object *object;
	int maps[TC_MAPS], progs[TC_DIRS];
	int links[TC_DIRS];    /* TCX; -1 with clsact */
	bool attached[TC_DIRS], pinned;
	struct lat_tc_config config;
	uint32_t ask_mark, ask_word;
	bool ether;
	struct tc_slot slots[LAT_TC_SLOTS + 1]; /* 0 is none */
	uint32_t prepared;     /* slot, 0: none */
	uint32_t prepared_pins;
	uint64_t before;       /* word before the last flip */
	uint32_t overlay_next;
	pthread_t grace;       /* waits since the last flip until no program is at what was in force before */
	bool graces;           /* it has not been joined yet */
	pthread_mutex_t mutex; /* of the live word and the slots */
	char *say;             /* of the call that goes on, LAT_TC_SAY bytes */
};

/* Adds a sentence to tc->say. */
void lat_tc_say(struct lat_tc *tc, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* tc.c: removes what a dead one left for one device. */
int lat_tc_forget(const char *pins, const char *device, char *say);

/* tc.c: loads the object of that name (tc, cgroup) with the two packet programs named. */
int lat_tc_load(struct lat_tc *tc, const struct lat_tc_options *options, const char *object, const char *const programs[TC_DIRS]);
uint32_t lat_tc_stripes(void);

/* tc_cgroup.c: the programs of a cgroup. */
int lat_tc_group_start(struct lat_tc *tc, const struct lat_tc_options *options);
int lat_tc_group_hooked(const struct lat_tc *tc);
void lat_tc_group_detach(struct lat_tc *tc);

/* tc_pins.c: the directory. */
int lat_tc_dir_open(struct lat_tc *tc, const char *pins);
void lat_tc_dir_remove(struct lat_tc *tc); /* the directory, and what lat_tc_dir_open mounted */
int lat_tc_pin_all(struct lat_tc *tc);
void lat_tc_unpin_all(struct lat_tc *tc);
int lat_tc_pin_get(struct lat_tc *tc, const char *name); /* descriptor, or negative errno */
int lat_tc_pin_put(struct lat_tc *tc, const char *name, int fd);
void lat_tc_pin_drop(struct lat_tc *tc, const char *name);
int lat_tc_netns(uint64_t *inode);
extern const char *const lat_tc_link_names[TC_DIRS];

/* tc_hook.c: the programs on the device. */
int lat_tc_attach(struct lat_tc *tc, bool no_tcx);
int lat_tc_replace(struct lat_tc *tc); /* of an adopted device */
void lat_tc_reopen(struct lat_tc *tc); /* finds the hooks of an adopted device, so that they can be detached */
void lat_tc_detach(struct lat_tc *tc);
/* Is there a filter on the clsact hook? 1, 0, or negative errno. */
int lat_tc_has_filter(uint32_t ifindex, uint32_t parent);

/* The live word. */
int lat_tc_live_get(struct lat_tc *tc, uint64_t *word);
int lat_tc_live_put(struct lat_tc *tc, uint64_t word);

/* tc_apply.c */
void lat_tc_slot_close(struct tc_slot *slot);
void lat_tc_slot_map(struct tc_slot *slot);
/* Until no program is at what was in force before the last flip. */
void lat_tc_end_grace(struct lat_tc *tc);

/* tc_destroy.c: destroys the sockets of this host on the flow; 0, or negative errno. */
int lat_tc_destroy(const struct lat_tc_key *key);

#endif
