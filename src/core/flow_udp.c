/* UDP: a socket inside, bound to the place that the program asked for and connected to the program's, and one outside,
 * connected to the real place. Datagrams are carried between them one for one, in batches.
 *
 * Where the program has a socket of the any-address on the port that it talks to (NTP does), no other can be bound there:
 * such a flow keeps its packets in the queue, and answers are made inside by a raw socket.
 *
 * The sockets inside are made there by init and kept in a small pool. A flow ends when nothing moved for a while, when the
 * program's socket is gone (port unreachable from inside), or when it is swept. */
#include "core/flow_impl.h"
#include "base/clock.h"
#include "base/mem.h"
#include "launcher/launcher.h"
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define BATCH 16
#define DATAGRAM 65536
/* Batches of one direction before others get their turn. */
#define ROUNDS 4
#define POOL_MAX 128
#define POOL_LOW 8
#define POOL_FILL 32
/* How long a first packet waits for a socket, and how often sockets are asked for. */
#define WAIT_NS (5 * LAT_NS_PER_SEC)
#define ASK_NS LAT_NS_PER_SEC
#define DNS_IDLE_NS (30 * LAT_NS_PER_SEC)

struct lat_udp {
	int pool[POOL_MAX];
	unsigned pool_count;
	bool pool_is6;  /* AF_INET6, for both families; AF_INET where the host has no IPv6 */
	uint64_t ask_again_ns;
	struct mmsghdr heads[BATCH];
	struct iovec parts[BATCH];
	uint8_t *buf; /* BATCH * DATAGRAM, anonymous: untouched pages are not there */
};

int lat_udp_new(struct lat_udp **out)
{
	lat_autofree struct lat_udp *u = calloc(1, sizeof(*u));

	if (!u)
		return -ENOMEM;
	u->buf = mmap(NULL, (size_t)BATCH * DATAGRAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (u->buf == MAP_FAILED)
		return -ENOMEM;
	for (int i = 0; i < BATCH; i++) {
		u->parts[i] = (struct iovec){ u->buf + (size_t)i * DATAGRAM, DATAGRAM };
		u->heads[i].msg_hdr = (struct msghdr){ .msg_iov = &u->parts[i], .msg_iovlen = 1 };
	}
	*out = lat_take(&u);
	return 0;
}

void lat_udp_free(struct lat_udp *u)
{
	if (!u)
		return;
	while (u->pool_count)
		close(u->pool[--u->pool_count]);
	munmap(u->buf, (size_t)BATCH * DATAGRAM);
	free(u);
}

static void want_sockets(struct lat_flows *f)
{
	struct lat_udp *u = f->udp;

	if (u->pool_count >= POOL_LOW || f->now_ns < u->ask_again_ns || !f->hooks.want_sockets)
		return;
	u->ask_again_ns = f->now_ns + ASK_NS;
	f->hooks.want_sockets(f->hooks.ctx, POOL_FILL - u->pool_count);
}

void lat_udp_tick(struct lat_flows *f)
{
	want_sockets(f);
}

void lat_flows_add_sockets(struct lat_flows *f, const int *fds, size_t count)
{
	struct lat_udp *u = f->udp;
	struct lat_conn *next;
	int domain = AF_INET6;
	socklen_t len = sizeof(domain);

	f->now_ns = lat_now_ns();
	if (count)
		getsockopt(fds[0], SOL_SOCKET, SO_DOMAIN, &domain, &len);
	u->pool_is6 = domain == AF_INET6;
	u->ask_again_ns = 0;
	for (size_t i = 0; i < count; i++) {
		if (u->pool_count < POOL_MAX)
			u->pool[u->pool_count++] = fds[i];
		else
			close(fds[i]);
	}
	for (struct lat_conn *c = f->live; c && u->pool_count; c = next) {
		next = c->next;
		if (c->state == LAT_CONN_WAITING)
			lat_udp_open(c);
	}
}

static void touch(struct lat_conn *c)
{
	lat_conn_touch(c, c->udp.idle_ns);
}

/* Carries datagrams until none is left or the turn is over. Returns 0, or the negative errno of the reading side. */
static int carry(struct lat_conn *c, struct lat_poll_item *from, struct lat_poll_item *to, uint64_t *bytes)
{
	struct lat_udp *u = c->flows->udp;

	for (int round = 0; round < ROUNDS; round++) {
		int n = recvmmsg(from->fd, u->heads, BATCH, MSG_DONTWAIT, NULL), sent = 0;

		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		for (int i = 0; i < n; i++) {
			u->parts[i].iov_len = u->heads[i].msg_len;
			*bytes += u->heads[i].msg_len;
		}
		/* An error of an earlier datagram is told to the next send: that one is tried again. What a full buffer
		 * does not take is lost, as it would be on the way. */
		for (int tries = 0; sent < n && tries < n + 2; tries++) {
			int r = sendmmsg(to->fd, u->heads + sent, (unsigned)(n - sent), MSG_DONTWAIT | MSG_NOSIGNAL);

			if (r > 0)
				sent += r;
			else if (errno == EAGAIN)
				break;
			else if (tries)
				sent++;
		}
		for (int i = 0; i < n; i++)
			u->parts[i].iov_len = DATAGRAM;
		touch(c);
		if (n < BATCH)
			return 0;
	}
	lat_poller_rearm(c->flows->poller, from);
	return 0;
}

void lat_udp_send(struct lat_conn *c, const uint8_t *payload, size_t size)
{
	/* The first try may only be told an earlier error. */
	if (send(c->udp.out.fd, payload, size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN)
		send(c->udp.out.fd, payload, size, MSG_DONTWAIT | MSG_NOSIGNAL);
	c->info.bytes_out += size;
	touch(c);
}

/* Puts what came from outside into the sandbox by the raw socket. */
static void answer_by_raw(struct lat_conn *c)
{
	uint8_t *buf = c->flows->udp->buf;

	for (int i = 0; i < ROUNDS * BATCH; i++) {
		ssize_t n = recv(c->udp.out.fd, buf, DATAGRAM, MSG_DONTWAIT);

		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) /* an error, told once */
			continue;
		c->info.bytes_in += (uint64_t)n;
		lat_raw_datagram(c, buf, (size_t)n);
		touch(c);
	}
	lat_poller_rearm(c->flows->poller, &c->udp.out);
}

static struct lat_conn *conn_in(struct lat_poll_item *item)
{
	return lat_container_of(item, struct lat_conn, udp.in);
}

static void inside_ready(struct lat_poll_item *item, uint32_t events)
{
	struct lat_conn *c = conn_in(item);
	int r;

	c->flows->now_ns = lat_now_ns();
	r = carry(c, item, &c->udp.out, &c->info.bytes_out);
	/* Nobody listens inside any more; what comes next is a new flow. */
	if (r == -ECONNREFUSED)
		lat_conn_end(c, false);
}

static void outside_ready(struct lat_poll_item *item, uint32_t events)
{
	struct lat_conn *c = lat_container_of(item, struct lat_conn, udp.out);
	uint64_t before = c->info.bytes_in;

	c->flows->now_ns = lat_now_ns();
	if (events & EPOLLERR)
		lat_raw_pass_errors(c, item->fd);
	/* An error is told once, in place of a datagram. */
	if (c->udp.by_raw)
		answer_by_raw(c);
	else if (carry(c, item, &c->udp.in, &c->info.bytes_in) < 0)
		carry(c, item, &c->udp.in, &c->info.bytes_in);
	if (c->key.dport == 53 && c->info.bytes_in != before && c->udp.idle_ns > DNS_IDLE_NS) {
		c->udp.idle_ns = DNS_IDLE_NS;
		touch(c);
	}
}

/* Binds and connects the socket inside. What others sent to that place in between is taken out again: it is not of this
 * flow. */
static int aim_inner(int fd, bool is6, const struct lat_flow *flow)
{
	struct sockaddr_storage at, to;
	socklen_t len = lat_addr_to_sockaddr(&flow->remote, flow->dport, is6, &at);
	int on = 1;

	lat_addr_to_sockaddr(&flow->local, flow->sport, is6, &to);
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    bind(fd, (struct sockaddr *)&at, len) < 0 || connect(fd, (struct sockaddr *)&to, len) < 0)
		return -errno;
	while (recv(fd, NULL, 0, MSG_DONTWAIT | MSG_TRUNC) >= 0)
		;
	return 0;
}

