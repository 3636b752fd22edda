/* The calls themselves. Each copies the address, has it judged, and hands the copy on: what the program's other threads do to
 * its memory meanwhile changes nothing. */
#include "shim.h"
#include "filter/filter.h"
#include <linux/seccomp.h>
#include <netinet/in.h>

#define MOST_ADDRESS sizeof(struct sockaddr_storage)
#define SMALLEST_ADDRESS sizeof(sa_family_t)
#define MOST_MESSAGES 1024u /* as the kernel */

#define NEXT(which, type) ((type)__atomic_load_n(&lat_shim_next[which], __ATOMIC_RELAXED))

static int refuse(int error)
{
	errno = error;
	return -1;
}

/* What comes after us: another library's, or libc's; or the kernel, when there is none (or none yet). */
static int next_connect(int fd, const struct sockaddr *to, socklen_t len)
{
	int (*next)(int, const struct sockaddr *, socklen_t) = NEXT(LAT_NEXT_CONNECT, __typeof__(next));

	return next ? next(fd, to, len) : (int)syscall(SYS_connect, fd, to, len);
}

static int next_bind(int fd, const struct sockaddr *at, socklen_t len)
{
	int (*next)(int, const struct sockaddr *, socklen_t) = NEXT(LAT_NEXT_BIND, __typeof__(next));

	return next ? next(fd, at, len) : (int)syscall(SYS_bind, fd, at, len);
}

static int next_listen(int fd, int backlog)
{
	int (*next)(int, int) = NEXT(LAT_NEXT_LISTEN, __typeof__(next));

	return next ? next(fd, backlog) : (int)syscall(SYS_listen, fd, backlog);
}

static ssize_t next_sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t len)
{
	ssize_t (*next)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) =
		NEXT(LAT_NEXT_SENDTO, __typeof__(next));

	return next ? next(fd, data, size, flags, to, len) : syscall(SYS_sendto, fd, data, size, flags, to, len);
}

static ssize_t next_sendmsg(int fd, const struct msghdr *m, int flags)
{
	ssize_t (*next)(int, const struct msghdr *, int) = NEXT(LAT_NEXT_SENDMSG, __typeof__(next));

	return next ? next(fd, m, flags) : syscall(SYS_sendmsg, fd, m, flags);
}

static int next_sendmmsg(int fd, struct mmsghdr *list, unsigned count, int flags)
{
	int (*next)(int, struct mmsghdr *, unsigned, int) = NEXT(LAT_NEXT_SENDMMSG, __typeof__(next));

	return next ? next(fd, list, count, flags) : (int)syscall(SYS_sendmmsg, fd, list, count, flags);
}

/* Is there an address that is to be looked at? Then it is in *copy. 1; 0: as it is to the kernel; -1: errno is set. */
static int take(struct sockaddr_storage *copy, const void *from, socklen_t len)
{
	int keep = errno;

	if (!from || len < SMALLEST_ADDRESS || len > MOST_ADDRESS)
		return 0;
	memset(copy, 0, sizeof(*copy));
	if (lat_shim_copy(copy, from, len) < 0)
		return refuse(EFAULT);
	errno = keep;
	return copy->ss_family == AF_INET || copy->ss_family == AF_INET6 || copy->ss_family == AF_UNSPEC;
}

LAT_HOOK(int, connect, (int fd, const struct sockaddr *to, socklen_t len))
{
	struct sockaddr_storage copy;
	int r = take(&copy, to, len);

	if (r < 0)
		return -1;
	if (r == 0)
		return next_connect(fd, to, len);
	r = lat_shim_check(fd, (struct sockaddr *)&copy, len, LAT_CALL_CONNECT);
	return r ? refuse(r < 0 ? ETIMEDOUT : r) : next_connect(fd, (struct sockaddr *)&copy, len);
}

