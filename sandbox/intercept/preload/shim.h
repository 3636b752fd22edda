/* The inside of liblattice_intercept.so. Hooks never allocate, take no lock, keep no descriptor open between calls (programs
 * close what they do not know, and use the numbers again), and call the kernel by syscall(2) alone: so they may run in any
 * thread, in a child of vfork, in a signal handler, and before any constructor. Where something is odd they deny.
 *
 * Only symbols that musl has, too, may be used: a program of either libc then loads the library or runs without it. */
#ifndef LAT_SANDBOX_SHIM_H
#define LAT_SANDBOX_SHIM_H
#include "intercept/table.h"
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Defines the function that programs know as `name`; its own name here keeps clear of libc's declaration. */
#define LAT_HOOK(type, name, arguments)                                                                              \
	__attribute__((visibility("default"))) type lat_hook_##name arguments __asm__(#name);                        \
	type lat_hook_##name arguments
/* A second name of a hook. */
#define LAT_ALIAS(name, hook)                                                                                        \
	extern __typeof__(lat_hook_##hook) lat_hook_##name __asm__(#name)                                           \
		__attribute__((alias(#hook), visibility("default")))

/* state.c: where the supervisor is, and the mapped tables. */

/* The path DIR/leaf; NULL: there is no (sane) LATTICE_INTERCEPT. */
const char *lat_shim_path(const char *leaf, char buf[108]);
struct lat_shim_view {
	const struct lat_shim_image *image;
	const struct lat_shim_control *control;
	int slot;
};
/* The number of this process, without a call where that can be had. */
int lat_shim_pid(void);
/* The ring, and the process that fetched it; NULL: not yet. */
struct lat_shim_ring *lat_shim_ring(int *home);
/* The tables in force. 0, then lat_shim_release; -EAGAIN: they cannot be had now, the supervisor may be asked;
 * -ECONNREFUSED: it is gone: deny. */
int lat_shim_acquire(struct lat_shim_view *view);
void lat_shim_release(const struct lat_shim_view *view);

/* talk.c: the messages. */

/* 0, or negative errno. The supervisor will have it, or is gone. */
int lat_shim_tell(const struct lat_shim_message *message);
/* fds: LAT_SHIM_FDS for MAP, NULL otherwise. 0, or negative errno: deny. */
#define LAT_SHIM_FDS 3
int lat_shim_ask(const struct lat_shim_message *message, struct lat_shim_reply *reply, int *fds);
/* One DNS message there, one back: its length, or negative errno. */
int lat_shim_dns(const void *query, size_t len, void *answer, size_t size);

/* judge.c: decisions about calls. Each gives 0: go on; an errno: refuse the call with it; -1: do as if it were done. */
#define LAT_SHIM_SILENT (-1)

enum lat_shim_call { LAT_CALL_CONNECT, LAT_CALL_SEND, LAT_CALL_FASTOPEN };
int lat_shim_check(int fd, const struct sockaddr *to, socklen_t len, enum lat_shim_call call);
/* Before bind: `at` is the local address. */
int lat_shim_check_bind(int fd, const struct sockaddr *at, socklen_t len);
/* After accept: may who came in be there? */
bool lat_shim_may_stay(int fd);
/* After bind and listen: the port is the program's own on loopback. */
void lat_shim_bound(int fd);
/* Copies from the caller's memory as the kernel would: 0 or -EFAULT. */
int lat_shim_copy(void *to, const void *from, size_t size);

/* The next definition of a symbol, looked up when the library was loaded; NULL: none (or too early). */
enum lat_shim_next {
	LAT_NEXT_CONNECT, LAT_NEXT_BIND, LAT_NEXT_LISTEN, LAT_NEXT_SENDTO, LAT_NEXT_SENDMSG, LAT_NEXT_SENDMMSG,
	LAT_NEXT_SOCKET, LAT_NEXT_SETSOCKOPT, LAT_NEXT_ACCEPT, LAT_NEXT_ACCEPT4, LAT_NEXT_COUNT
};
extern void *lat_shim_next[LAT_NEXT_COUNT];

#endif
