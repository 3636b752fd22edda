/* See diag.h. Replies of an earlier question that went wrong are told by their sequence number and skipped. */
#include "kernel/diag.h"
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <string.h>
#include <sys/sysmacros.h>

#define STATE_LISTEN 10 /* TCP_LISTEN, which unix sockets use too */
#define MAX_RECORDS 65536
#ifndef INET_DIAG_CGROUP_ID
#define INET_DIAG_CGROUP_ID 21
#endif

static uint32_t sequence;

static int ask(int fd, void *request, size_t size)
{
	struct nlmsghdr *h = request;
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };

	h->nlmsg_len = (uint32_t)size;
	h->nlmsg_seq = ++sequence;
	return sendto(fd, request, size, 0, (struct sockaddr *)&kernel, sizeof(kernel)) < 0 ? -errno : 0;
}

/* One datagram of the kernel's. Its length, or negative errno. */
static ssize_t receive(int fd, void *buf, size_t size)
{
	struct sockaddr_nl from;
	struct iovec iov = { buf, size };
	struct msghdr m = { .msg_name = &from, .msg_iov = &iov, .msg_iovlen = 1 };

	for (;;) {
		ssize_t n;

		m.msg_namelen = sizeof(from);
		n = recvmsg(fd, &m, MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (m.msg_flags & MSG_TRUNC)
			return -EMSGSIZE;
		if (m.msg_namelen == sizeof(from) && from.nl_pid == 0)
			return n;
	}
}

/* Calls `each` for every record that answers the last question: 0 goes on, anything else is the result. At the end of
 * the answer the result is 0. */
static int answers(int fd, bool dump, int (*each)(const struct nlmsghdr *h, void *arg), void *arg)
{
	_Alignas(struct nlmsghdr) char buf[16384];
	int result = 0;

	for (;;) {
		ssize_t n = receive(fd, buf, sizeof(buf));
		size_t left = (size_t)n;

		if (n < 0)
			return (int)n;
		for (struct nlmsghdr *h = (struct nlmsghdr *)buf; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
			if (h->nlmsg_seq != sequence)
				continue;
			if (h->nlmsg_type == NLMSG_DONE)
				return result;
			if (h->nlmsg_type == NLMSG_ERROR) {
				const struct nlmsgerr *e = NLMSG_DATA(h);

				if (h->nlmsg_len < NLMSG_LENGTH(sizeof(*e)))
					return -EPROTO;
				return e->error ? e->error : result;
			}
			if (result == 0) /* after a result the rest of a dump is only drained */
				result = each(h, arg);
			if (!dump && result)
				return result;
		}
	}
}

struct inet_question {
	uint16_t local_port; /* network order */
	struct lat_diag_socket found;
};

static int inet_answer(const struct nlmsghdr *h, void *arg)
{
	struct inet_question *q = arg;
	const struct inet_diag_msg *d = NLMSG_DATA(h);
	int left;

	if (h->nlmsg_len < NLMSG_LENGTH(sizeof(*d)))
		return -EPROTO;
	if (d->id.idiag_sport != q->local_port)
		return -ENOENT;
	q->found = (struct lat_diag_socket){ .inode = d->idiag_inode, .uid = d->idiag_uid };
	left = (int)h->nlmsg_len - (int)NLMSG_LENGTH(sizeof(*d));
	for (const struct rtattr *a = (const struct rtattr *)(d + 1); RTA_OK(a, left); a = RTA_NEXT(a, left))
		if (a->rta_type == INET_DIAG_CGROUP_ID && RTA_PAYLOAD(a) >= sizeof(q->found.cgroup))
			memcpy(&q->found.cgroup, RTA_DATA(a), sizeof(q->found.cgroup));
	return 1;
}

static void put_addr(__be32 to[4], const struct lat_addr *a, bool four)
{
	if (four)
		memcpy(to, a->b + 12, 4);
	else
		memcpy(to, a->b, 16);
}

static int inet_ask(int fd, uint8_t proto, bool four, const struct lat_addr *src, uint16_t sport,
	const struct lat_addr *dst, uint16_t dport, struct inet_question *q)
{
	struct {
		struct nlmsghdr h;
		struct inet_diag_req_v2 r;
	} m = { .h = { .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST },
		.r = { .sdiag_family = four ? AF_INET : AF_INET6, .sdiag_protocol = proto,
			.idiag_states = ~0u,
			.id = { .idiag_sport = htons(sport), .idiag_dport = htons(dport),
				.idiag_cookie = { INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE } } } };
	int r;

	put_addr(m.r.id.idiag_src, src, four);
	put_addr(m.r.id.idiag_dst, dst, four);
	r = ask(fd, &m, sizeof(m));
	if (r == 0)
		r = answers(fd, false, inet_answer, q);
	return r == 1 ? 0 : r == 0 ? -ENOENT : r;
}

int lat_diag_inet(int fd, uint8_t proto, const struct lat_addr *local, uint16_t local_port,
	const struct lat_addr *remote, uint16_t remote_port, struct lat_diag_socket *out)
{
	struct inet_question q = { .local_port = htons(local_port) };
	bool four = lat_addr_is4(local) && lat_addr_is4(remote);
	int r;

	if (proto != IPPROTO_TCP && proto != IPPROTO_UDP)
		return -EPROTONOSUPPORT;
	/* Since 5.11 the exact UDP question has source and destination the other way round; before, as for TCP. */
	if (proto == IPPROTO_UDP)
		r = inet_ask(fd, proto, four, remote, remote_port, local, local_port, &q);
	else
		r = inet_ask(fd, proto, four, local, local_port, remote, remote_port, &q);
	if (r == -ENOENT && proto == IPPROTO_UDP)
		r = inet_ask(fd, proto, four, local, local_port, remote, remote_port, &q);
	if (r < 0)
		return r;
	*out = q.found;
	return 0;
}

struct unix_question {
	uint32_t dev, ino;
	unsigned seen;
	char *name; /* or NULL */
	size_t size;
	const void *abstract; /* instead of dev and ino, or NULL */
	size_t abstract_len;
	uint32_t inode; /* of the socket that was found */
};

static bool is_abstract(const struct unix_question *q, const struct rtattr *a)
{
	const char *text = RTA_DATA(a);

	return q->abstract && RTA_PAYLOAD(a) == q->abstract_len + 1 && text[0] == '\0' &&
	       memcmp(text + 1, q->abstract, q->abstract_len) == 0;
}

/* The listener's name, without the NUL that may end it in the record. */
static void take_name(struct unix_question *q, const struct rtattr *a)
{
	const char *text = RTA_DATA(a);
	size_t len = strnlen(text, RTA_PAYLOAD(a));

	if (!q->name || !q->size)
		return;
	if (len >= q->size)
		len = 0;
	memcpy(q->name, text, len);
	q->name[len] = '\0';
}

static int unix_answer(const struct nlmsghdr *h, void *arg)
{
	struct unix_question *q = arg;
	const struct unix_diag_msg *d = NLMSG_DATA(h);
	int left = (int)h->nlmsg_len - (int)NLMSG_LENGTH(sizeof(*d));
	const struct rtattr *name = NULL;
	bool found = false;

	if (left < 0)
		return -EPROTO;
	if (++q->seen > MAX_RECORDS)
		return -E2BIG;
	if (d->udiag_state != STATE_LISTEN)
		return 0;
	for (const struct rtattr *a = (const struct rtattr *)(d + 1); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
		const struct unix_diag_vfs *v = RTA_DATA(a);

		if (a->rta_type == UNIX_DIAG_NAME) {
			name = a;
			found = found || is_abstract(q, a);
		}
		if (!q->abstract && a->rta_type == UNIX_DIAG_VFS && RTA_PAYLOAD(a) >= sizeof(*v) &&
			v->udiag_vfs_ino == q->ino && v->udiag_vfs_dev == q->dev)
			found = true;
	}
	if (found && name)
		take_name(q, name);
	if (found)
		q->inode = d->udiag_ino;
	return found;
}

static int unix_ask(int fd, struct unix_question *q)
{
	struct {
		struct nlmsghdr h;
		struct unix_diag_req r;
	} m = { .h = { .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
		.r = { .sdiag_family = AF_UNIX, .udiag_states = 1u << STATE_LISTEN,
			.udiag_show = (q->abstract ? 0 : UDIAG_SHOW_VFS) |
				(q->abstract || q->name ? UDIAG_SHOW_NAME : 0) } };
	int r = ask(fd, &m, sizeof(m));

	return r < 0 ? r : answers(fd, true, unix_answer, q);
}

static uint32_t kernel_dev(dev_t dev)
{
	return (uint32_t)(major(dev) << 20 | minor(dev));
}

int lat_diag_unix_listens(int fd, dev_t dev, ino_t ino, char *name, size_t size)
{
	struct unix_question q = { .dev = kernel_dev(dev), .ino = (uint32_t)ino, .name = name, .size = size };

	if (name && size)
		name[0] = '\0';
	return unix_ask(fd, &q);
}

int lat_diag_unix_listener(int fd, dev_t dev, ino_t ino, uint32_t *inode)
{
	struct unix_question q = { .dev = kernel_dev(dev), .ino = (uint32_t)ino };
	int r = unix_ask(fd, &q);

	if (r == 1)
		*inode = q.inode;
	return r;
}

int lat_diag_unix_abstract(int fd, const void *name, size_t len, uint32_t *inode)
{
	struct unix_question q = { .abstract = name, .abstract_len = len };
	int r = unix_ask(fd, &q);

	if (r == 1)
		*inode = q.inode;
	return r;
}