LAT_HOOK(int, bind, (int fd, const struct sockaddr *at, socklen_t len))
{
	struct sockaddr_storage copy;
	int r = take(&copy, at, len);

	if (r < 0)
		return -1;
	if (r == 0)
		return next_bind(fd, at, len);
	r = lat_shim_check_bind(fd, (struct sockaddr *)&copy, len);
	if (r)
		return refuse(r < 0 ? EACCES : r);
	r = next_bind(fd, (struct sockaddr *)&copy, len);
	if (r == 0)
		lat_shim_bound(fd);
	return r;
}

/* A socket that was bound to port 0, or not at all, has its port now. Who comes in there is judged at accept. */
LAT_HOOK(int, listen, (int fd, int backlog))
{
	int r = next_listen(fd, backlog);

	if (r == 0)
		lat_shim_bound(fd);
	return r;
}

/* Who may not come in gets a reset, and the program the next one; where it does not wait, the kernel says that there is
 * none. */
static bool send_away(int fd)
{
	const struct linger now = { 1, 0 };
	int keep = errno;

	if (fd < 0 || lat_shim_may_stay(fd))
		return false;
	syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_LINGER, &now, (long)sizeof(now));
	syscall(SYS_close, fd);
	errno = keep;
	return true;
}

LAT_HOOK(int, accept, (int fd, struct sockaddr *from, socklen_t *len))
{
	int (*next)(int, struct sockaddr *, socklen_t *) = NEXT(LAT_NEXT_ACCEPT, __typeof__(next));
	socklen_t room = len ? *len : 0;
	int r;

	do {
		if (len)
			*len = room;
		r = next ? next(fd, from, len) : (int)syscall(SYS_accept4, fd, from, len, 0);
	} while (send_away(r));
	return r;
}

LAT_HOOK(int, accept4, (int fd, struct sockaddr *from, socklen_t *len, int flags))
{
	int (*next)(int, struct sockaddr *, socklen_t *, int) = NEXT(LAT_NEXT_ACCEPT4, __typeof__(next));
	socklen_t room = len ? *len : 0;
	int r;

	do {
		if (len)
			*len = room;
		r = next ? next(fd, from, len, flags) : (int)syscall(SYS_accept4, fd, from, len, flags);
	} while (send_away(r));
	return r;
}

static enum lat_shim_call kind(int flags)
{
	return flags & MSG_FASTOPEN ? LAT_CALL_FASTOPEN : LAT_CALL_SEND;
}

LAT_HOOK(ssize_t, sendto, (int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t len))
{
	struct sockaddr_storage copy;
	int r = take(&copy, to, len);

	if (r < 0)
		return -1;
	if (r == 0)
		return next_sendto(fd, data, size, flags, to, len);
	r = lat_shim_check(fd, (struct sockaddr *)&copy, len, kind(flags));
	if (r == LAT_SHIM_SILENT)
		return (ssize_t)size;
	return r ? refuse(r) : next_sendto(fd, data, size, flags, (struct sockaddr *)&copy, len);
}

static ssize_t length(const struct msghdr *m)
{
	ssize_t sum = 0;

	for (size_t i = 0; i < m->msg_iovlen; i++)
		sum += (ssize_t)m->msg_iov[i].iov_len;
	return sum;
}

/* An ancillary routing header sends the packet elsewhere than the address says. */
static bool rerouted(const struct msghdr *m)
{
	size_t at = 0;

	while (m->msg_control && at + sizeof(struct cmsghdr) <= m->msg_controllen) { /* CMSG_NXTHDR is a function of glibc's */
		const struct cmsghdr *c = (const struct cmsghdr *)((const char *)m->msg_control + at);

		if (c->cmsg_level == IPPROTO_IPV6 && (c->cmsg_type == IPV6_RTHDR || c->cmsg_type == IPV6_2292RTHDR))
			return true;
		if (c->cmsg_len < sizeof(*c) || c->cmsg_len > m->msg_controllen - at)
			return false; /* the kernel refuses it */
		at += CMSG_ALIGN(c->cmsg_len);
	}
	return false;
}

