/* Messages to the supervisor: a socket for each, closed at once. */
#include "shim.h"
#include <sys/un.h>

static int dial(const char *leaf, int type, struct sockaddr_un *to)
{
	int fd;

	memset(to, 0, sizeof(*to));
	to->sun_family = AF_UNIX;
	if (!lat_shim_path(leaf, to->sun_path))
		return -ENOENT;
	fd = (int)syscall(SYS_socket, AF_UNIX, type | SOCK_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

/* Signals that the program has handlers for do not end what was begun. */
static long again(long r)
{
	return r < 0 && errno == EINTR;
}

static int connected(const char *leaf, int type)
{
	struct sockaddr_un to;
	int fd = dial(leaf, type, &to);
	long r;

	if (fd < 0)
		return fd;
	do {
		r = syscall(SYS_connect, fd, &to, sizeof(to));
	} while (again(r));
	if (r < 0) {
		int e = errno;

		syscall(SYS_close, fd);
		return -e;
	}
	return fd;
}

/* Into the ring. false: it is full, or not there. */
static bool put(const struct lat_shim_message *m, bool *wake)
{
	int home;
	struct lat_shim_ring *ring = lat_shim_ring(&home);
	uint64_t at, tail;
	struct lat_shim_slot *slot;

	if (!ring)
		return false;
	at = __atomic_load_n(&ring->head, __ATOMIC_SEQ_CST);
	do {
		tail = __atomic_load_n(&ring->tail, __ATOMIC_SEQ_CST);
		if (at - tail >= LAT_SHIM_SLOTS)
			return false;
	} while (!__atomic_compare_exchange_n(&ring->head, &at, at + 1, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
	slot = &ring->slots[at % LAT_SHIM_SLOTS];
	slot->pid = lat_shim_pid();
	slot->home = home;
	slot->message = *m;
	__atomic_store_n(&slot->turn, at + 1, __ATOMIC_SEQ_CST);
	*wake = __atomic_exchange_n(&ring->asleep, 0, __ATOMIC_SEQ_CST) != 0;
	return true;
}

static int send_datagram(const struct lat_shim_message *m)
{
	struct sockaddr_un to;
	int fd = dial("tell", SOCK_DGRAM, &to), e;
	long r;

	if (fd < 0)
		return fd;
	do {
		r = syscall(SYS_sendto, fd, m, sizeof(*m), MSG_NOSIGNAL, &to, sizeof(to));
	} while (again(r));
	e = r < 0 ? -errno : 0;
	syscall(SYS_close, fd);
	return e;
}

int lat_shim_tell(const struct lat_shim_message *m)
{
	struct lat_shim_message up = { .magic = LAT_SHIM_MAGIC, .abi = LAT_SHIM_ABI, .type = LAT_SHIM_WAKE };
	bool wake = false;

	if (!put(m, &wake))
		return send_datagram(m);
	return wake ? send_datagram(&up) : 0;
}

static int receive(int fd, struct lat_shim_reply *reply, int *fds)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(LAT_SHIM_FDS * sizeof(int))];
	} control;
	struct iovec io = { reply, sizeof(*reply) };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1 };
	struct cmsghdr *c;
	size_t count = 0;
	long r;

	if (fds) {
		m.msg_control = control.room;
		m.msg_controllen = sizeof(control.room);
	}
	do {
		r = syscall(SYS_recvmsg, fd, &m, MSG_CMSG_CLOEXEC);
	} while (again(r));
	if (r < 0)
		return -errno;
	c = fds ? CMSG_FIRSTHDR(&m) : NULL;
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++)
			memcpy(&fds[i], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
	}
	if (r != (long)sizeof(*reply) || reply->magic != LAT_SHIM_MAGIC || reply->abi != LAT_SHIM_ABI || (fds && count != LAT_SHIM_FDS))
		return -EBADMSG;
	return 0;
}

int lat_shim_ask(const struct lat_shim_message *m, struct lat_shim_reply *reply, int *fds)
{
	int fd = connected("ask", SOCK_SEQPACKET), e;
	long r;

	if (fd < 0)
		return fd;
	do {
		r = syscall(SYS_sendto, fd, m, sizeof(*m), MSG_NOSIGNAL, NULL, 0);
	} while (again(r));
	e = r < 0 ? -errno : receive(fd, reply, fds);
	syscall(SYS_close, fd);
	return e;
}

static int transfer(int fd, bool out, void *at, size_t len)
{
	for (size_t done = 0; done < len;) {
		long r = out ? syscall(SYS_sendto, fd, (char *)at + done, len - done, MSG_NOSIGNAL, NULL, 0)
			     : syscall(SYS_recvfrom, fd, (char *)at + done, len - done, 0, NULL, NULL);

		if (again(r))
			continue;
		if (r <= 0)
			return r < 0 ? -errno : -ECONNRESET;
		done += (size_t)r;
	}
	return 0;
}

int lat_shim_dns(const void *query, size_t len, void *answer, size_t size)
{
	uint8_t length[2] = { (uint8_t)(len >> 8), (uint8_t)len };
	int fd = connected("dns", SOCK_STREAM), r;
	size_t n = 0;

	if (fd < 0)
		return fd;
	r = transfer(fd, true, length, 2);
	if (r == 0)
		r = transfer(fd, true, (void *)query, len);
	if (r == 0)
		r = transfer(fd, false, length, 2);
	if (r == 0) {
		n = (size_t)length[0] << 8 | length[1];
		r = n > size ? -EMSGSIZE : transfer(fd, false, answer, n);
	}
	syscall(SYS_close, fd);
	return r < 0 ? r : (int)n;
}
