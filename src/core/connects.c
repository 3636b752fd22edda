/* One notification at a time: duplicate of the socket, copy of the address, is the caller still in this call, decide on
 * duplicate and copy, connect the duplicate. See connects.h.
 *
 * A blocking caller is served by the duplicate in non-blocking mode. O_NONBLOCK belongs to the socket, not to the
 * descriptor, so it is set around the one call and restored; the guard covers a caller that clears it in between. The
 * answer then waits in the table of waits until the duplicate is writable. A caller that got a signal is out of its call
 * (the notification is gone, the socket goes on connecting); when the call is restarted it meets EALREADY and waits again.
 */
#include "core/connects_parts.h"
#include "base/clock.h"
#include "base/mem.h"
#include "core/unixpath.h"
#include "kernel/diag.h"
#include "kernel/notify.h"
#include "launcher/launcher.h"
#include <linux/audit.h>
#include <linux/netlink.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/un.h>

#define ADDRESS_MAX 128 /* sizeof(struct sockaddr_storage): longer ones are EINVAL in the kernel */
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#define I386_CONNECT 362

void lat_connects_answer(struct lat_connects *c, uint64_t id, int error)
{
	int r = lat_notify_respond(c->notify, id, 0, error);

	if (r == -ENOENT)
		c->stats.gone++;
	else if (r < 0)
		c->stats.errors++;
}

/* The duplicate is closed first: with the answer the caller may close its socket, and expects its end. */
static void reply(struct lat_connects *c, struct lat_connects_request *q, int error)
{
	lat_close(&q->fd);
	lat_connects_answer(c, q->id, error);
}

/* Nothing could be judged: the call fails, and says so to the audit. */
void lat_connects_fail(struct lat_connects *c, struct lat_connects_request *q, int error, const char *what)
{
	c->stats.errors++;
	if (c->hooks->failed)
		c->hooks->failed(c->hooks->ctx, what, error, &q->who);
	reply(c, q, error);
}

static int option(int fd, int name, int *out)
{
	socklen_t n = sizeof(*out);

	return getsockopt(fd, SOL_SOCKET, name, out, &n) < 0 ? -errno : 0;
}

static uint64_t netns_cookie(int fd)
{
	uint64_t cookie = 0;
	socklen_t n = sizeof(cookie);

	return getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &n) == 0 ? cookie : 0;
}

int lat_connects_local(int fd, struct lat_addr *local, uint16_t *sport)
{
	struct sockaddr_storage ss;
	socklen_t n = sizeof(ss);

	if (getsockname(fd, (struct sockaddr *)&ss, &n) < 0)
		return -errno;
	return lat_addr_from_sockaddr((struct sockaddr *)&ss, n, local, sport);
}

/* The source port is known now: later the flow's first packet asks who sent it. */
static void remember(struct lat_connects *c, const struct lat_connects_request *q)
{
	struct lat_addr local, remote;
	uint16_t sport, dport;

	if (lat_addr_from_sockaddr((const struct sockaddr *)&q->address, q->len, &remote, &dport) < 0 ||
		lat_connects_local(q->fd, &local, &sport) < 0)
		return;
	if (lat_addr_is_any(&remote))
		lat_addr_parse(lat_addr_is4(&local) ? "127.0.0.1" : "::1", &remote);
	lat_callers_remember(c->callers, q->type == SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP, sport, &remote, &q->who);
}

bool lat_connects_own(const struct lat_connects *c, const struct lat_addr *a)
{
	return lat_addr_is_any(a) || lat_addr_equal(a, &c->own4) || lat_addr_equal(a, &c->own6);
}

/* Errno of an early refusal, or 0: the wall judges. */
static int ask_tcp(struct lat_connects *c, const struct lat_connects_request *q)
{
	struct lat_flow flow = { .proto = IPPROTO_TCP, .dir = LAT_DIR_OUT };
	int error;

	if (q->type != SOCK_STREAM || (q->protocol != IPPROTO_TCP && q->protocol != IPPROTO_MPTCP))
		return 0;
	/* An address that is none for this socket: the kernel says so. */
	if (lat_addr_from_sockaddr((const struct sockaddr *)&q->address, q->len, &flow.remote, &flow.dport) < 0)
		return 0;
	if (lat_connects_own(c, &flow.remote) || lat_addr_is_loopback(&flow.remote))
		return 0;
	error = c->hooks->tcp(c->hooks->ctx, &flow, &q->who);
	if (error)
		c->stats.refused++;
	return error < 0 ? EACCES : error;
}

/* How a connect under way went, -EINPROGRESS if it goes on. What is settled stays so: the connect that tells does not
 * wait, whatever mode the socket is in. */