static int open_outer(const struct lat_flow *flow)
{
	struct sockaddr_storage to;
	socklen_t len = lat_addr_to_sockaddr(&flow->remote, flow->dport, false, &to);
	lat_autoclose int fd = socket(to.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int on = 1;

	if (fd < 0)
		return errno == EAFNOSUPPORT ? -ENETUNREACH : -errno;
	if (to.ss_family == AF_INET)
		setsockopt(fd, SOL_IP, IP_RECVERR, &on, sizeof(on));
	else
		setsockopt(fd, SOL_IPV6, IPV6_RECVERR, &on, sizeof(on));
	if (connect(fd, (struct sockaddr *)&to, len) < 0)
		return -errno;
	return lat_take_fd(&fd);
}

void lat_udp_open(struct lat_conn *c)
{
	struct lat_flows *f = c->flows;
	struct lat_udp *u = f->udp;
	int fd, r;

	if (u->pool_count == 0) {
		if (c->state != LAT_CONN_WAITING)
			lat_conn_state(c, LAT_CONN_WAITING, f->now_ns + WAIT_NS);
		want_sockets(f);
		return;
	}
	fd = open_outer(&c->info.flow);
	if (fd < 0) {
		lat_conn_dial_failed(c, -fd);
		return;
	}
	c->udp.out = (struct lat_poll_item){ .fd = fd, .ready = outside_ready };
	c->udp.in = (struct lat_poll_item){ .fd = u->pool[--u->pool_count], .ready = inside_ready };
	r = aim_inner(c->udp.in.fd, u->pool_is6, &c->info.flow);
	if (r == -EADDRINUSE) {
		u->pool[u->pool_count++] = c->udp.in.fd; /* as it was */
		c->udp.in.fd = -1;
		c->udp.by_raw = true;
		r = 0;
	} else if (r == 0) {
		r = lat_poller_add(f->poller, &c->udp.in, EPOLLIN | EPOLLET);
	}
	if (r == 0)
		r = lat_poller_add(f->poller, &c->udp.out, EPOLLIN | EPOLLET);
	if (r < 0) {
		lat_conn_dial_failed(c, -r);
		return;
	}
	c->udp.idle_ns = f->udp_idle_ns;
	lat_conn_state(c, LAT_CONN_RELAYING, 0);
	touch(c);
	f->stats.dialled++;
	f->stats.relayed++;
	want_sockets(f);
	if (c->udp.by_raw) {
		lat_held_repeat(c);
		return;
	}
	lat_held_accept(c, LAT_MARK_ACCEPT);
	inside_ready(&c->udp.in, EPOLLIN);
}

void lat_udp_close(struct lat_conn *c)
{
	struct lat_poll_item *items[] = { &c->udp.in, &c->udp.out };

	for (size_t i = 0; i < LAT_ARRAY_SIZE(items); i++) {
		if (items[i]->fd < 0)
			continue;
		lat_poller_forget(c->flows->poller, items[i]);
		lat_close(&items[i]->fd);
	}
}
