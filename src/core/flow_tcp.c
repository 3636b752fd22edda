/* TCP: the dial outside, and the connection that comes out of the listener once the SYN was let go.
 *
 * Releasing the SYN runs the whole handshake with the program inside the send of the verdict (it is all loopback), so the
 * connection can usually be accepted at once, without another round of the poller. */
#include "core/flow_impl.h"
#include "base/clock.h"
#include "base/mem.h"
#include "launcher/launcher.h"
#include <fcntl.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

/* A SYN that was let go and never became a connection (the program gave up). */
#define ACCEPT_NS (5 * LAT_NS_PER_SEC)
/* Connections that live longer than this get keep-alive probes; the short ones are spared the calls. */
#define KEEPALIVE_AFTER_NS (10 * LAT_NS_PER_SEC)
#define ACCEPT_BATCH 64

static struct lat_conn *conn_of(struct lat_relay *r)
{
	return lat_container_of(r, struct lat_conn, relay);
}

static void count_bytes(struct lat_conn *c)
{
	c->info.bytes_out = c->relay.half[0].bytes;
	c->info.bytes_in = c->relay.half[1].bytes;
}

static void ended(struct lat_relay *r, int err)
{
	lat_conn_end(conn_of(r), false);
}

void lat_tcp_close(struct lat_conn *c, bool reset)
{
	struct lat_poll_item *out = &c->relay.side[1];

	if (c->state == LAT_CONN_RELAYING) {
		count_bytes(c);
		lat_relay_abort(&c->relay);
		return;
	}
	if (out->fd < 0)
		return;
	if (reset)
		lat_socket_reset_on_close(out->fd);
	lat_poller_forget(c->flows->poller, out);
	lat_close(&out->fd);
}

/* On a connection that never leaves the host, a congestion control that paces its packets by timers only slows it. Reno is
 * always there and open to everybody. */
static void dont_pace(const struct lat_flows *f, int fd)
{
	if (f->paced)
		setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", strlen("reno"));
}

static void accept_some(struct lat_flows *f, unsigned most);

static void dialled(struct lat_conn *c)
{
	struct lat_flows *f = c->flows;

	f->stats.dialled++;
	lat_conn_state(c, LAT_CONN_ACCEPTING, f->now_ns + ACCEPT_NS);
	if (c->unbound)
		return;
	lat_held_accept(c, LAT_MARK_ACCEPT);
	accept_some(f, 1); /* one more can be expected now than before */
}

void lat_tcp_accept(struct lat_flows *f)
{
	accept_some(f, 1);
}

/* Asks the kernel how the dial went: a second connect says it without more calls. */
static int dial_result(struct lat_conn *c)
{
	struct sockaddr_storage to;
	socklen_t len = lat_addr_to_sockaddr(&c->info.flow.remote, c->info.flow.dport, false, &to);

	if (connect(c->relay.side[1].fd, (struct sockaddr *)&to, len) == 0 || errno == EISCONN)
		return 0;
	return errno;
}

static void outer_ready(struct lat_poll_item *item, uint32_t events)
{
	struct lat_conn *c = conn_of(lat_container_of(item, struct lat_relay, side[1]));
	int err;

	c->flows->now_ns = lat_now_ns();
	c->seen |= events;
	if (c->state != LAT_CONN_DIALLING)
		return; /* kept in `seen` for the relay */
	err = dial_result(c);
	if (err == 0)
		dialled(c);
	else if (err != EALREADY && err != EINPROGRESS)
		lat_conn_dial_failed(c, err);
}

void lat_tcp_dial(struct lat_conn *c)
{
	struct lat_flows *f = c->flows;
	const struct lat_flow *flow = &c->info.flow;
	struct lat_poll_item *out = &c->relay.side[1];
	struct sockaddr_storage to;
	socklen_t len = lat_addr_to_sockaddr(&flow->remote, flow->dport, false, &to);
	int fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), r;

	if (fd < 0) {
		lat_conn_dial_failed(c, errno == EAFNOSUPPORT ? ENETUNREACH : errno);
		return;
	}
	out->fd = fd;
	out->ready = outer_ready;
	if (lat_addr_is_loopback(&flow->remote))
		dont_pace(f, fd);
	if (connect(fd, (struct sockaddr *)&to, len) < 0 && errno != EINPROGRESS) {
		lat_conn_dial_failed(c, errno);
		return;
	}
	lat_conn_state(c, LAT_CONN_DIALLING, c->deadline_ns);
	/* A near host has answered by now. */
	r = dial_result(c);
	if (r != 0 && r != EALREADY && r != EINPROGRESS) {
		lat_conn_dial_failed(c, r);
		return;
	}
	if (lat_poller_add(f->poller, out, r ? LAT_RELAY_EVENTS | EPOLLOUT : LAT_RELAY_EVENTS) < 0) {
		lat_conn_dial_failed(c, ENOMEM);
		return;
	}
	if (r == 0)
		dialled(c);
}