LAT_HOOK(ssize_t, sendmsg, (int fd, const struct msghdr *m, int flags))
{
	struct sockaddr_storage copy;
	struct msghdr own;
	int r;

	if (!m)
		return next_sendmsg(fd, m, flags);
	own = *m;
	r = take(&copy, own.msg_name, own.msg_namelen);
	if (r < 0)
		return -1;
	if (r && rerouted(&own))
		return refuse(EPERM);
	if (r == 0)
		return next_sendmsg(fd, &own, flags);
	r = lat_shim_check(fd, (struct sockaddr *)&copy, own.msg_namelen, kind(flags));
	if (r == LAT_SHIM_SILENT)
		return length(&own);
	own.msg_name = &copy;
	return r ? refuse(r) : next_sendmsg(fd, &own, flags);
}

/* One after the other, so that each goes out with the very address that was judged. */
LAT_HOOK(int, sendmmsg, (int fd, struct mmsghdr *list, unsigned count, int flags))
{
	unsigned done = 0, named = 0;

	if (count > MOST_MESSAGES)
		count = MOST_MESSAGES;
	for (unsigned i = 0; list && i < count; i++)
		named += list[i].msg_hdr.msg_name != NULL;
	if (!named)
		return next_sendmmsg(fd, list, count, flags);
	for (; done < count; done++) {
		ssize_t n = lat_hook_sendmsg(fd, &list[done].msg_hdr, flags);

		if (n < 0)
			return done ? (int)done : -1;
		list[done].msg_len = (unsigned)n;
	}
	return (int)done;
}

/* What the filter of the other modes says about a call: its errno, or 0. */
static int refused(const char *call, unsigned kind, uint32_t first, uint32_t second, uint32_t third)
{
	const uint32_t args[3] = { first, second, third };

	for (size_t i = 0; i < lat_filter_rule_count; i++) {
		const struct lat_filter_rule *rule = &lat_filter_rules[i];
		bool match = strcmp(rule->call, call) == 0 && (!rule->kinds || rule->kinds & kind);

		for (int k = 0; match && k < 3 && rule->when[k].op != LAT_FILTER_NONE; k++)
			match = (args[rule->when[k].arg % 3] & rule->when[k].mask) == rule->when[k].value;
		if (match)
			return (rule->action & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_ERRNO ? (int)(rule->action & SECCOMP_RET_DATA) : 0;
	}
	return 0;
}

/* Unix datagrams are not held at all, so there is no sense in refusing their sockets. */
LAT_HOOK(int, socket, (int domain, int type, int protocol))
{
	int (*next)(int, int, int) = NEXT(LAT_NEXT_SOCKET, __typeof__(next));
	int error = domain == AF_UNIX ? 0 : refused("socket", LAT_FILTER_TRAP, (uint32_t)domain, (uint32_t)type, (uint32_t)protocol);

	if (error)
		return refuse(error);
	return next ? next(domain, type, protocol) : (int)syscall(SYS_socket, domain, type, protocol);
}

/* Multicast groups, whose reports the kernel itself sends, and routing headers. */
LAT_HOOK(int, setsockopt, (int fd, int level, int name, const void *value, socklen_t len))
{
	int (*next)(int, int, int, const void *, socklen_t) = NEXT(LAT_NEXT_SETSOCKOPT, __typeof__(next));
	int error = level == IPPROTO_IP || level == IPPROTO_IPV6
			    ? refused("setsockopt", LAT_FILTER_TABLES, (uint32_t)fd, (uint32_t)level, (uint32_t)name)
			    : 0;

	if (error)
		return refuse(error);
	return next ? next(fd, level, name, value, len) : (int)syscall(SYS_setsockopt, fd, level, name, value, len);
}

/* The names by which libc's own objects, and old programs, know them. __libc_connect is no symbol of libc's any more, and
 * what libc calls inside itself (its own resolver) goes by no symbol at all. */
LAT_ALIAS(__connect, connect);
LAT_ALIAS(__sendmsg, sendmsg);
LAT_ALIAS(__sendmmsg, sendmmsg);
LAT_ALIAS(__setsockopt, setsockopt);