static int settle(struct lat_connects *c, const struct lat_connects_request *q)
{
	struct pollfd p = { q->fd, POLLOUT, 0 };
	int r;

	if (poll(&p, 1, 0) != 1)
		return -EINPROGRESS;
	lat_guard_enter(c->guard);
	r = connect(q->fd, (const struct sockaddr *)&q->address, q->len) < 0 && errno != EISCONN ? -errno : 0;
	lat_guard_leave(c->guard);
	return r == -EINTR ? -EINPROGRESS : r;
}

/* Behind the programs of a group: what they decide is theirs, also of this call that is made here; a question is asked. */
static void connect_asking(struct lat_connects *c, struct lat_connects_request *q)
{
	struct lat_flow flow = { .proto = q->type == SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP, .dir = LAT_DIR_OUT };
	bool blocking;
	int r = 0;

	if ((q->type == SOCK_STREAM || q->type == SOCK_DGRAM) && q->address.ss_family != AF_UNSPEC &&
		lat_addr_from_sockaddr((const struct sockaddr *)&q->address, q->len, &flow.remote, &flow.dport) == 0)
		r = c->hooks->ask(c->hooks->ctx, ++c->asked, &flow, &q->who);
	if (r == -EINPROGRESS) {
		lat_connects_wait(c, q, LAT_WAIT_ASKED, -1, ETIMEDOUT);
		return;
	}
	if (r) {
		c->stats.refused++;
		reply(c, q, r < 0 ? EACCES : r);
		return;
	}
	r = lat_connects_try(c, q->fd, q->type, &q->address, q->len, -1, &blocking);
	if (blocking && (r == -EINPROGRESS || r == -EALREADY))
		lat_connects_wait(c, q, LAT_WAIT_EPOLL, -1, -r);
	else
		reply(c, q, -r);
}

static void connect_inet(struct lat_connects *c, struct lat_connects_request *q)
{
	bool blocking;
	int r;

	if (!lat_connects_dial(c, q, &r, &blocking)) {
		int error = ask_tcp(c, q);

		if (error) {
			reply(c, q, error);
			return;
		}
		r = lat_connects_try(c, q->fd, q->type, &q->address, q->len, -1, &blocking);
		if ((r == 0 || r == -EINPROGRESS) && q->address.ss_family != AF_UNSPEC)
			remember(c, q);
	}
	if (r == -EINPROGRESS && c->hooks->started) {
		c->hooks->started(c->hooks->ctx);
		if (blocking)
			r = settle(c, q);
	}
	if (blocking && (r == -EINPROGRESS || r == -EALREADY))
		lat_connects_wait(c, q, LAT_WAIT_EPOLL, -1, -r);
	else
		reply(c, q, -r);
}

/* Was the socket file made after the sandbox began? One that is older cannot have been bound inside, whatever 32 bits of
 * its inode number say. The clock may have been set since: the earlier reading of the start counts. */
static bool born_inside(const struct lat_connects *c, const struct lat_unix_file *f)
{
	uint64_t since_ms = (lat_now_ns() - c->born_ns) / LAT_NS_PER_MS;
	uint64_t start = lat_wall_ms() - since_ms;

	return f->born_ms == 0 || f->born_ms + 20 >= (start < c->born_ms ? start : c->born_ms);
}

/* Does a rule open the socket? *stale: nobody listens on the file; that is told as such, so that programs replace what they
 * left behind. */
static bool outside_allowed(struct lat_connects *c, const struct lat_connects_request *q, const struct lat_unix_file *f,
	bool *stale)
{
	char bound[LAT_UNIX_PATH_MAX] = "";

	*stale = lat_diag_unix_listens(c->host_diag, f->dev, f->ino, bound, sizeof(bound)) == 0;
	return c->hooks->unix_path(c->hooks->ctx, f->real, bound, f->st.st_dev, f->st.st_ino, &q->who);
}

/* Does somebody inside listen on the file? */
static bool listens_inside(struct lat_connects *c, const struct lat_unix_file *f)
{
	uint32_t inode;

	if (c->hooks->inside)
		return lat_diag_unix_listener(c->diag, f->dev, f->ino, &inode) == 1 &&
		       c->hooks->inside(c->hooks->ctx, inode);
	return born_inside(c, f) && lat_diag_unix_listens(c->diag, f->dev, f->ino, NULL, 0) == 1;
}

