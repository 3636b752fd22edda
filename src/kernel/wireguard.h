/* WireGuard, the kernel's or wireguard-go's: keys, configuration, state, behind one interface.
 *
 * Private and preshared keys live in a struct lat_wg only between reading their file and the kernel's (or wireguard-go's) word
 * that it has them; lat_wg_wipe overwrites them. They are never in an argument, the environment or a log, and from the first
 * one on this process leaves no core (lat_wg_key_load).
 *
 * Where the kernel has WireGuard it is configured by generic netlink (linux/wireguard.h). Else wireguard-go is started: on a
 * TUN device that we made and that persists (so it is marked as ours before anybody works on it; without wireguard-go
 * nothing passes), with its control socket on a file system of its own, which nobody else sees (a namesake in another
 * network namespace does not clash). All calls that talk to either may wait: not for the loop's thread. */
#ifndef LAT_KERNEL_WIREGUARD_H
#define LAT_KERNEL_WIREGUARD_H
#include "base/addr.h"
#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define LAT_WG_KEY 32
#define LAT_WG_KEY_TEXT 45 /* base64, with the end */

/* ---- keys ---- */

/* Base64 as wg(8) has it: 44 characters. 0 or -EINVAL. */
int lat_wg_key_parse(const char *text, uint8_t key[LAT_WG_KEY]);
void lat_wg_key_format(const uint8_t key[LAT_WG_KEY], char text[LAT_WG_KEY_TEXT]);
void lat_wg_key_generate(uint8_t private_key[LAT_WG_KEY]);
int lat_wg_key_public(const uint8_t private_key[LAT_WG_KEY], uint8_t public_key[LAT_WG_KEY]);
/* The key in a file (base64, one line). Besides errors of open: -EPERM when others than its owner may read or write it, -EKEYREJECTED
 * when it is neither ours nor root's, -EBADMSG when it holds no key. After the first call this process is not dumpable. */
int lat_wg_key_load(const char *path, uint8_t key[LAT_WG_KEY]);
/* Makes a file with a new private key, mode 0600; -EEXIST when there is one. */
int lat_wg_key_create(const char *path, uint8_t public_key[LAT_WG_KEY]);

/* ---- configuration and state ---- */

struct lat_wg_peer {
	uint8_t key[LAT_WG_KEY];
	uint8_t preshared[LAT_WG_KEY];  /* zeroes: none */
	bool set_preshared, set_keepalive, set_endpoint, replace_allowed, remove; /* what a set means */
	bool has_endpoint;              /* of a state: it is known */
	uint16_t keepalive, port;
	struct lat_addr endpoint;
	struct lat_prefix *allowed;
	size_t allowed_count, allowed_room;
	uint64_t rx, tx;                /* of a state, bytes */
	int64_t handshake_s;            /* of a state: seconds since the epoch, 0: never */
};

struct lat_wg {
	uint8_t private_key[LAT_WG_KEY], public_key[LAT_WG_KEY];
	bool set_private, set_listen;
	uint16_t listen;
	struct lat_wg_peer *peers;
	size_t count, room;
};

/* "192.0.2.1:51820" or "[2001:db8::1]:51820". 0, or -EINVAL with nothing changed. */
int lat_wg_endpoint_parse(const char *text, struct lat_addr *addr, uint16_t *port);
/* Adds a peer (zeroed but for its key); NULL: out of memory. Valid until the next one is added. */
struct lat_wg_peer *lat_wg_add_peer(struct lat_wg *wg, const uint8_t key[LAT_WG_KEY]);
int lat_wg_add_allowed(struct lat_wg_peer *peer, const struct lat_prefix *prefix);
/* Overwrites and frees what it holds; the struct itself is zeroed. */
void lat_wg_wipe(struct lat_wg *wg);
/* What turns `now` into `wanted` (the whole configuration): into *out, which the caller wipes. Peers that stay keep their session;
 * an endpoint is set only where wanted says so (a peer may have moved since). */
int lat_wg_diff(const struct lat_wg *now, const struct lat_wg *wanted, struct lat_wg *out);

/* ---- devices ---- */

struct lat_wg_device {
	char name[IFNAMSIZ];
	int dir; /* wireguard-go: its control socket's folder; -1: the kernel's WireGuard */
};

int lat_wg_get(const struct lat_wg_device *device, struct lat_wg *out);
/* Changes what is set in `change` and nothing else. */
int lat_wg_set(const struct lat_wg_device *device, const struct lat_wg *change);
/* get, diff, set: stale peers and allowed addresses go in the same step. */
int lat_wg_apply(const struct lat_wg_device *device, const struct lat_wg *wanted);

/* Back ends: generic netlink by the device's name; text over wireguard-go's socket. */
int lat_wg_kernel_get(const char *name, struct lat_wg *out);
int lat_wg_kernel_set(const char *name, const struct lat_wg *change);
int lat_wg_uapi_get(int dir, const char *name, struct lat_wg *out);
int lat_wg_uapi_set(int dir, const char *name, const struct lat_wg *change);

/* The texts of the control socket. format: a string to be wiped (explicit_bzero) and freed, or NULL. parse: 0, the negative errno
 * that the answer says, or -EBADMSG. */
char *lat_wg_uapi_format(const struct lat_wg *change);
int lat_wg_uapi_parse(char *text, struct lat_wg *out);

/* ---- wireguard-go ---- */

struct lat_wg_go {
	pid_t pid;
	int process; /* pidfd: readable when it has ended */
	int dir;     /* for struct lat_wg_device */
	int log;     /* what it printed, 64 KiB at most; -1 for one that was adopted */
	char shared[IFNAMSIZ]; /* its device, when its socket is in the host's folder and to be removed with it; or "" */
};

/* Starts `program` for a device of that name and waits until it can be configured. It attaches to a persistent TUN device of that
 * name, or makes one; which flags that has is its own affair and another one in each version, so it cannot be handed our
 * descriptor. It gets CAP_NET_ADMIN and nothing else, leaves no core, and outlives us: kill it, or leave it to the next agent.
 * Without CAP_SYS_ADMIN (an agent that gave it up and starts it anew) its socket is in the host's folder, for root alone;
 * -EADDRINUSE when a namesake of another network namespace has it there.
 * -EXDEV when it ended at once: *go then has its log alone. -ETIME after ten seconds. */
int lat_wg_go_start(const char *program, const char *name, struct lat_wg_go *go);
/* One that an earlier process of ours started. -ESRCH when there is none by this pid with a socket for the device. */
int lat_wg_go_adopt(pid_t pid, const char *name, struct lat_wg_go *go);
/* Kills it and waits until it holds nothing (at most five seconds); lat_wg_go_kill or _release follows, which reaps it. */
void lat_wg_go_end(const struct lat_wg_go *go);
/* Kills it and waits for its end. */
void lat_wg_go_kill(struct lat_wg_go *go);
/* Closes the descriptors; it goes on. */
void lat_wg_go_release(struct lat_wg_go *go);
/* Last lines that it printed, as one line, into buf; "" for none. */
void lat_wg_go_said(const struct lat_wg_go *go, char *buf, size_t size);

#endif
