/* What the files of cgroup.h share. Those of cgroup_kill.c run in the keeper too, a child that was forked without exec from a
 * process that may have threads: system calls only, no allocation. */
#ifndef LAT_KERNEL_CGROUP_IMPL_H
#define LAT_KERNEL_CGROUP_IMPL_H
#include "kernel/cgroup.h"
#include <limits.h>
#include <stddef.h>

#define LAT_CG_PARENT "lattice"
#define LAT_CG_CALLER "lattice.caller" /* the leaf that a delegated caller moves to: a group with controllers has no members */
#define LAT_CG_BOUND "bindings" /* below the parent, not swept: bindings of an agent that may make none elsewhere (bindings.lua) */
#define LAT_CG_DIRS 8

enum lat_cg_controller { CG_MEMORY, CG_CPU, CG_IO, CG_PIDS, CG_CPUACCT, CG_FREEZER, CG_COUNT };

/* A mounted hierarchy. */
struct lat_cg_tree {
	bool v2;
	unsigned controllers;      /* bits of enum lat_cg_controller */
	char root[256];            /* where it is mounted */
	char own[PATH_MAX];        /* the caller's group below root: "/a/b"; "": not in sight */
};

struct lat_cg_trees {
	struct lat_cg_tree tree[LAT_CG_DIRS];
	int hidden[LAT_CG_DIRS];   /* descriptor of a mount that its root is the path of, or -1 */
	unsigned count;
};

/* The group in one hierarchy. */
struct lat_cg_dir {
	bool v2, moved;            /* moved: the caller went to LAT_CG_CALLER below base */
	bool needed;               /* limits or programs hang on it; else it is there to kill or to count */
	unsigned controllers;      /* those that hold our limits here */
	int base, parent, fd;      /* of .../, .../lattice, .../lattice/NAME (locked) */
	char name[NAME_MAX + 1];
	char path[PATH_MAX];
};

struct lat_cgroup {
	struct lat_cg_dir dir[LAT_CG_DIRS];
	unsigned count;
	struct lat_cgroup_limits limits;
	int hidden[LAT_CG_DIRS];   /* mounts that paths lead over, or -1 */
	uint64_t id;
	pid_t maker;               /* a copy of the group in a forked child is not the group */
	pid_t keeper;
	int keeper_word;           /* a byte: it is not needed any more */
};

extern const char *const lat_cg_names[CG_COUNT]; /* as v2 has them; v1: blkio for io */

/* cgroup_find.c: what there is, and where the caller is in it; the caller closes `hidden`. 0 or negative errno. */
int lat_cg_find(struct lat_cg_trees *out);
/* Controllers of the limits. */
unsigned lat_cg_wanted(const struct lat_cgroup_limits *limits);

/* cgroup_v2.c. Controllers for the groups below dir: 0 or negative errno, say filled. */
int lat_cg_v2_enable(struct lat_cg_dir *dir, const struct lat_cg_tree *tree, const char *base, char say[LAT_CGROUP_SAY]);
int lat_cg_v2_limit(const struct lat_cg_dir *dir, const struct lat_cgroup_limits *limits, char say[LAT_CGROUP_SAY]);
/* Undoes the move of the caller. */
void lat_cg_v2_move_back(struct lat_cg_dir *dir);
/* cgroup_v1.c */
int lat_cg_v1_limit(const struct lat_cg_dir *dir, const struct lat_cgroup_limits *limits, char say[LAT_CGROUP_SAY]);

/* cgroup_file.c. Files of a group; each open is below the directory dir. */
int lat_cg_write(int dir, const char *file, const char *text);
/* At most size - 1 bytes, ended by 0. How many, or negative errno. */
ssize_t lat_cg_read(int dir, const char *file, char *buf, size_t size);
/* The number behind "key " in a flat-keyed file, or of the whole file when key is NULL. */
int lat_cg_number(int dir, const char *file, const char *key, uint64_t *out);
/* write for each disk of the host that has a size: write(ctx, "254:0"). 0, -ENODEV if there is none, or what write gave. */
int lat_cg_each_disk(int (*write)(void *ctx, const char *disk), void *ctx, char failed[16]);
__attribute__((format(printf, 3, 4))) int lat_cg_say(char say[LAT_CGROUP_SAY], int error, const char *format, ...);

/* cgroup_kill.c */
/* SIGKILL, once, for all that are in the group of the directory and below it. */
void lat_cg_kill(int dir, bool v2);
bool lat_cg_empty(int dir, bool v2);
/* Removes the groups below dir, then name below parent. */
int lat_cg_remove(int parent, int dir, const char *name);
/* Kills and removes the groups of parent that nobody has locked. */
void lat_cg_sweep(int parent, bool v2);
/* All directories of the group. */
int lat_cg_kill_all(struct lat_cg_dir *dir, unsigned count, int timeout_ms);
/* false: something is left: a process does not end, or the parent has to go, too, and that is not ours to do (any more). It is
 * the keeper's then, who has the maker's rights of old. */
bool lat_cg_remove_all(struct lat_cg_dir *dir, unsigned count);

/* cgroup_keeper.c */
int lat_cg_keeper_start(struct lat_cgroup *group);
/* It is not needed any more (removed), or does what is left to be removed. Waits for its end, unless processes do not end. */
void lat_cg_keeper_stop(struct lat_cgroup *group, bool removed, bool wait);

#endif
