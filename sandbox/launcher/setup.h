/* What the launcher's parts share. lat_launch fills a struct lat_setup before the fork; init and
 * the command's process use their copies after it. After the fork nothing here allocates memory:
 * the caller may have had other threads.
 *
 *   launch.c    the supervisor's side       init.c      pid 1: a list of steps, then serving
 *   identity.c  user namespaces, powers     netlink.c   lo, addresses, routes, sysctls
 *   trap.c      netfilter rules             sockets.c   what the supervisor gets
 *   mounts.c    the view of the files       kernelfs.c  ... and of the kernel's
 *   command.c   the process until exec      stdio.c     what it may have as 0, 1 and 2
 *   probe.c     the self-check              protocol.c  messages */
#ifndef LAT_SANDBOX_SETUP_H
#define LAT_SANDBOX_SETUP_H
#include "filter/filter.h"
#include "launcher/launcher.h"
#include "launcher/nft.h"
#include "protocol.h"
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

/* Descriptors that LAT_MSG_READY carries, in this order; `extra` has a bit for each that is there.
 */
enum lat_given {
	LAT_GIVEN_NOTIFY,
	LAT_GIVEN_LISTENER,
	LAT_GIVEN_QUEUE,
	LAT_GIVEN_DIAG,
	LAT_GIVEN_NFT,
	LAT_GIVEN_RAW4,
	LAT_GIVEN_RAW6,
	LAT_GIVEN_DNS_UDP,
	LAT_GIVEN_DNS_TCP,
	LAT_GIVEN_ROOT,
	LAT_GIVEN_COUNT
};

#define LAT_MAP_TEXT 4096
#define LAT_FILE_TEXT 8192

struct lat_setup {
	const struct lat_launch_spec *spec;
	struct lat_filter filter;
	struct lat_nft trap[2]; /* by NFQUEUE target, by native queue expression */
	bool ipv6;
	uid_t uid;
	gid_t gid;
	char uid_map[LAT_MAP_TEXT], gid_map[LAT_MAP_TEXT];
	bool whole_map; /* the maps cover what the caller's namespace has, not one id */
	char hosts[512], nsswitch[LAT_FILE_TEXT];
	char cwd[4096];
	int control; /* init's end */
	int command; /* init's end of the pair with the command's process; its own end there */
	pid_t command_pid;
	int given[LAT_GIVEN_COUNT];
	struct lat_msg failure; /* what went wrong, for the supervisor */
	char warning[244];	/* what it should tell the user */
};

/* Must init wait for a word from outside before its first step? */
static inline bool lat_setup_waits(const struct lat_setup *s)
{
	return s->whole_map || s->spec->place;
}

/* Notes what failed and returns error (negative errno). The text gets ": ERRNO text" appended. */
int lat_setup_fail(struct lat_setup *s, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* Adds to the warnings. */
void lat_setup_warn(struct lat_setup *s, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* Writes text to an existing file. 0 or negative errno. */
int lat_write_file(const char *path, const char *text);

/* protocol.c: fds may be NULL when there are none. receive: *nfds is the room, then the count;
 * -EPIPE at the end. */
int lat_msg_send(int socket, const struct lat_msg *msg, const int *fds, size_t nfds);
int lat_msg_receive(int socket, struct lat_msg *msg, int *fds, size_t *nfds);

/* Before the fork. */
int lat_identity_plan(struct lat_setup *s);
void lat_mounts_plan(struct lat_setup *s);
/* Steps of init. */
int lat_identity_outer(struct lat_setup *s);
int lat_network_up(struct lat_setup *s);
int lat_network_sysctls(struct lat_setup *s);
int lat_trap_install(struct lat_setup *s);
int lat_sockets_open(struct lat_setup *s);
int lat_mounts_set(struct lat_setup *s);
/* Shows the file or folder read-only at its place; one that is not there is fine. */
int lat_mounts_protect(struct lat_setup *s, const char *path);
/* Makes the mount read-only that has its root at path. 0 or negative errno. */
int lat_mounts_readonly(const char *path);
/* The kernel's own file systems: nothing there can be written, and bpffs is not seen. */
int lat_kernelfs_protect(struct lat_setup *s);
/* Calls each for every mount that is seen here, until it returns other than 0. Returns that, or
 * negative errno. */
int lat_kernelfs_each(int (*each)(void *ctx, const char *point, const char *type), void *ctx);
/* Is it a file system of cgroups (statfs(2))? */
bool lat_kernelfs_is_cgroup(long type);
/* While the sandbox lives: one transparent UDP socket, or negative errno. */
int lat_sockets_udp(bool ipv6);
/* A bound netlink socket of this network namespace, or negative errno. */
int lat_sockets_netlink(int protocol);

/* Life of the processes; neither returns. */
_Noreturn void lat_init_main(struct lat_setup *s);
_Noreturn void lat_command_main(struct lat_setup *s);
/* The last step: exec, or the failure to s->command. */
_Noreturn void lat_command_become(struct lat_setup *s);
/* plain.c: the launch without a sandbox. 0, or negative errno with s->failure filled. */
int lat_launch_plain(struct lat_setup *s, struct lat_sandbox *out);
/* Writes the maps of the command's user namespace (by init). */
int lat_identity_inner(struct lat_setup *s, pid_t pid);
/* Gives up every capability of the command's process, for good. */
int lat_identity_drop(struct lat_setup *s);
/* Puts the null device in place of what must not come in as descriptor 0, 1 or 2. */
void lat_stdio_clean(void);
/* The self-check, in the command's process: a bit set of enum lat_probe that was not refused; *ran:
 * how many were tried. */
int lat_probe_run(const struct lat_setup *s, uint32_t *ran);

#endif