static void relay(struct lat_conn *c, int inner)
{
	struct lat_flows *f = c->flows;
	int fds[2] = { inner, c->relay.side[1].fd };

	lat_conn_unhash(c);
	lat_conn_state(c, LAT_CONN_RELAYING, UINT64_MAX);
	f->stats.relayed++;
	c->relay.ended = ended;
	if (lat_relay_start(f->relays, &c->relay, fds, (bool[]){ false, true }, c->seen) < 0)
		lat_conn_end(c, true);
}

/* Finds the flow of an accepted connection by its own tuple: source and original destination, as the kernel has them. NULL:
 * none waits for it. */
static struct lat_conn *find_accepted(struct lat_flows *f, int fd, const struct sockaddr_storage *peer, socklen_t peer_len)
{
	struct sockaddr_storage self;
	socklen_t self_len = sizeof(self);
	struct lat_conn_key key = { .proto = IPPROTO_TCP };
	struct lat_conn *c;

	if (getsockname(fd, (struct sockaddr *)&self, &self_len) < 0 ||
	    lat_addr_from_sockaddr((struct sockaddr *)peer, peer_len, &key.local, &key.sport) < 0 ||
	    lat_addr_from_sockaddr((struct sockaddr *)&self, self_len, &key.remote, &key.dport) < 0)
		return NULL;
	c = lat_conn_find(f, &key);
	return c && c->state == LAT_CONN_ACCEPTING ? c : NULL;
}

/* Out of descriptors: the reserve lets the connection be taken out and reset, for left in the listener it would wake us
 * for ever. Its flow ends too, which gives a descriptor back. */
static void accept_reset(struct lat_flows *f)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof(peer);
	struct lat_conn *c;
	int fd;

	f->stats.fd_full++;
	lat_close(&f->reserve);
	fd = accept4(f->listener_item.fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd >= 0) {
		c = find_accepted(f, fd, &peer, len);
		lat_socket_reset_on_close(fd);
		close(fd);
		if (c)
			lat_conn_end(c, true);
	}
	f->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void accept_some(struct lat_flows *f, unsigned most)
{
	for (unsigned i = 0; i < most; i++) {
		struct sockaddr_storage peer;
		socklen_t len = sizeof(peer);
		int fd = accept4(f->listener_item.fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			struct lat_conn *c = find_accepted(f, fd, &peer, len);

			if (c) {
				relay(c, fd);
			} else {
				lat_socket_reset_on_close(fd);
				close(fd);
			}
			continue;
		}
		if (errno == ECONNABORTED || errno == EINTR)
			continue;
		if (errno == EMFILE || errno == ENFILE)
			accept_reset(f);
		return;
	}
}

static void listener_ready(struct lat_poll_item *item, uint32_t events)
{
	struct lat_flows *f = lat_container_of(item, struct lat_flows, listener_item);

	f->now_ns = lat_now_ns();
	accept_some(f, ACCEPT_BATCH);
}

static void keepalive(int fd)
{
	int on = 1, idle = 60, interval = 20, count = 6;

	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

void lat_tcp_tick(struct lat_conn *c)
{
	struct lat_flows *f = c->flows;

	if (c->state != LAT_CONN_RELAYING)
		return;
	if (!c->keepalive && f->now_ns - c->info.started_ns > KEEPALIVE_AFTER_NS) {
		keepalive(c->relay.side[1].fd);
		c->keepalive = true;
	}
	count_bytes(c);
	lat_relay_relax(&c->relay);
}

/* Of new sockets outside. */
static bool default_paces(void)
{
	lat_autoclose int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char name[16] = "";
	socklen_t len = sizeof(name) - 1;

	return fd >= 0 && getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len) == 0 && strncmp(name, "bbr", 3) == 0;
}

int lat_tcp_listener_open(struct lat_flows *f, int fd)
{
	int on = 1;

	/* Accepted sockets inherit all this. */
	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0)
		return -errno;
	f->paced = default_paces();
	dont_pace(f, fd);
	f->listener_item = (struct lat_poll_item){ .fd = fd, .ready = listener_ready };
	return lat_poller_add(f->poller, &f->listener_item, EPOLLIN);
}