static void connect_unix_path(struct lat_connects *c, struct lat_connects_request *q, const char *path)
{
	struct lat_unix_file f;
	bool blocking, stale;
	int r = lat_unix_open(c->root, q->task, path, &f);

	if (r < 0) {
		reply(c, q, -r);
		return;
	}
	if (listens_inside(c, &f)) {
		c->stats.unix_inside++;
	} else if (!outside_allowed(c, q, &f, &stale)) {
		c->stats.unix_refused++;
		lat_close(&f.fd);
		reply(c, q, stale ? ECONNREFUSED : EACCES);
		return;
	}
	r = lat_connects_try(c, q->fd, q->type, NULL, 0, f.fd, &blocking);
	if (r == -EAGAIN && blocking) {
		lat_connects_wait(c, q, LAT_WAIT_RETRY, f.fd, EAGAIN);
		return;
	}
	lat_close(&f.fd);
	reply(c, q, -r);
}

/* An abstract name belongs to the network namespace: where that is not the sandbox's alone, errno or 0. No rule can open
 * one of the outside. */
static int refuse_abstract(struct lat_connects *c, const struct lat_connects_request *q)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)&q->address;
	size_t len = q->len - offsetof(struct sockaddr_un, sun_path) - 1;
	char shown[LAT_UNIX_PATH_MAX] = "@";
	uint32_t inode;
	int r;

	if (!c->hooks->inside)
		return 0;
	r = lat_diag_unix_abstract(c->diag, un->sun_path + 1, len, &inode);
	if (r <= 0)
		return r == 0 ? ECONNREFUSED : EACCES;
	if (c->hooks->inside(c->hooks->ctx, inode)) {
		c->stats.unix_inside++;
		return 0;
	}
	for (size_t i = 0; i < len && i + 2 < sizeof(shown); i++)
		shown[i + 1] = un->sun_path[i + 1] ? un->sun_path[i + 1] : '@';
	if (c->hooks->unix_path(c->hooks->ctx, shown, "", 0, 0, &q->who))
		return 0;
	c->stats.unix_refused++;
	return EACCES;
}

static void connect_unix(struct lat_connects *c, struct lat_connects_request *q)
{
	char path[LAT_UNIX_PATH_MAX];
	enum lat_unix_kind kind = lat_unix_parse(&q->address, q->len, path);
	bool blocking;
	int r;

	if (kind == LAT_UNIX_PATH) {
		connect_unix_path(c, q, path);
		return;
	}
	r = kind == LAT_UNIX_ABSTRACT ? refuse_abstract(c, q) : 0;
	if (r) {
		reply(c, q, r);
		return;
	}
	/* An abstract name of the inside; the rest is an error, or dissolves a datagram socket. */
	r = lat_connects_try(c, q->fd, q->type, &q->address, q->len, -1, &blocking);
	if (r == -EAGAIN && blocking)
		lat_connects_wait(c, q, LAT_WAIT_RETRY, -1, EAGAIN);
	else
		reply(c, q, -r);
}

/* Only "back to the kernel": as owner of the namespace we may name other netlink sockets, ours among them; the caller may
 * not. */
static void connect_netlink(struct lat_connects *c, struct lat_connects_request *q)
{
	const struct sockaddr_nl *nl = (const struct sockaddr_nl *)&q->address;
	bool blocking;

	if (nl->nl_family == AF_NETLINK && q->len >= sizeof(*nl) && (nl->nl_pid || nl->nl_groups))
		reply(c, q, EPERM);
	else
		reply(c, q, -lat_connects_try(c, q->fd, SOCK_DGRAM, &q->address, q->len, -1, &blocking));
}

static bool is_connect(const struct lat_notify_call *call)
{
#ifdef __x86_64__
	if (call->arch == AUDIT_ARCH_I386)
		return call->nr == I386_CONNECT;
	return call->arch == AUDIT_ARCH_X86_64 && call->nr == SYS_connect;
#else
	return call->nr == SYS_connect;
#endif
}

/* Fills the request from the caller's descriptor and memory. 0; positive: the errno of the call; negative: what we could
 * not do, told in *what. */
static int take(struct lat_connects *c, const struct lat_notify_call *call, struct lat_connects_request *q, const char **what)
{
	int len = (int)call->args[2];
	uint64_t cookie;
	int r;

	*what = "the caller's descriptor cannot be had";
	q->fd = lat_callers_getfd(c->callers, call->tid, (int)call->args[0], &q->task);
	if (q->fd < 0)
		return q->fd == -EBADF ? EBADF : q->fd;
	lat_callers_who(c->callers, q->task, &q->who);
	if (len < 0 || len > ADDRESS_MAX)
		return EINVAL;
	*what = "the caller's memory cannot be read";
	q->len = (socklen_t)len;
	r = lat_proc_read(call->tid, call->arch == AUDIT_ARCH_I386 ? (uint32_t)call->args[1] : call->args[1],
		&q->address, (size_t)len);
	if (r < 0)
		return r == -EFAULT ? EFAULT : r;
	r = option(q->fd, SO_DOMAIN, &q->domain);
	if (r < 0)
		return r == -ENOTSOCK || r == -EBADF ? -r : r;
	*what = "the caller's socket cannot be told";
	q->type = SOCK_STREAM; /* as all of TCP */
	if (option(q->fd, SO_PROTOCOL, &q->protocol) < 0 ||
	    ((q->protocol != IPPROTO_TCP || (q->domain != AF_INET && q->domain != AF_INET6)) &&
		    option(q->fd, SO_TYPE, &q->type) < 0))
		return -EACCES;
	*what = "the socket belongs to another network namespace";
	cookie = netns_cookie(q->fd);
	return cookie == c->netns_cookie ? 0 : -EACCES;
}

static void handle(struct lat_connects *c, const struct lat_notify_call *call)
{
	struct lat_connects_request q = { .id = call->id, .fd = -1 };
	const char *what;
	int r;

	c->stats.notified++;
	if (!is_connect(call)) {
		lat_connects_fail(c, &q, ENOSYS, "a call that is no connect");
		return;
	}
	r = take(c, call, &q, &what);
	/* Still in this call: so task, descriptor and memory were the caller's own all along. */
	if (!lat_notify_valid(c->notify, q.id)) {
		c->stats.gone++;
	} else if (r == -EMFILE || r == -ENFILE) {
		lat_connects_fail(c, &q, ECONNREFUSED, "the supervisor has no free descriptor");
	} else if (r < 0) {
		lat_connects_fail(c, &q, EACCES, what);
	} else if (r > 0) {
		reply(c, &q, r);
	} else if (q.domain == AF_INET || q.domain == AF_INET6) {
		if (c->hooks->ask)
			connect_asking(c, &q);
		else
			connect_inet(c, &q);
	} else if (q.domain == AF_UNIX) {
		connect_unix(c, &q);
	} else if (q.domain == AF_NETLINK) {
		connect_netlink(c, &q);
	} else {
		lat_connects_fail(c, &q, EACCES, "a socket of an unknown family");
	}
	lat_close(&q.fd);
}

static void notify_ready(struct lat_poll_item *item, uint32_t events)
{
	struct lat_connects *c = lat_container_of(item, struct lat_connects, item);
	struct lat_notify_call call;
	int r;

	if (!(events & EPOLLIN)) { /* no task has the filter any more */
		lat_poller_del(c->poller, item);
		return;
	}
	r = lat_notify_receive(c->notify, &call);
	if (r == 0)
		handle(c, &call);
	else if (r == -EAGAIN)
		c->stats.gone++;
	else
		c->stats.errors++;
}

int lat_connects_new(const struct lat_connects_options *options, struct lat_connects **out)
{
	struct lat_connects *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->poller = options->poller;
	c->hooks = options->hooks;
	c->notify = options->notify;
	c->diag = options->diag;
	c->root = options->root;
	c->born_ms = lat_wall_ms();
	c->born_ns = lat_now_ns();
	c->netns_cookie = netns_cookie(c->diag);
	lat_addr_parse(LAT_TRAP_ADDR4, &c->own4);
	lat_addr_parse(LAT_TRAP_ADDR6, &c->own6);
	lat_connects_init_waits(c);
	c->item = (struct lat_poll_item){ .fd = -1, .ready = notify_ready };
	c->host_diag = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
	r = c->host_diag < 0 ? -errno : 0;
	if (r == 0)
		r = lat_notify_init(c->notify);
	if (r == 0)
		r = lat_callers_new(c->diag, &c->callers);
	if (r == 0)
		r = lat_guard_new(&c->guard);
	if (r == 0) {
		c->item.fd = c->notify;
		r = lat_poller_add(c->poller, &c->item, EPOLLIN);
	}
	if (r < 0) {
		c->item.fd = -1;
		lat_connects_free(c);
		return r;
	}
	*out = c;
	return 0;
}

void lat_connects_free(struct lat_connects *c)
{
	if (!c)
		return;
	lat_connects_end_waits(c);
	lat_poller_del(c->poller, &c->item);
	lat_guard_free(c->guard);
	lat_callers_free(c->callers);
	lat_close(&c->host_diag);
	free(c);
}

bool lat_connects_identify(struct lat_connects *c, const struct lat_flow *flow, struct lat_identity *who)
{
	return lat_callers_find(c->callers, flow, who);
}

void lat_connects_get_stats(const struct lat_connects *c, struct lat_connects_stats *out)
{
	*out = c->stats;
}
